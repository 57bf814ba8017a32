"""The launcher: starts TorchServe, registers models with it and keeps its tokens fresh."""

from __future__ import annotations

from ..files import ENDPOINT_MODEL
from ..model_store import archive_identity, find_archives
from .curl import curl_requests
from .key_file import KeyFile
from .management import ModelStatus, model_status, model_versions
from .ports import check_port
from .registry import curl_commands, register, scale, set_default, unregister
from .server import TorchServe

__all__ = [
    "ENDPOINT_MODEL",
    "KeyFile",
    "ModelStatus",
    "TorchServe",
    "archive_identity",
    "check_port",
    "curl_commands",
    "curl_requests",
    "find_archives",
    "model_status",
    "model_versions",
    "register",
    "scale",
    "set_default",
    "unregister",
]
