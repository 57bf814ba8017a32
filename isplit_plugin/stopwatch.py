"""Milliseconds that have passed."""

from __future__ import annotations

import time


def ms_since(started_s: float) -> float:
    """Milliseconds since a moment of :func:`time.perf_counter`."""
    return (time.perf_counter() - started_s) * 1e3
