"""Rank statistics and bootstrap intervals.

A statistic that does not exist, such as the correlation with a constant series, is NaN.
"""

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
    """A value and the ends of its 95 % interval; NaN where one does not exist."""

    value: float
    low: float
    high: float


def average_ranks(values: npt.ArrayLike) -> Array:
    """Ranks from 1; equal values share the mean of their ranks."""
    x = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rho: Pearson's correlation of the average ranks."""
    ranks_a, ranks_b = average_ranks(a), average_ranks(b)
    return _pearson(ranks_a, ranks_b) if len(ranks_a) > 1 else float("nan")


def kendall(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Kendall's tau-b, which corrects for ties."""
    signs_a, signs_b = _pair_signs(a), _pair_signs(b)
    upper = np.triu_indices(len(signs_a), 1)
    signs_a, signs_b = signs_a[upper], signs_b[upper]
    scale = float(np.sqrt(float((signs_a != 0).sum()) * float((signs_b != 0).sum())))
    return float((signs_a * signs_b).sum() / scale) if scale > 0 else float("nan")


def partial_spearman(a: npt.ArrayLike, b: npt.ArrayLike, given: npt.ArrayLike) -> float:
    """Spearman's rho of ``a`` and ``b`` with ``given`` held fixed.

    It is Pearson's correlation of the residuals that remain when the ranks of ``a`` and of ``b``
    are regressed on the ranks of ``given``.
    """
    ranks = [average_ranks(series) for series in (a, b)]
    regressor = average_ranks(given)
    if len(regressor) < 4:
        return float("nan")
    regressor = regressor - regressor.mean()
    if not regressor.any():
        return _pearson(*ranks)
    return _pearson(*(_residuals(series, regressor) for series in ranks))


def within_groups(
    a: npt.ArrayLike, b: npt.ArrayLike, groups: Sequence[object]
) -> tuple[float, int]:
    """(concordant - discordant) / pairs, over the pairs whose members share a group.

    Also returns the number of pairs; pairs that are tied in one of the series do not count.
    """
    same_group = np.asarray([[g == h for h in groups] for g in groups], dtype=bool)
    concordance = (_pair_signs(a) * _pair_signs(b))[np.triu(same_group, 1)]
    pairs = int((concordance != 0).sum())
    return (float(concordance.sum() / pairs), pairs) if pairs else (float("nan"), 0)


def interval(value: float, resampled: npt.ArrayLike, *, level: float = 0.95) -> Estimate:
    """A value with the percentile interval of its bootstrap resamples.

    Resamples that are NaN are left out. If fewer than half are left, there is no interval.
    """
    values = np.asarray(resampled, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) < max(2, len(values) / 2) or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def _pearson(a: Array, b: Array) -> float:
    a = a - a.mean()
    b = b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else float("nan")


def _pair_signs(values: npt.ArrayLike) -> Array:
    """(n, n): the sign of the difference of each pair."""
    x = np.asarray(values, dtype=np.float64)
    return np.sign(x[:, None] - x)


def _residuals(ranks: Array, regressor: Array) -> Array:
    """What a linear regression on a centred regressor leaves of a series."""
    centred = ranks - ranks.mean()
    residuals = centred - regressor * (regressor @ centred) / (regressor @ regressor)
    # A series that is a function of the regressor leaves rounding errors, which correlate with
    # anything.
    if residuals @ residuals <= 1e-9 * max(centred @ centred, 1e-30):
        return np.zeros_like(residuals)
    return np.asarray(residuals, dtype=np.float64)
