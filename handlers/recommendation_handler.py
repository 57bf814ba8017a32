"""TorchServe's entry point of the endpoint `isplit`. The logic is :class:`isplit_plugin.serving.endpoint.Endpoint`."""

from __future__ import annotations

from typing import Any

from isplit_plugin.serving.endpoint import Endpoint

_STATE: dict[str, Endpoint] = {}


def handle(data: Any, context: Any) -> list[str] | None:
    """Called once with ``data=None`` to load the endpoint, then with one dict per request of a batch."""
    if data is None:
        _STATE["endpoint"] = Endpoint(context)
        return None
    return _STATE["endpoint"].handle(data, context)
