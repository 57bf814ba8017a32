"""Class-conditional curves: the profile as a prior, updated by live traffic.

Empirical Bayes with credibility weights (Buhlmann 1967; Robbins 1956), at every point of the curve,
on raw moments::

    profile(c) = (n_c mean_c + k effect_c all) / (n_c + k)
    value(c)   = (n_l mean_l + k profile(c))   / (n_l + k)
    k          = within-class variance / between-class variance, from 1 to 10 observations

A class with few calibration images leans on all classes (``all``), and live means lean on the
profile. ``n_l`` is the effective sample size (sum w)^2 / sum w^2.

Where devices are known, an observation is the mean of one device in one hour. What a device sends
in one hour resembles what it sends in the next. So the sampling error is that of as many
independent observations as there are devices.

``effect_c`` is how much higher the class lies than all classes, one factor for the whole curve. It
carries what live traffic shows of a class behind the cut to the points before it, which no server
can compute.

A curve of several classes is the weighted mean of theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..profile import Profile
from ..schema import CurvePoint
from .live_moments import LiveMoments, live_moments
from .live_view import F64, I64, LiveView, place_of, positions
from .memo import once

K_MIN: Final = 1.0
K_MAX: Final = 10.0
LIVE_ENOUGH: Final = 10.0
"""Effective observations that a statement from live traffic alone takes."""
LIVE_SHARE: Final = 0.9
"""Weight of the live mean from which a value is called live; K_MAX leaves it at 90 observations."""
_EFFECT: Final = (0.1, 10.0)


@dataclass(frozen=True, eq=False)
class Components:
    """Variance components of a profile, shapes (P,).

    Attributes:
        grand: the mean over all images.
        within: the pooled variance within classes, NaN where no class has two images.
        k: the weight of the prior, in observations.
    """

    grand: F64
    within: F64
    k: F64


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve. All shapes are (P,); NaN where nothing is known.

    Attributes:
        prior: the value without live traffic.
        live_share: the weight of the live means in ``value``.
        live_n: effective live observations of the asked classes.
        live_count, profile_count: live observations and calibration images of the asked classes.
        devices: a lower bound of the distinct devices behind the live means; NaN where requests
            count by themselves.
    """

    value: F64
    standard_error: F64
    prior: F64
    live_share: F64
    live_n: F64
    live_count: F64
    profile_count: F64
    devices: F64 | None = None

    def source(self, point: int) -> str:
        """The source of a point: "profile", "live" or "mixed"."""
        if not self.live_count[point] > 0:
            return "profile"
        mostly_live = self.live_share[point] >= LIVE_SHARE and self.live_n[point] >= LIVE_ENOUGH
        return "live" if mostly_live else "mixed"

    def points(self, profile: Profile) -> tuple[CurvePoint, ...]:
        """The curve as the points of an answer."""
        devices = np.full(len(self.value), np.nan) if self.devices is None else self.devices
        cells = (self.value, self.standard_error, self.live_count, self.profile_count, devices)
        rows = zip(*(np.asarray(cell, np.float64).tolist() for cell in cells), strict=True)
        return tuple(
            CurvePoint(
                point.name,
                number(value),
                number(error),
                self.source(i),
                live_count,
                profile_count,
                point.nbytes,
                None if math.isnan(distinct) else round(distinct),
            )
            for i, (point, (value, error, live_count, profile_count, distinct)) in enumerate(
                zip(profile.split_points, rows, strict=True)
            )
        )


def number(value: float | np.floating[npt.NBitBase]) -> float:
    """The value as a float, NaN unless it is finite."""
    return float(value) if math.isfinite(value) else math.nan


@once
def components(profile: Profile) -> Components:
    """Variance components by the analysis of variance of unequal groups.

    S. R. Searle et al., "Variance Components", 1992, section 3.6.
    """
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


