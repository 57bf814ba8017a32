"""A store in a file of its own, and a recorder that writes to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isplit_plugin.traffic import Store

sys.path.insert(0, str(Path(__file__).parent))  # toy_traffic, for these tests and for the processes they start

from toy_traffic import manifest, profile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        opened.put_network(manifest(), profile())
        yield opened
