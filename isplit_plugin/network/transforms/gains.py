"""Choosing the gains of a transform: by how much the decoder makes up for what was not coded.

The codec rounds towards zero, and the decoder of least squares takes what it does not know for the
mean. So decoded activations are nearer to their mean than the real ones, and the answers less sure.
One number for each quality puts that right. It is chosen by what it does to the answers of photos
that the transform has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ...wire import QUALITIES, Transform
from .choosing import Divergence, Float32Array

MEASURED: Final = (1, 3, 5, 7)
"""The qualities at which gains are tried; the others lie between them."""
GAINS: Final = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5)
"""The gains that are tried, until two in a row are worse."""
PHOTOS: Final = 16
"""Photos of each fold that gains are tried on, at most."""

_SLACK: Final = 0.05
"""How much worse than the best a smaller gain may be. Too large a gain costs more than too small."""

Curves = npt.NDArray[np.float64]
"""(MEASURED, GAINS), sums of divergences; infinite where a gain was not tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A transform, and photos that it has not seen.

    Attributes:
        values: activations (N, C, P).
        divergence: of decoded activations of these photos.
    """

    transform: Transform
    values: Float32Array
    divergence: Divergence


def gain_curves(trials: Sequence[Trial]) -> list[Curves]:
    """What gains do to the answers, for each trial. All trials try the same gains."""
    curves = [np.full((len(MEASURED), len(GAINS)), np.inf) for _ in trials]
    for row, quality in enumerate(MEASURED):
        decoded = [_deviations(trial, quality) for trial in trials]
        best, worse = np.inf, 0
        for column, gain in enumerate(GAINS):
            for curve, trial, deviations in zip(curves, trials, decoded, strict=True):
                plan = trial.transform.plan(quality)
                values = plan.activation(np.float32(gain) * deviations)
                curve[row, column] = len(values) * trial.divergence(values)
            total = sum(float(curve[row, column]) for curve in curves)
            worse = worse + 1 if total >= best else 0
            best = min(best, total)
            if worse == 2:
                break
    return curves


def chosen_gains(curves: Sequence[Curves]) -> Float32Array:
    """The gain of each quality: the smallest that is about as good as the best."""
    total = np.sum(curves, axis=0)
    chosen = [GAINS[int(np.argmax(row <= (1 + _SLACK) * row.min()))] for row in total]
    gains = np.exp(np.interp(QUALITIES, MEASURED, np.log(chosen)))
    return np.asarray(gains, np.float32)


def _deviations(trial: Trial, quality: int) -> Float32Array:
    """Decoded activations less their means, (N, C, P)."""
    plan = trial.transform.plan(quality)
    return np.stack([plan.deviation(plan.rounded(plan.scaled(item))) for item in trial.values])
