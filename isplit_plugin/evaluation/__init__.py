"""Prediction against measurement: predictors, rank statistics, naive rivals. Figures need matplotlib: ``.figures``."""

from __future__ import annotations

from .analysis import Measured, Resamples, Score, score
from .classes import class_choice
from .evaluate import Settings, candidates, evaluate, save
from .predictors import PREDICTORS, Context, register
from .ranks import Estimate, kendall, partial_spearman, spearman
from .render import render
from .rivals import Rival, codec_rivals, image_rivals

__all__ = [
    "PREDICTORS",
    "Context",
    "Estimate",
    "Measured",
    "Resamples",
    "Rival",
    "Score",
    "Settings",
    "candidates",
    "class_choice",
    "codec_rivals",
    "evaluate",
    "image_rivals",
    "kendall",
    "partial_spearman",
    "register",
    "render",
    "save",
    "score",
    "spearman",
]
