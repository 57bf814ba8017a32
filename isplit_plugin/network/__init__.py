"""What is split: loading and capture, split points, head and tail, importance, profiling, export."""

from __future__ import annotations

from .calibration import calibration_folder
from .capture_graph import capture
from .captured_network import CapturedNetwork, load
from .export import export_head
from .head_importance import HeadImportance, HeadPass, head_importance
from .importance import Importance
from .loading import LoadedNetwork, load_network
from .profiling import profile

__all__ = [
    "CapturedNetwork",
    "HeadImportance",
    "HeadPass",
    "Importance",
    "LoadedNetwork",
    "calibration_folder",
    "capture",
    "export_head",
    "head_importance",
    "load",
    "load_network",
    "profile",
]
