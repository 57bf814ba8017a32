"""Bottlenecks: training, measuring and deploying a small code for one split point.

:func:`train_bottlenecks` does everything from photos to files. The other functions are its steps.
"""

from __future__ import annotations

from .autoencoder import Autoencoder, AutoencoderConfig
from .budget import CLOSED_FORM, STARTS, Budget
from .features import Features, Targets, compute_features, compute_targets
from .fitting import FitResult, fit
from .grid import Grid
from .loading import load_bottleneck
from .measuring import measure_codes, quantised_codecs
from .parts import bottleneck_point, decoder_tail, encoder_head, export_encoder
from .photos import Photos, input_batches
from .stages import EpochResult
from .trained import BOTTLENECK_SUFFIX, Bottleneck, CodeMeasurement, bottleneck_name
from .training import train_bottlenecks

__all__ = [
    "BOTTLENECK_SUFFIX",
    "CLOSED_FORM",
    "STARTS",
    "Autoencoder",
    "AutoencoderConfig",
    "Bottleneck",
    "Budget",
    "CodeMeasurement",
    "EpochResult",
    "Features",
    "FitResult",
    "Grid",
    "Photos",
    "Targets",
    "bottleneck_name",
    "bottleneck_point",
    "compute_features",
    "compute_targets",
    "decoder_tail",
    "encoder_head",
    "export_encoder",
    "fit",
    "input_batches",
    "load_bottleneck",
    "measure_codes",
    "quantised_codecs",
    "train_bottlenecks",
]
