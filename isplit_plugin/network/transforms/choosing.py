"""Choosing metric and steps of one split point by what they do to the answer.

The gradient metric is a good guide, not a proof: where it is not the best, another exponent is. So
a few metrics are tried on calibration photos, and the one that takes the fewest bytes at the same
Kullback-Leibler divergence from the full answer is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ...wire import QUALITIES, ROUNDING, Grid
from .closed_form import Basis, BasisFamily, Metric, band_means, relative_widths

METRICS: Final = (Metric(1.0, 1.0), Metric(0.5, 1.0), Metric(0.0, 1.0))
"""The metrics that are tried, the ones that theory favours first."""
TARGET: Final = 0.02
"""The divergence, in nats, at which metrics are compared."""
COARSEST: Final = 0.3
"""The divergence that quality 0 aims at."""
FINEST: Final = 0.003
"""The divergence that the best quality aims at."""
MAX_SPACING: Final = 4

_BITS_EXPONENT: Final = 0.42
"""Bits go with the divergence to the power of minus this, as measured on EfficientNet-Lite0."""
_MARGIN: Final = 0.05
"""By how much another metric must be better than one before it: the sample is small."""

Float32Array = npt.NDArray[np.float32]
Divergence = Callable[[Float32Array], float]
"""From decoded activations (N, C, P) to the mean divergence of the answers from the full ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A few photos at one split point.

    Attributes:
        values: activations (N, C, P).
        gradients: (M, C, P), of log probabilities of drawn classes, in any unit.
        mean: (C, 1) or (C, P).
        grid: of the positions.
    """

    values: Float32Array
    gradients: Float32Array
    mean: Float32Array
    grid: Grid


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """What the calibration photos say about the coefficients of a basis.

    Attributes:
        widths: (C, bands), the relative steps.
        magnitudes: (C, bands), the mean magnitude of a frequency, in widths.
    """

    basis: Basis
    widths: npt.NDArray[np.float64]
    magnitudes: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Steps:
    """The step of quality 0, and the classes between two qualities."""

    step: float
    spacing: int


def scales(basis: Basis, metric: Metric, sample: Sample) -> Scales:
    """Widths and magnitudes of a basis on a sample."""
    grid = sample.grid
    widths = relative_widths(basis.decoder, sample.gradients, grid, metric.band_exponent)
    encoder = basis.encoder.astype(np.float32)
    total = np.zeros((len(encoder), grid.positions), np.float32)
    for item in sample.values:
        total += np.abs(grid.transform(encoder @ (item - sample.mean)))
    return Scales(basis, widths, band_means(total, grid) / len(sample.values) / widths)


def choose(
    family: BasisFamily,
    fitted: Sample,
    other: Sample,
    divergence: Divergence,
    metrics: Sequence[Metric] = METRICS,
) -> tuple[Metric, Steps]:
    """The metric with the fewest bytes at :data:`TARGET`, and its steps.

    Parameters:
        fitted: the sample for widths and scales.
        other: the sample on which bytes and divergence are measured.
        divergence: of decoded activations of ``other``.
    """
    best: tuple[float, Metric, Scales, list[_Point]] | None = None
    for metric in metrics:
        trial = scales(family.basis(metric.exponent), metric, fitted)
        start = 0.5 * float(np.sqrt(trial.basis.variances.mean()))
        points = [_point(trial, other, divergence, start)]
        points.append(_point(trial, other, divergence, _next_step(points[0], TARGET)))
        bits = points[1].bits * (points[1].divergence / TARGET) ** _BITS_EXPONENT
        if best is None or bits < (1 - _MARGIN) * best[0]:
            best = bits, metric, trial, points
    assert best is not None  # noqa: S101  there is at least one metric
    _, metric, trial, points = best
    for target in (COARSEST, FINEST):
        points.append(_point(trial, other, divergence, _next_step(points[1], target)))
    largest = 0.5 * float(np.sqrt(trial.basis.variances.mean()))
    return metric, _steps(points, largest)


@dataclass(frozen=True, slots=True)
class _Point:
    step: float
    bits: float
    divergence: float


def _point(trial: Scales, other: Sample, divergence: Divergence, step: float) -> _Point:
    bits, decoded = _coded(trial, other, step)
    return _Point(step, bits, max(divergence(decoded), 1e-9))


def _next_step(point: _Point, target: float) -> float:
    """A step that comes near a divergence, which grows with the square of the step."""
    return point.step * float(np.clip(np.sqrt(target / point.divergence), 1 / 16, 16))


def _coded(trial: Scales, sample: Sample, step: float) -> tuple[float, Float32Array]:
    """Ideal bits of a photo under a Laplace model, and the decoded activations."""
    grid = sample.grid
    encoder = trial.basis.encoder.astype(np.float32)
    decoder = trial.basis.decoder.astype(np.float32)
    steps = (step * trial.widths)[:, grid.bands].astype(np.float32)
    magnitudes = trial.magnitudes[:, grid.bands].astype(np.float32)
    ratio = step / np.maximum(magnitudes, step / 40)
    zero = -np.log2(-np.expm1(-(1 - ROUNDING) * ratio))
    first = 1 + (1 - ROUNDING) * ratio / np.log(2) - np.log2(-np.expm1(-ratio))
    total = 0.0
    decoded = np.empty_like(sample.values)
    for number, item in enumerate(sample.values):
        scaled = grid.transform(encoder @ (item - sample.mean)) / steps
        levels = np.floor(np.abs(scaled) + ROUNDING)
        bits = np.where(levels == 0, zero, first + (levels - 1) * ratio / np.log(2))
        total += float(bits.sum())
        coefficients = np.copysign(levels, scaled) * steps
        decoded[number] = decoder @ grid.inverse(coefficients) + sample.mean
    return total / len(sample.values), decoded


def _steps(curve: Sequence[_Point], largest: float) -> Steps:
    """Steps that lead from :data:`COARSEST` to :data:`FINEST`.

    ``largest``: the largest step of the best quality, for an answer that hardly depends on the
    activation.
    """
    points = sorted(curve, key=lambda point: point.divergence)
    coarse, fine = (
        float(
            np.exp(
                np.interp(
                    np.log(target),
                    np.log([point.divergence for point in points]),
                    np.log([point.step for point in points]),
                )
            )
        )
        for target in (COARSEST, FINEST)
    )
    if fine > largest:
        coarse, fine = min(coarse, 16 * largest), largest
    classes = 4 * np.log2(max(coarse / fine, 1.0))
    spacing = int(np.clip(np.ceil(classes / QUALITIES[-1]), 1, MAX_SPACING))
    # The middle of the range stays where it is: rounding up widens it at both ends.
    middle = float(np.sqrt(coarse * fine))
    return Steps(middle * 2 ** (spacing * QUALITIES[-1] / 8), spacing)
