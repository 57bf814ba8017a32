"""Networks: loading, capturing, cutting, importance, profiling and exporting heads."""

from __future__ import annotations

from .calibration import calibration_folder
from .captured_network import CapturedNetwork
from .execution import activations, cpu_threads, on_device
from .export import export_head, export_part
from .graphs.capturing import capture
from .head_importance import HeadImportance, HeadPass
from .importance import Importance
from .loading import LoadedNetwork, load_network
from .profiling import profile
from .weights import load_weights
from .zoo import efficientnet_lite0

__all__ = [
    "CapturedNetwork",
    "HeadImportance",
    "HeadPass",
    "Importance",
    "LoadedNetwork",
    "activations",
    "calibration_folder",
    "capture",
    "cpu_threads",
    "efficientnet_lite0",
    "export_head",
    "export_part",
    "load_network",
    "load_weights",
    "on_device",
    "profile",
]
