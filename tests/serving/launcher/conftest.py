"""A management API for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from toys.management import ManagementServer, management_server


@pytest.fixture
def server() -> Iterator[ManagementServer]:
    with management_server() as running:
        yield running
