"""From scales and steps to a finished transform: classes, frequency tables and centroids."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ...schema import SplitPoint
from ...wire import ALPHABET, QUALITIES, Transform, symbols_of
from .choosing import Sample, Scales, Steps
from .statistics import PointStatistics
from .tables import TABLES, classes_of, fitted_tables

_COUNTED: Final = 3_000_000
"""About how many coefficients the tables are counted on at each quality."""
_MIN_COUNT: Final = 50
"""The fewest coefficients from which a centroid is taken."""
_LIMIT: Final = float(np.finfo(np.float32).max)
_SATURATED: Final = 1e-3
"""The share of values at the maximum from which it is a limit of the activation, as in ReLU6."""


def finished_transform(
    point: SplitPoint,
    network_hash: str,
    statistics: PointStatistics,
    *,
    scales: Scales,
    steps: Steps,
    sample: Sample,
) -> Transform:
    """The transform of a split point, with gains of 1. ``sample``: where its tables are counted."""
    classes = classes_of(scales.magnitudes, steps.step)
    finest = classes.astype(np.int64) + QUALITIES[-1] * steps.spacing
    (coded,) = np.nonzero((finest > 0).any(axis=1))
    kept = max(int(coded[-1]) + 1 if len(coded) else 0, 1)
    basis = scales.basis
    untabled = Transform(
        network_hash=network_hash,
        split_point=point.name,
        shape=tuple(point.shape),
        channel_axis=point.channel_axis,
        encoder=_float16(basis.encoder[:kept]),
        decoder=_float16(basis.decoder[:, :kept]),
        mean=statistics.mean.numpy().astype(np.float32),
        widths=_float16(np.clip(scales.widths[:kept], 1e-3, 1e3)),
        classes=classes[:kept],
        tables=fitted_tables(np.zeros((TABLES, ALPHABET), np.int64)),
        centroids=np.zeros((TABLES, 3), np.float16),
        gains=np.ones(len(QUALITIES), np.float32),
        step=steps.step,
        spacing=steps.spacing,
        low=0.0 if statistics.low >= 0 else -_LIMIT,
        high=statistics.high if statistics.at_high >= _SATURATED else _LIMIT,
    )
    counts = _Counts()
    items = max(_COUNTED // max(sample.values[0].size, 1), 4)
    for item in sample.values[:items]:
        for quality in QUALITIES:
            counts.add(untabled, item, quality)
    return replace(
        untabled, tables=fitted_tables(counts.symbols), centroids=_float16(counts.centroids())
    )


class _Counts:
    """Symbols, and the rests of magnitudes 1, 2 and more, by class."""

    def __init__(self) -> None:
        self.symbols = np.zeros((TABLES, ALPHABET), np.int64)
        self._rests = np.zeros((TABLES, 3))
        self._count = np.zeros((TABLES, 3), np.int64)

    def add(self, transform: Transform, values: npt.NDArray[np.float32], quality: int) -> None:
        """Count the coefficients of one item (C, P)."""
        plan = transform.plan(quality)
        scaled = np.abs(plan.scaled(values))
        magnitudes = np.abs(plan.rounded(scaled)).astype(np.int64)
        flat = plan.rows * ALPHABET + symbols_of(magnitudes)
        self.symbols += np.bincount(flat, minlength=TABLES * ALPHABET).reshape(TABLES, ALPHABET)
        (present,) = np.nonzero(magnitudes)
        kind = plan.rows[present] * 3 + np.minimum(magnitudes[present], 3) - 1
        rests = scaled[present] - magnitudes[present]
        self._rests += np.bincount(kind, weights=rests, minlength=TABLES * 3).reshape(TABLES, 3)
        self._count += np.bincount(kind, minlength=TABLES * 3).reshape(TABLES, 3)

    def centroids(self) -> npt.NDArray[np.float64]:
        """The mean rests (T, 3); 0 where there are few."""
        known = self._count >= _MIN_COUNT
        means = np.where(known, self._rests / np.maximum(self._count, 1), 0)
        return np.asarray(np.clip(means, -0.5, 0.5))


def _float16(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    return np.ascontiguousarray(np.clip(values, -60000, 60000).astype(np.float16))
