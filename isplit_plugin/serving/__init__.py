"""Where the tail runs: archives, the handlers' logic, starting TorchServe and registering models with it.

Names are imported when they are first used: the endpoint's worker loads no torch, the launcher neither torch nor ts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .files import ENDPOINT_MODEL, verify_files
    from .launcher.management import KeyFile, ModelStatus, model_status
    from .launcher.registry import curl_commands, register, scale, unregister
    from .launcher.server import TorchServe
    from .packaging.archive import (
        Built,
        build_archive,
        build_endpoint_archive,
        build_head_bundle,
        package,
    )
    from .packaging.manifest import choose_deployed, make_manifest
    from .settings import default_store_url, store_url

_HOMES = {
    "Built": "packaging",
    "ENDPOINT_MODEL": "files",
    "build_archive": "packaging",
    "build_endpoint_archive": "packaging",
    "build_head_bundle": "packaging",
    "choose_deployed": "packaging",
    "make_manifest": "packaging",
    "package": "packaging",
    "verify_files": "files",
    "KeyFile": "launcher",
    "ModelStatus": "launcher",
    "model_status": "launcher",
    "curl_commands": "launcher",
    "register": "launcher",
    "scale": "launcher",
    "unregister": "launcher",
    "TorchServe": "launcher",
    "default_store_url": "settings",
    "store_url": "settings",
}

__all__ = [
    "ENDPOINT_MODEL",
    "Built",
    "KeyFile",
    "ModelStatus",
    "TorchServe",
    "build_archive",
    "build_endpoint_archive",
    "build_head_bundle",
    "choose_deployed",
    "curl_commands",
    "default_store_url",
    "make_manifest",
    "model_status",
    "package",
    "register",
    "scale",
    "store_url",
    "unregister",
    "verify_files",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
