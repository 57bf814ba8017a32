"""Shared by all tests: one thread for torch, so that figures agree between runs and workers do not
fight for cores.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from toys.polling import until

if TYPE_CHECKING:
    from toys.postgres import Postgres

os.environ.setdefault("OMP_NUM_THREADS", "1")
PAGES = Path(__file__).parent / "docs"

# Fixtures that tests of several folders use.
pytest_plugins = [
    "toys.bottleneck_fixtures",
    "toys.client_fixtures",
    "toys.codec_package",
    "toys.wheel",
]

# No deadline: cores are shared, and a test must not fail because another one is running.
# The same inputs in every run: what passes for its author passes for everybody. `make properties`
# looks for new ones.
settings.register_profile("isplit", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile("isplit")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, started for the first test that asks for it."""
    from toys.postgres import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture
def store_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a new store, which workers that start in this test use."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("ISPLIT_STORE", url)
    return url


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    """What a worker in this process kept out of the garbage collection comes back to it."""
    yield
    gc.unfreeze()


@pytest.fixture
def within_an_hour() -> None:
    """For what is counted by the hour: no hour ends within the test."""
    until(lambda: time.time() % 3600 < 3480, 180.0)


def _seed(name: str) -> None:
    """The same random numbers in every run, whatever ran before in this process."""
    number = zlib.crc32(name.encode())
    random.seed(number)
    np.random.seed(number)
    if "torch" in sys.modules:  # importing it here would make light tests heavy
        sys.modules["torch"].default_generator.manual_seed(number)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    _seed(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    _seed(item.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a slip shows within a minute, the servers start last. Of the slow ones the
    pages of documentation go first: they take minutes, and two processes are to end together.
    """
    items.sort(
        key=lambda item: (
            item.get_closest_marker("server") is not None,
            item.get_closest_marker("slow") is not None,
            PAGES not in item.path.parents,
        )
    )
