"""TorchServe's entry point of a split model; :class:`TailService` does the work."""

from __future__ import annotations

from typing import Any

from isplit_plugin.serving.tail import TailService, keep_loaded

_STATE: dict[str, TailService] = {}


def handle(data: Any, context: Any) -> list[str | bytes] | None:
    """Answer a batch of requests. TorchServe calls once with ``data=None`` to load the model."""
    if data is None:
        _STATE["service"] = TailService(context)
        keep_loaded()
        return None
    return _STATE["service"].handle(data, context)
