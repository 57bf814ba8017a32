"""Trained bottlenecks: an encoder on the device, a decoder in front of the tail, and the photos they learn from."""

from __future__ import annotations

from .autoencoder import Autoencoder, AutoencoderConfig
from .budget import Budget, Epoch
from .features import Features, Teacher, gather, teach
from .measuring import measure, quantised_codecs
from .photos import Photos
from .run import train_bottlenecks
from .trained import (
    SUFFIX,
    Bottleneck,
    CodeMeasurement,
    bottleneck_name,
    bottleneck_point,
    decoder_tail,
    encoder_head,
    export_encoder,
    load_bottleneck,
)
from .training import Fitted, fit

__all__ = [
    "SUFFIX",
    "Autoencoder",
    "AutoencoderConfig",
    "Bottleneck",
    "Budget",
    "CodeMeasurement",
    "Epoch",
    "Features",
    "Fitted",
    "Photos",
    "Teacher",
    "bottleneck_name",
    "bottleneck_point",
    "decoder_tail",
    "encoder_head",
    "export_encoder",
    "fit",
    "gather",
    "load_bottleneck",
    "measure",
    "quantised_codecs",
    "teach",
    "train_bottlenecks",
]
