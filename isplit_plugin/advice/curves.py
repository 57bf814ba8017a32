"""Class-conditional curves: the profile as a prior, shrunk towards by what live traffic has shown.

Empirical Bayes with credibility weights (Buhlmann 1967; Robbins 1956). At every point of the curve, on raw moments::

    profile(c) = (n_c mean_c + k effect_c all) / (n_c + k)      a class that the profile hardly knows leans on all
    value(c)   = (n_l mean_l + k profile(c))   / (n_l + k)      classes; live means lean on the profile
    k          = within-class variance / between-class variance, from 1 to 10 observations

``n_l`` is the effective sample size (sum w)^2 / sum w^2. Where devices are known, an observation is the mean of one
device in one hour, and the sampling error is that of as many independent observations as there are devices, for what a
device sends in one hour resembles what it sends in the next. ``effect_c`` is how much higher the class lies than all
classes, one factor for the whole curve: it carries what live traffic shows of a class past the cut to the points
before it, which no server can compute.

A curve of several classes is the weighted mean of theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from ..profile import Profile
from ..schema import CurvePoint
from .live_view import F64, I64, ImportanceRows, LiveView, positions
from .memo import once

K_MIN: Final = 1.0
K_MAX: Final = 10.0
LIVE_ENOUGH: Final = 10.0
"""Effective observations that a statement from live traffic alone takes."""
LIVE_SHARE: Final = 0.9
"""Weight of the live mean from which a value is called live; K_MAX leaves it at 90 observations."""
_EFFECT: Final = (0.1, 10.0)
_LARGEST: Final = 1e100


@dataclass(frozen=True, eq=False)
class Components:
    """Variance components of a profile, shapes (P,): ``grand`` mean over all images, pooled ``within`` variance (NaN
    where no class has two images), and the prior weight ``k`` in observations."""

    grand: F64
    within: F64
    k: F64


@dataclass(frozen=True, eq=False)
class LiveMoments:
    """Live moments of M classes, shapes (M, P): observations, effective sample size, mean and variance (NaN where
    unknown); ``devices``: how many distinct ones, NaN where requests count by themselves."""

    count: F64
    n: F64
    mean: F64
    variance: F64
    devices: F64


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve, all shapes (P,). ``prior``: what it would be without live traffic. ``live_share``: the weight of the
    live means in ``value``. Counts are observations of the asked classes; NaN where nothing is known. ``devices``: how
    many distinct ones stand behind the live means, of several classes at least; NaN where requests count by
    themselves."""

    value: F64
    standard_error: F64
    prior: F64
    live_share: F64
    live_n: F64
    live_count: F64
    profile_count: F64
    devices: F64 | None = None

    def source(self, point: int) -> str:
        """ "profile", "live" or "mixed"."""
        if not self.live_count[point] > 0:
            return "profile"
        sure = self.live_share[point] >= LIVE_SHARE and self.live_n[point] >= LIVE_ENOUGH
        return "live" if sure else "mixed"

    def points(self, profile: Profile) -> tuple[CurvePoint, ...]:
        """The curve in the form of an answer."""
        devices = np.full(len(self.value), np.nan) if self.devices is None else self.devices
        cells = (self.value, self.standard_error, self.live_count, self.profile_count, devices)
        rows = zip(*(np.asarray(cell, np.float64).tolist() for cell in cells), strict=True)
        return tuple(
            CurvePoint(
                point.name,
                number(value),
                number(error),
                self.source(i),
                live,
                known,
                point.nbytes,
                None if math.isnan(some) else round(some),
            )
            for i, (point, (value, error, live, known, some)) in enumerate(
                zip(profile.split_points, rows, strict=True)
            )
        )


def number(value: float | np.floating[npt.NBitBase]) -> float:
    """A float that is finite, or the one NaN."""
    return float(value) if math.isfinite(value) else math.nan


@once
def components(profile: Profile) -> Components:
    """Variance components by the analysis of variance of unequal groups (S. R. Searle et al., 1992, section 3.6)."""
    n = profile.count.astype(np.float64)
    known = n > 0
    n, sum1, sum2 = n[known], profile.sum1[known], profile.sum2[known]
    total, classes = n.sum(), len(n)
    points = len(profile.split_points)
    nan = np.full(points, np.nan)
    if not classes:
        return Components(nan, nan, np.full(points, K_MAX))
    shift = sum1.sum(0) / total
    mean = sum1 / n[:, None]
    dof = total - classes
    within = np.maximum((sum2 - sum1 * mean).sum(0), 0) / dof if dof > 0 else nan
    k = np.full(points, K_MAX)
    if classes > 1 and dof > 0:
        between = (n[:, None] * (mean - shift) ** 2).sum(0) - (classes - 1) * within
        between /= total - (n * n).sum() / total
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(between > 0, within / between, K_MAX)
        k = np.clip(np.nan_to_num(ratio, nan=K_MAX), K_MIN, K_MAX)
    return Components(profile.mean0 + shift, within, k)


