"""The tail handler with statistics that a request can turn off, in one worker.

The benchmark `throughput` puts it into an archive in place of ``handlers/tail_handler.py``. Two
workers of the same model differ by up to a fifth in speed, by where their memory lies. So one worker
has to do both.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from isplit_plugin.serving import replies
from isplit_plugin.serving.tail import TailService, keep_loaded
from isplit_plugin.serving.tail.statistics import Statistics

HEADER = "X-Statistics"
"""``off``: the request is not counted. ``flush``: it only has everything written that was counted."""
_STATE: dict[str, TailService] = {}
_STATISTICS: dict[str, Any] = {}


class _Off(Statistics):
    """No statistics, while the sampler of the others still knows that the worker is busy."""

    def __init__(self, on: Statistics) -> None:
        self._on = on
        self._recorder = self._sampler = self._labels = self._exits = None

    def busy(self) -> AbstractContextManager[None]:
        return self._on.busy()


def handle(data: Any, context: Any) -> list[str | bytes] | None:
    """Answer a batch of one request."""
    if data is None:
        service = TailService(context)
        _STATE["service"] = service
        # A block takes about as long as there is between two flushes, and asks for its own.
        service._statistics._recorder._flush_s = 3600.0  # type: ignore[union-attr]
        _STATISTICS["on"] = service._statistics
        _STATISTICS["off"] = _Off(service._statistics)
        keep_loaded()
        return None
    service = _STATE["service"]
    mode = replies.request_headers(context, 0).get(HEADER, "on")
    if mode == "flush":
        return [str(_STATISTICS["on"]._recorder.flush(timeout_s=30.0))]
    service._statistics = _STATISTICS[mode]
    return service.handle(data, context)
