"""All tests of this folder retry without waiting."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _short_backoff(short_backoff: None) -> None:
    pass