def live_moments(
    rows: tuple[ImportanceRows, ...], class_ids: I64, mean0: F64, target: str
) -> LiveMoments:
    """Pool every source of one target for these classes. Raises StoreError where a view has another curve's length.

    Sums add over sources, because all are relative to the same shift and landmark.
    """
    shape = (len(class_ids), len(mean0))
    count, weight, weight2, sum1, sum2 = (np.zeros(shape) for _ in range(5))
    devices = np.full(shape, np.nan)
    # Rows are taken in a fixed order, so that the same contents give the same sums to the last bit.
    for part in sorted(rows, key=lambda r: (r.source, r.target)):
        if part.count.shape[1] != shape[1]:
            raise StoreError(
                f"importance rows: expected {shape[1]} points as in the profile, got {part.count.shape[1]}"
            )
        if part.target != target or not len(part.class_ids):
            continue
        at = positions(np.asarray(part.class_ids, np.int64), class_ids)
        to = np.flatnonzero(at >= 0)
        if not len(to):
            continue
        at = at[to]
        cells = [
            np.asarray(a, np.float64)[at]
            for a in (part.count, part.weight, part.weight2, part.sum1, part.sum2)
        ]
        good = (cells[0] > 0) & (cells[1] > 0) & (cells[2] > 0)
        for cell in cells:
            good &= np.isfinite(cell)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is told apart below
            for whole, cell in zip((count, weight, weight2, sum1, sum2), cells, strict=True):
                whole[to] += np.where(good, cell, 0.0)
        if (
            part.devices is not None
        ):  # one device may be behind several sources: at least the most of any of them
            told = np.asarray(part.devices, np.float64)[at]
            devices[to] = np.fmax(devices[to], np.where(good & (told > 0), told, np.nan))
    with np.errstate(all="ignore"):
        # Cauchy-Schwarz: n <= count. The root first: weights may be as large as floats go.
        n = np.where(weight > 0, np.minimum((weight / np.sqrt(weight2)) ** 2, count), 0.0)
        offset = sum1 / weight
        variance = np.where(n > 1, np.maximum(sum2 / weight - offset**2, 0) * n / (n - 1), np.nan)
        mean = mean0 + offset
    broken = ~np.isfinite(n) | (~(np.abs(mean) < _LARGEST) & (n > 0))
    n[broken], count[broken] = 0.0, 0.0
    devices[n == 0] = np.nan
    variance[~np.isfinite(variance)] = np.nan
    return LiveMoments(count, n, np.where(n > 0, mean, np.nan), variance, devices)


def _weighted(n1: F64, x1: F64, n2: F64, x2: F64) -> F64:
    """(n1 x1 + n2 x2) / (n1 + n2), where a part of no weight or no value does not count."""
    known1, known2 = np.isfinite(x1), np.isfinite(x2)
    w1, w2 = np.where(known1, n1, 0.0), np.where(known2, n2, 0.0)
    total = w1 + w2
    with np.errstate(all="ignore"):
        mean = (w1 * np.where(known1, x1, 0.0) + w2 * np.where(known2, x2, 0.0)) / total
    mean[~(total > 0)] = np.nan
    return np.asarray(mean)


