"""Moments of live importance, pooled over the sources that computed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ..errors import StoreError
from .live_view import F64, I64, ImportanceRows, place_of, positions

_LARGEST: Final = 1e100
"""Larger means are the result of an overflow."""


@dataclass(frozen=True, eq=False)
class LiveMoments:
    """Live moments of M classes, shapes (M, P).

    Attributes:
        count: observations.
        n: the effective sample size.
        mean, variance: NaN where unknown.
        devices: distinct devices, NaN where requests count by themselves.
    """

    count: F64
    n: F64
    mean: F64
    variance: F64
    devices: F64


def live_moments(
    rows: tuple[ImportanceRows, ...], class_ids: I64, mean0: F64, target: str
) -> LiveMoments:
    """Pool every source of one target, for these classes.

    Sums of different sources add up, because all are relative to the same shift and landmark.

    Raises:
        StoreError: the rows have another number of points than the profile.
    """
    shape = (len(class_ids), len(mean0))
    sums = _Sums(*(np.zeros(shape) for _ in range(5)))
    devices = np.full(shape, np.nan)
    # A fixed order of the rows, so that equal contents give equal sums to the last bit.
    for part in sorted(rows, key=lambda r: (r.source, r.target)):
        if part.count.shape[1] != shape[1]:
            raise StoreError(
                f"importance rows: expected {shape[1]} points as in the profile, "
                f"got {part.count.shape[1]}"
            )
        if part.target == target and len(part.class_ids):
            _add(sums, devices, part, class_ids)
    with np.errstate(all="ignore"):
        # Cauchy-Schwarz: n <= count. The root comes first, because weights may be very large.
        n = (sums.weight / np.sqrt(sums.weight2)) ** 2
        n = np.where(sums.weight > 0, np.minimum(n, sums.observations), 0.0)
        offset = sums.sum1 / sums.weight
        spread = np.maximum(sums.sum2 / sums.weight - offset**2, 0)
        variance = np.where(n > 1, spread * n / (n - 1), np.nan)
        mean = mean0 + offset
    count = sums.observations
    overflowed = ~np.isfinite(n) | (~(np.abs(mean) < _LARGEST) & (n > 0))
    n[overflowed] = 0.0
    count[overflowed] = 0.0
    devices[n == 0] = np.nan
    variance[~np.isfinite(variance)] = np.nan
    return LiveMoments(count, n, np.where(n > 0, mean, np.nan), variance, devices)


class _Sums(NamedTuple):
    """Sums of moments over sources, shapes (M, P); see :class:`ImportanceRows`."""

    observations: F64
    weight: F64
    weight2: F64
    sum1: F64
    sum2: F64


def _add(sums: _Sums, devices: F64, part: ImportanceRows, class_ids: I64) -> None:
    """Add the valid cells of one source in place."""
    rows = positions(np.asarray(part.class_ids, np.int64), class_ids)
    targets = np.flatnonzero(rows >= 0)
    if not len(targets):
        return
    place = place_of(rows[targets], len(part.class_ids))
    into = place_of(targets, len(class_ids))
    moments = (part.count, part.weight, part.weight2, part.sum1, part.sum2)
    cells = _Sums(*(np.asarray(moment, np.float64)[place] for moment in moments))
    valid = (cells.observations > 0) & (cells.weight > 0) & (cells.weight2 > 0)
    for cell in cells:
        valid &= np.isfinite(cell)
    with np.errstate(over="ignore", invalid="ignore"):  # live_moments finds what overflows
        for total, cell in zip(sums, cells, strict=True):
            of_part = total[into]
            total[into] = np.add(of_part, cell, out=of_part, where=valid)
    if part.devices is not None:
        # One device may be behind several sources, so the largest number is a lower bound.
        counts = np.asarray(part.devices, np.float64)[place]
        counts = np.where(valid & (counts > 0), counts, np.nan)
        devices[into] = np.fmax(devices[into], counts)
