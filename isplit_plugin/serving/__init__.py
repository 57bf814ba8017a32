"""Where the tail runs: archives, the handlers' logic, starting TorchServe and registering models with it.

Names are imported when they are first used: the endpoint's worker loads no torch, the launcher neither torch nor ts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .archive import Built, build_archive, build_endpoint_archive, build_head_bundle, package
    from .archive_files import ENDPOINT_MODEL, verify_files
    from .deployment import choose_deployed, make_manifest
    from .management import KeyFile, ModelStatus, model_status
    from .registry import curl_commands, register, scale, unregister
    from .server import TorchServe
    from .settings import default_store_url, store_url

_HOMES = {
    "Built": "archive",
    "ENDPOINT_MODEL": "archive_files",
    "build_archive": "archive",
    "build_endpoint_archive": "archive",
    "build_head_bundle": "archive",
    "choose_deployed": "deployment",
    "make_manifest": "deployment",
    "package": "archive",
    "verify_files": "archive_files",
    "KeyFile": "management",
    "ModelStatus": "management",
    "model_status": "management",
    "curl_commands": "registry",
    "register": "registry",
    "scale": "registry",
    "unregister": "registry",
    "TorchServe": "server",
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
