"""Evaluation: which predictor of a bottleneck's accuracy to trust, and what training gains.

:func:`evaluate` trains and measures bottlenecks at every split point and compares predictors and
baselines with them; :func:`render`, :func:`save`, :func:`bytes_figure` and
:func:`prediction_figure` write its result. :func:`register` adds a predictor.
"""

from __future__ import annotations

from .baselines import Baseline, codec_baselines, image_baselines
from .bootstrap import MeasuredAnswers, Resamples
from .classes import class_choice
from .figures import bytes_figure, prediction_figure
from .predictors import PREDICTORS, Predictor, PredictorContext, profile_predictions, register
from .ranks import Estimate, interval
from .result import save
from .scores import Score, score_predictor
from .selection import candidates
from .settings import Settings
from .study import evaluate
from .tables import (
    baselines_table,
    classes_table,
    markdown_table,
    points_table,
    predictors_table,
    render,
)

__all__ = [
    "PREDICTORS",
    "Baseline",
    "Estimate",
    "MeasuredAnswers",
    "Predictor",
    "PredictorContext",
    "Resamples",
    "Score",
    "Settings",
    "baselines_table",
    "bytes_figure",
    "candidates",
    "class_choice",
    "classes_table",
    "codec_baselines",
    "evaluate",
    "image_baselines",
    "interval",
    "markdown_table",
    "points_table",
    "prediction_figure",
    "predictors_table",
    "profile_predictions",
    "register",
    "render",
    "save",
    "score_predictor",
]
