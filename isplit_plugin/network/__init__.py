"""Networks: loading, capturing, cutting, importance, profiling and exporting heads."""

from __future__ import annotations

from .calibration import LabelledPhoto, calibration_folder
from .captured_network import CapturedNetwork
from .execution import activations, cpu_threads, on_device
from .export import export_head, export_part
from .graphs.capturing import capture
from .head_importance import HeadImportance, HeadPass
from .importance import Importance
from .loading import LoadedNetwork, load_network
from .processes import ONE_PROCESS, Processes, launched_processes
from .profiling import profile
from .transforms.fitted import FOLDS, FittedTransforms, fold_of
from .transforms.fitting import MIN_PHOTOS, fit_transforms
from .weights import load_weights
from .zoo import efficientnet_lite0

__all__ = [
    "FOLDS",
    "MIN_PHOTOS",
    "ONE_PROCESS",
    "CapturedNetwork",
    "FittedTransforms",
    "HeadImportance",
    "HeadPass",
    "Importance",
    "LabelledPhoto",
    "LoadedNetwork",
    "Processes",
    "activations",
    "calibration_folder",
    "capture",
    "cpu_threads",
    "efficientnet_lite0",
    "export_head",
    "export_part",
    "fit_transforms",
    "fold_of",
    "launched_processes",
    "load_network",
    "load_weights",
    "on_device",
    "profile",
]
