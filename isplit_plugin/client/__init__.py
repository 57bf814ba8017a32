"""The device: runs a head, sends the activation, asks for advice. Loads neither torch nor an HTTP library by itself."""

from __future__ import annotations

from .bundle import HeadBundle
from .labels import LabelReport, send_labels
from .recommendations import fetch_recommendation
from .runtimes import RUNTIMES, HeadRuntime, OnnxHead, RuntimeFactory, TorchHead
from .splitclient import SplitClient
from .transport import Transport

__all__ = [
    "RUNTIMES",
    "HeadBundle",
    "HeadRuntime",
    "LabelReport",
    "OnnxHead",
    "RuntimeFactory",
    "SplitClient",
    "TorchHead",
    "Transport",
    "fetch_recommendation",
    "send_labels",
]