def _weighted(n1: F64, x1: F64, n2: F64, x2: F64) -> F64:
    """(n1 x1 + n2 x2) / (n1 + n2). A part without weight or value does not count."""
    known1, known2 = np.isfinite(x1), np.isfinite(x2)
    w1, w2 = np.where(known1, n1, 0.0), np.where(known2, n2, 0.0)
    total = w1 + w2
    with np.errstate(all="ignore"):
        mean = (w1 * np.where(known1, x1, 0.0) + w2 * np.where(known2, x2, 0.0)) / total
    mean[~(total > 0)] = np.nan
    return np.asarray(mean)


def _levels(n: F64, mean: F64, grand: F64) -> F64:
    """How much higher each class lies than all classes, shape (M,); NaN where unknown.

    It is the median ratio over the known points, because the ratio at a point of almost no
    importance can have any value.
    """
    with np.errstate(all="ignore"):
        ratio = np.where((grand > 0) & (n > 0), mean / grand, np.nan)
    ratio[~np.isfinite(ratio)] = np.nan
    # numpy's nanmedian takes ten times as long for short rows.
    known = np.isfinite(ratio).sum(axis=1)
    ratio = np.sort(ratio, axis=1)  # NaN last
    row = np.arange(len(ratio))
    low = ratio[row, np.maximum(known - 1, 0) // 2]
    high = ratio[row, np.minimum(known // 2, ratio.shape[1] - 1)]
    return np.asarray(np.where(known > 0, (low + high) / 2, np.nan))


def _effects(n: F64, mean: F64, parts: Components, profile: Profile) -> F64:
    """The factor of each class, shape (M, 1). With few observations it leans on 1."""
    level = _levels(n, mean, parts.grand)
    centre = _centre(profile)
    if centre is not None:
        # The median of skewed ratios is below their mean. Without this, all classes look too low.
        level = level / centre if centre > 0 else np.full_like(level, np.nan)
    # The points of an image are correlated, so their observations do not add up.
    best = n.max(axis=1)
    k = float(np.median(parts.k))
    # As a share, because a product of two huge finite numbers overflows.
    own = best / (best + k)
    effect = np.where(np.isfinite(level), own * level + (1 - own), 1.0)
    return np.asarray(np.clip(effect, *_EFFECT)[:, None])


@once
def _centre(profile: Profile) -> float | None:
    """The mean level of the profile's images; ``None`` where none is known."""
    counts = profile.count.astype(np.float64)
    with np.errstate(all="ignore"):
        own = profile.mean0 + profile.sum1 / counts[:, None]
    level = _levels(np.broadcast_to(counts[:, None], own.shape), own, components(profile).grand)
    known = np.isfinite(level)
    return float(np.average(level[known], weights=counts[known])) if known.any() else None


def class_curves(
    profile: Profile, live: LiveView, class_ids: I64, target: str | None = None
) -> tuple[Curve, ...]:
    """The curve of each class, in the order of ``class_ids``.

    Standard errors are those of sampling. They do not include that live images of a class may
    differ from the profile's.

    Parameters:
        target: "predicted" or "true"; by default the profile's.
    """
    estimate = _estimate(profile, live, class_ids, target)
    moments = estimate.moments
    return tuple(
        Curve(
            value=estimate.value[m],
            standard_error=np.sqrt(estimate.variance[m]),
            prior=estimate.prior[m],
            live_share=estimate.live_share[m],
            live_n=moments.n[m],
            live_count=moments.count[m],
            profile_count=estimate.profile_count[m],
            devices=moments.devices[m],
        )
        for m in range(len(class_ids))
    )


def mix_curve(
    profile: Profile, live: LiveView, class_ids: I64, weights: F64, target: str | None = None
) -> Curve:
    """The curve of a mix: the weighted mean of its classes.

    ``weights`` has shape (M,) and sums to 1. Otherwise as :func:`class_curves`.
    """
    estimate = _estimate(profile, live, class_ids, target)
    moments = estimate.moments
    w = weights[:, None]
    return Curve(
        value=(w * estimate.value).sum(0),
        standard_error=np.sqrt((w * w * estimate.variance).sum(0)),
        prior=(w * estimate.prior).sum(0),
        live_share=(w * estimate.live_share).sum(0),
        live_n=moments.n.sum(0),
        live_count=moments.count.sum(0),
        profile_count=estimate.profile_count.sum(0),
        devices=np.fmax.reduce(moments.devices, axis=0, initial=np.nan),
    )


def unseen_mean(profile: Profile, class_ids: I64, weights: F64) -> F64:
    """The value of :func:`mix_curve` without live traffic, shape (P,)."""
    return np.asarray((weights[:, None] * _unseen(profile)[class_ids]).sum(0))


@once
def _unseen(profile: Profile) -> F64:
    every_class = np.arange(len(profile.classes), dtype=np.int64)
    return _estimate(profile, LiveView.empty(), every_class, None).value


class _Estimate(NamedTuple):
    """Curves of M classes, shapes (M, P)."""

    value: F64
    variance: F64
    prior: F64
    live_share: F64
    profile_count: F64
    moments: LiveMoments


def _estimate(profile: Profile, live: LiveView, class_ids: I64, target: str | None) -> _Estimate:
    parts = components(profile)
    n_c, mean_c = _class_means(profile, class_ids)
    moments = live_moments(live.importance, class_ids, profile.mean0, target or profile.target)
    both = _weighted(n_c, mean_c, moments.n, moments.mean)
    effect = _effects(n_c + moments.n, both, parts, profile)
    k = np.broadcast_to(parts.k, n_c.shape)
    prior = _weighted(n_c, mean_c, k, effect * parts.grand)
    value = _weighted(moments.n, moments.mean, k, prior)
    only_live = (moments.n > 0).astype(np.float64)
    share = np.where(np.isfinite(prior), moments.n / (moments.n + k), only_live)
    variance = _variance(parts, moments, n_c, share)
    return _Estimate(value, variance, prior, share, n_c, moments)


def _class_means(profile: Profile, class_ids: I64) -> tuple[F64, F64]:
    """Images and mean of each class in the profile, shapes (M, P); 0 and NaN where it has none."""
    shape = (len(class_ids), len(profile.split_points))
    rows = positions(profile.class_ids, class_ids)
    if isinstance(place_of(rows, len(profile.class_ids)), slice):
        return np.broadcast_to(profile.count[:, None].astype(np.float64), shape), _means(profile)
    count = np.zeros(shape)
    mean = np.full(shape, np.nan)
    inside = rows >= 0
    if inside.any():
        count[inside] = profile.count[rows[inside]][:, None]
        mean[inside] = _means(profile)[rows[inside]]
    return count, mean


@once
def _means(profile: Profile) -> F64:
    """The mean of each class of the profile, shape (K, P)."""
    with np.errstate(all="ignore"):
        return np.asarray(profile.mean0 + profile.sum1 / profile.count[:, None].astype(np.float64))


def _variance(parts: Components, moments: LiveMoments, n_c: F64, share: F64) -> F64:
    """The posterior variance of the prior, and the sampling variance of the live means.

    The first assumes that class means scatter with variance ``within / k``.
    """
    prior_variance = parts.within / (n_c + parts.k)
    own = np.where(np.isfinite(moments.variance), np.maximum(moments.n - 1, 0), 0.0)
    within = np.broadcast_to(parts.within, own.shape)
    spread = _weighted(own, moments.variance, np.full_like(own, K_MAX), within)
    with np.errstate(all="ignore"):
        sampling = share**2 * spread / np.fmin(moments.n, moments.devices)
    sampling = np.where(moments.n > 0, sampling, 0.0)
    rest = np.where(share < 1, (1 - share) ** 2 * prior_variance, 0.0)
    return np.asarray(sampling + rest)
