"""Trained bottlenecks: an encoder on the device, a decoder in front of the tail, and the photos they learn from."""

from __future__ import annotations

from .budget import Budget, Epoch
from .features import Features, Teacher, gather, teach
from .measuring import measure, quantised_codecs
from .modules import Bottleneck, BottleneckConfig
from .photos import Photos
from .run import train_bottlenecks
from .training import Fitted, fit
from .variant import (
    SUFFIX,
    CodeMeasure,
    Variant,
    decoder_tail,
    encoder_head,
    export_encoder,
    load_bottleneck,
    place_of,
    variant_name,
)

__all__ = [
    "SUFFIX",
    "Bottleneck",
    "BottleneckConfig",
    "Budget",
    "CodeMeasure",
    "Epoch",
    "Features",
    "Fitted",
    "Photos",
    "Teacher",
    "Variant",
    "decoder_tail",
    "encoder_head",
    "export_encoder",
    "fit",
    "gather",
    "load_bottleneck",
    "measure",
    "place_of",
    "quantised_codecs",
    "teach",
    "train_bottlenecks",
    "variant_name",
]
