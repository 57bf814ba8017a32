"""Frozen value types that every package shares.

No I/O, no engine: numpy and the standard library only.
"""

from __future__ import annotations

from .cut import (
    IMAGE_CODECS,
    INPUT,
    MAX_QUALITY,
    NO_CODEC,
    ON_DEVICE,
    OUTPUT,
    PHOTO_CODECS,
    PHOTO_FILE,
    TRANSFORM_CODEC,
    Cut,
)
from .network import (
    BOTTLENECK_MARK,
    MANIFEST_FORMAT,
    BottleneckPoint,
    Macs,
    Manifest,
    Preprocessing,
    SplitPoint,
)
from .prediction import FloatArray, Observation, Prediction, Timings, TopClass
from .recommendation import (
    LATEST_S,
    OBJECTIVES,
    Candidate,
    ClassShare,
    CurvePoint,
    CutExit,
    RatedCut,
    Recommendation,
    StandingPick,
)
from .refinement import COARSE_QUALITY, FINE_QUALITIES, Refinement
from .typed import filled
from .version import version_key

__all__ = [
    "BOTTLENECK_MARK",
    "COARSE_QUALITY",
    "FINE_QUALITIES",
    "IMAGE_CODECS",
    "INPUT",
    "LATEST_S",
    "MANIFEST_FORMAT",
    "MAX_QUALITY",
    "NO_CODEC",
    "OBJECTIVES",
    "ON_DEVICE",
    "OUTPUT",
    "PHOTO_CODECS",
    "PHOTO_FILE",
    "TRANSFORM_CODEC",
    "BottleneckPoint",
    "Candidate",
    "ClassShare",
    "CurvePoint",
    "Cut",
    "CutExit",
    "FloatArray",
    "Macs",
    "Manifest",
    "Observation",
    "Prediction",
    "Preprocessing",
    "RatedCut",
    "Recommendation",
    "Refinement",
    "SplitPoint",
    "StandingPick",
    "Timings",
    "TopClass",
    "filled",
    "version_key",
]
