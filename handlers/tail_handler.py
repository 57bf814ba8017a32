"""TorchServe's entry point of a split model. The logic is :class:`isplit_plugin.serving.tail.TailService`."""

from __future__ import annotations

from typing import Any

from isplit_plugin.serving.tail import TailService

_STATE: dict[str, TailService] = {}


def handle(data: Any, context: Any) -> list[str | bytes] | None:
    """Called once with ``data=None`` to load the model, then with one dict per request of a batch."""
    if data is None:
        _STATE["service"] = TailService(context)
        return None
    return _STATE["service"].handle(data, context)