def _levels(n: F64, mean: F64, grand: F64) -> F64:
    """How much higher each class lies than all classes, (M,): the median ratio over its known points, NaN without any.

    The median, because a ratio at a point of almost no importance can be anything.
    """
    with np.errstate(all="ignore"):
        ratio = np.where((grand > 0) & (n > 0), mean / grand, np.nan)
    ratio[~np.isfinite(ratio)] = np.nan
    # numpy's nanmedian takes ten times as long for short rows: it goes through masked arrays.
    number = np.isfinite(ratio).sum(axis=1)
    ratio = np.sort(ratio, axis=1)  # NaN last
    row = np.arange(len(ratio))
    low, high = (
        ratio[row, np.maximum(number - 1, 0) // 2],
        ratio[row, np.minimum(number // 2, ratio.shape[1] - 1)],
    )
    return np.asarray(np.where(number > 0, (low + high) / 2, np.nan))


def _effects(n: F64, mean: F64, parts: Components, profile: Profile) -> F64:
    """The factor of each class, (M, 1), leaning on 1; over the profile's images the levels average to 1."""
    level = _levels(n, mean, parts.grand)
    centre = _centre(profile)
    if centre is not None:
        # A median of skewed ratios lies below their mean; without this every class would look too low.
        level = level / centre if centre > 0 else np.full_like(level, np.nan)
    # Points of one image are correlated: a class is known as well as its best-known point, not as their sum.
    best = n.max(axis=1)
    k = float(np.median(parts.k))
    return np.asarray(
        np.clip(np.where(np.isfinite(level), (best * level + k) / (best + k), 1.0), *_EFFECT)[
            :, None
        ]
    )


@once
def _centre(profile: Profile) -> float | None:
    """The mean level of the profile's images; ``None`` where no level is known."""
    counts = profile.count.astype(np.float64)
    with np.errstate(all="ignore"):
        own = profile.mean0 + profile.sum1 / counts[:, None]
    level = _levels(np.broadcast_to(counts[:, None], own.shape), own, components(profile).grand)
    known = np.isfinite(level)
    return float(np.average(level[known], weights=counts[known])) if known.any() else None


def class_curves(
    profile: Profile, live: LiveView, class_ids: I64, target: str | None = None
) -> tuple[Curve, ...]:
    """The curve of each class, in the order of ``class_ids``. ``target``: "predicted" or "true", default the profile's.

    Standard errors are those of sampling: they do not hold that the live classes may differ from the profile's.
    """
    value, variance, prior, share, moments, n_profile = _estimate(profile, live, class_ids, target)
    return tuple(
        Curve(
            value[m],
            np.sqrt(variance[m]),
            prior[m],
            share[m],
            moments.n[m],
            moments.count[m],
            n_profile[m],
            moments.devices[m],
        )
        for m in range(len(class_ids))
    )


def mix_curve(
    profile: Profile, live: LiveView, class_ids: I64, weights: F64, target: str | None = None
) -> Curve:
    """The curve of a mix: the weighted mean over classes; ``weights`` (M,) sum to 1. Shapes and errors as above."""
    value, variance, prior, share, moments, n_profile = _estimate(profile, live, class_ids, target)
    w = weights[:, None]
    return Curve(
        value=(w * value).sum(0),
        standard_error=np.sqrt((w * w * variance).sum(0)),
        prior=(w * prior).sum(0),
        live_share=(w * share).sum(0),
        live_n=moments.n.sum(0),
        live_count=moments.count.sum(0),
        profile_count=n_profile.sum(0),
        devices=np.fmax.reduce(moments.devices, axis=0, initial=np.nan),
    )


def unseen_mean(profile: Profile, class_ids: I64, weights: F64) -> F64:
    """The value (P,) of :func:`mix_curve` without live traffic."""
    return np.asarray((weights[:, None] * _unseen(profile)[class_ids]).sum(0))


@once
def _unseen(profile: Profile) -> F64:
    return _estimate(
        profile, LiveView.empty(), np.arange(len(profile.classes), dtype=np.int64), None
    )[0]


def _estimate(
    profile: Profile, live: LiveView, class_ids: I64, target: str | None
) -> tuple[F64, F64, F64, F64, LiveMoments, F64]:
    parts = components(profile)
    points = len(profile.split_points)
    rows = positions(profile.class_ids, class_ids)
    n_c = np.zeros((len(class_ids), points))
    mean_c = np.full((len(class_ids), points), np.nan)
    inside = rows >= 0
    if inside.any():
        n_c[inside] = profile.count[rows[inside]][:, None]
        with np.errstate(all="ignore"):
            mean_c[inside] = profile.mean0 + profile.sum1[rows[inside]] / n_c[inside]
    moments = live_moments(live.importance, class_ids, profile.mean0, target or profile.target)
    both = n_c + moments.n
    effect = _effects(both, _weighted(n_c, mean_c, moments.n, moments.mean), parts, profile)
    k = np.broadcast_to(parts.k, n_c.shape)
    prior = _weighted(n_c, mean_c, k, effect * parts.grand)
    # Posterior variance given that class means scatter with within / k (level 1), then sampling error (level 2).
    prior_variance = parts.within / (n_c + k)
    value = _weighted(moments.n, moments.mean, k, prior)
    share = np.where(
        np.isfinite(prior), moments.n / (moments.n + k), (moments.n > 0).astype(np.float64)
    )
    own = np.where(np.isfinite(moments.variance), np.maximum(moments.n - 1, 0), 0.0)
    spread = _weighted(
        own, moments.variance, np.full_like(own, K_MAX), np.broadcast_to(parts.within, own.shape)
    )
    with np.errstate(all="ignore"):
        sampling = np.where(
            moments.n > 0, share**2 * spread / np.fmin(moments.n, moments.devices), 0.0
        )
    rest = np.where(share < 1, (1 - share) ** 2 * prior_variance, 0.0)
    return value, sampling + rest, prior, share, moments, n_c
