"""The toy network's bundle, and a server for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isplit_plugin.client import SplitClient, transport
from toys.client import Server, bundle_files, write_zip


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zip(tmp_path_factory.mktemp("bundle") / "toy.head.zip", bundle_files())


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.state.stop.set()
            running.shutdown()
            thread.join()


@pytest.fixture
def connect(server: Server, bundle: Path) -> Iterator[Callable[..., SplitClient]]:
    """Makes clients of the server; they are closed at the end."""
    made: list[SplitClient] = []

    def make(**options: Any) -> SplitClient:
        made.append(
            SplitClient(
                options.pop("url", server.url),
                **{"model": "toy", "head": bundle, "raw_scores": True, **options},
            )
        )
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait a millisecond."""
    monkeypatch.setattr(transport, "_BACKOFF_S", 0.001)
