"""What the tests of several commands need."""

from __future__ import annotations

import pytest
from toys.bottleneck import toy_network

from isplit_plugin.network import LoadedNetwork


@pytest.fixture
def captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands share one captured network."""
    monkeypatch.setattr(LoadedNetwork, "capture", lambda _loaded: toy_network())
