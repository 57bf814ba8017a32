"""Rank statistics, checked against scipy in the tests. NaN where a statistic does not exist (a constant series)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Estimate",
    "average_ranks",
    "interval",
    "kendall",
    "partial_spearman",
    "spearman",
    "within_groups",
]

Array = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and its 95 % bootstrap interval; NaN where it does not exist."""

    value: float
    low: float
    high: float


def average_ranks(values: npt.ArrayLike) -> Array:
    """Ranks from 1 on; equal values share the mean of their ranks."""
    x = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def _pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / size, -1, 1)) if size > 0 else float("nan")


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rho: Pearson's correlation of average ranks."""
    x, y = average_ranks(a), average_ranks(b)
    return _pearson(x, y) if len(x) > 1 else float("nan")


def kendall(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Kendall's tau-b, which corrects for ties."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    upper = np.triu_indices(len(x), 1)
    dx, dy = np.sign(x[:, None] - x)[upper], np.sign(y[:, None] - y)[upper]
    size = float(np.sqrt(float((dx != 0).sum()) * float((dy != 0).sum())))
    return float((dx * dy).sum() / size) if size > 0 else float("nan")


def partial_spearman(a: npt.ArrayLike, b: npt.ArrayLike, given: npt.ArrayLike) -> float:
    """Spearman's rho of ``a`` and ``b`` that is left when ``given`` is held fixed: the correlation of the residuals of
    their ranks after a linear regression on the ranks of ``given``."""
    x, y, z = average_ranks(a), average_ranks(b), average_ranks(given)
    if len(x) < 4:
        return float("nan")
    z = z - z.mean()
    if not z.any():
        return _pearson(x, y)
    left = []
    for ranks in (x, y):
        centred = ranks - ranks.mean()
        rest = centred - z * (z @ centred) / (z @ z)
        # A series that is a function of `given` leaves rounding errors, which correlate with anything.
        left.append(
            np.zeros_like(rest) if rest @ rest <= 1e-9 * max(centred @ centred, 1e-30) else rest
        )
    return _pearson(left[0], left[1])


def within_groups(
    a: npt.ArrayLike, b: npt.ArrayLike, groups: Sequence[object]
) -> tuple[float, int]:
    """(concordant - discordant) / pairs over all pairs within a group, and the number of pairs that are untied in both.

    Kendall's tau with depth, resolution and width held fixed, pooled over groups as small as two.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    same = np.asarray([[g == h for h in groups] for g in groups], dtype=bool)
    upper = np.triu(same, 1)
    agree = (np.sign(x[:, None] - x) * np.sign(y[:, None] - y))[upper]
    pairs = int((agree != 0).sum())
    return (float(agree.sum() / pairs), pairs) if pairs else (float("nan"), 0)


def interval(value: float, resampled: npt.ArrayLike, *, level: float = 0.95) -> Estimate:
    """A value with the percentile interval of its bootstrap resamples. NaN ones are left out; where less than half of
    them is left, there is no interval."""
    found = np.asarray(resampled, dtype=np.float64)
    kept = found[np.isfinite(found)]
    if len(kept) < max(2, len(found) / 2) or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
