"""The launcher: starts TorchServe, registers models with it and keeps its tokens fresh."""

from __future__ import annotations

from ..files import ENDPOINT_MODEL
from .curl import curl_requests
from .key_file import KeyFile
from .management import ModelStatus, model_status
from .registry import curl_commands, register, scale, unregister
from .server import TorchServe

__all__ = [
    "ENDPOINT_MODEL",
    "KeyFile",
    "ModelStatus",
    "TorchServe",
    "curl_commands",
    "curl_requests",
    "model_status",
    "register",
    "scale",
    "unregister",
]
