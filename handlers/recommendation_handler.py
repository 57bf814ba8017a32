"""TorchServe's entry point of the model `isplit`; :class:`Endpoint` does the work."""

from __future__ import annotations

from typing import Any

from isplit_plugin.serving.endpoint import Endpoint, keep_loaded

_STATE: dict[str, Endpoint] = {}


def handle(data: Any, context: Any) -> list[str] | None:
    """Answer a batch of requests. TorchServe calls once with ``data=None`` to load the endpoint."""
    if data is None:
        _STATE["endpoint"] = Endpoint(context)
        keep_loaded()
        return None
    return _STATE["endpoint"].handle(data, context)
