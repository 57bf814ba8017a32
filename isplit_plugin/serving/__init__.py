"""Where the tail runs: archives, the handlers' logic, starting TorchServe and registering models with it.

Names are imported when they are first used: the endpoint's worker loads no torch, the launcher neither torch nor ts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .management import KeyFile, ModelStatus, model_status
    from .register import curl_commands, register, scale, unregister
    from .server import TorchServe

_HOMES = {
    "KeyFile": "management",
    "ModelStatus": "management",
    "model_status": "management",
    "curl_commands": "register",
    "register": "register",
    "scale": "register",
    "unregister": "register",
    "TorchServe": "server",
}

__all__ = [
    "KeyFile",
    "ModelStatus",
    "TorchServe",
    "curl_commands",
    "model_status",
    "register",
    "scale",
    "unregister",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
