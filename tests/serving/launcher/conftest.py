"""A management API for each test."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from toys.management import ManagementServer


@pytest.fixture
def server() -> Iterator[ManagementServer]:
    with ManagementServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
