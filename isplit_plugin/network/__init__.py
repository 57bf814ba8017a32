"""Networks: loading, capturing, cutting, importance, profiling and exporting heads."""

from __future__ import annotations

from .calibration import LabelledPhoto, calibration_folder
from .captured_network import CapturedNetwork
from .correctors.corrector import Corrector
from .correctors.corrector_file import (
    corrector_sha256,
    load_correctors,
    pack_correctors,
    save_correctors,
    unpack_correctors,
)
from .correctors.fitted import CorrectorFit, FittedCorrectors
from .correctors.fitting import fit_correctors
from .execution import activations, cpu_threads, on_device
from .export import export_head, export_part
from .graphs.capturing import capture
from .head_importance import HeadImportance, HeadPass
from .importance import Importance
from .int8.heads import Int8Heads
from .int8.heads_file import load_int8_heads, save_int8_heads
from .int8.quantising import quantise_heads
from .loading import LoadedNetwork, load_network
from .processes import ONE_PROCESS, Processes, launched_processes
from .profiling import profile
from .shared_weights import Precision, share_weights
from .transforms.closed_form import BasisFamily
from .transforms.fitted import FOLDS, FittedTransforms, fold_of
from .transforms.fitting import MIN_PHOTOS, fit_transforms
from .transforms.statistics import PointStatistics
from .weights import load_weights
from .zoo import efficientnet_lite0

__all__ = [
    "FOLDS",
    "MIN_PHOTOS",
    "ONE_PROCESS",
    "BasisFamily",
    "CapturedNetwork",
    "Corrector",
    "CorrectorFit",
    "FittedCorrectors",
    "FittedTransforms",
    "HeadImportance",
    "HeadPass",
    "Importance",
    "Int8Heads",
    "LabelledPhoto",
    "LoadedNetwork",
    "PointStatistics",
    "Precision",
    "Processes",
    "activations",
    "calibration_folder",
    "capture",
    "corrector_sha256",
    "cpu_threads",
    "efficientnet_lite0",
    "export_head",
    "export_part",
    "fit_correctors",
    "fit_transforms",
    "fold_of",
    "launched_processes",
    "load_correctors",
    "load_int8_heads",
    "load_network",
    "load_weights",
    "on_device",
    "pack_correctors",
    "profile",
    "quantise_heads",
    "save_correctors",
    "save_int8_heads",
    "share_weights",
    "unpack_correctors",
]
