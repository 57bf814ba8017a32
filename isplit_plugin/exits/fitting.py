"""From sums to an exit."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .discriminants import Discriminants, discriminants
from .exit import NONE, Exit
from .features import F64, I64
from .sums import ExitSums

MIN_WEIGHT: Final = 30.0
"""Photos (effective) that a class needs."""
LIFETIME_S: Final = 86_400.0
"""Seconds for which an exit may answer without a contact to the server."""
REACH: Final = 1.5
"""A class reaches as far as this many times the mean squared distance of its own photos, and at
least three deviations further than the mean, were they normal."""

_LEAST_MARGIN: Final = 0.25  # nats
_HALF_MAX: Final = 60_000.0  # float16 ends at 65504


def fit_exit(
    sums: ExitSums,
    shrinkage: float | None = None,
    min_weight: float = MIN_WEIGHT,
    *,
    created: float,
    lifetime_s: float = LIFETIME_S,
) -> Exit:
    """The exit over the classes with evidence, with one row for all others where there are any.

    Parameters:
        sums: of one cut.
        shrinkage: of the covariance, 0 to 1; ``None`` takes :func:`usual_shrinkage`.
        min_weight: the effective photos that a class needs.
        created: seconds since the epoch.
        lifetime_s: seconds after which it expires.

    Raises:
        DataError: a shrinkage or lifetime that makes no sense.
        ExitError: too little evidence; the message says how much is missing.
    """
    if not lifetime_s > 0:
        raise DataError(f"lifetime: expected more than 0 seconds, got {lifetime_s}")
    if shrinkage is None:
        shrinkage = usual_shrinkage(sums)
    fit = discriminants(sums, shrinkage, min_weight)
    ids, coef, intercept, means = fit.class_ids, fit.coef, fit.intercept, fit.means
    other = ~np.isin(sums.class_ids, ids)
    if sums.weights[other].sum() > 0:
        mean, row, bias = _other_classes(sums, fit, other)
        ids = np.concatenate(([NONE], ids))
        coef = np.vstack((row, coef))
        intercept = np.concatenate(([bias], intercept))
        means = np.vstack((mean, means))
    return Exit(
        network_hash=sums.network_hash,
        cut=sums.cut,
        pooling=sums.pooling,
        class_ids=ids.astype(np.int64),
        center=fit.center.astype(np.float32),
        scale=fit.scale.astype(np.float32),
        weights=np.clip(coef, -_HALF_MAX, _HALF_MAX).astype(np.float16),
        bias=intercept.astype(np.float32),
        means=np.clip(means, -_HALF_MAX, _HALF_MAX).astype(np.float16),
        reach=np.full(len(ids), _reach(fit, min_weight), np.float32),
        usual=_usual_margin(fit, ids, coef, intercept),
        created=created,
        expires=created + lifetime_s,
    )


def usual_shrinkage(sums: ExitSums) -> float:
    """F / (F + n), with n effective photos: what few photos say of many features weighs little."""
    return sums.features / (sums.features + max(1.0, float(sums.effective.sum())))


def _other_classes(
    sums: ExitSums, fit: Discriminants, other: npt.NDArray[np.bool_]
) -> tuple[F64, F64, float]:
    """Mean, coefficients and intercept of one discriminant for all other classes."""
    weight = sums.weights[other].sum()
    mean = sums.rows[other, 3:].sum(axis=0) / weight + sums.shift
    scaled = (mean - fit.center) * fit.scale
    coef = (scaled @ fit.vectors / fit.shrunk) @ fit.vectors.T
    log_share = float(np.log(weight / (sums.weights.sum() - weight)))
    return scaled, coef, log_share - 0.5 * float(scaled @ coef)


def _usual_margin(fit: Discriminants, ids: I64, coef: F64, intercept: F64) -> float:
    """The margin of the mean photo of a class, mean of all classes."""
    scores = fit.means @ coef.T + intercept
    is_own = ids == fit.class_ids[:, None]
    margins = scores[is_own] - np.where(is_own, -np.inf, scores).max(axis=1)
    return float(np.maximum(margins, _LEAST_MARGIN).mean())


def _reach(fit: Discriminants, photos: float) -> float:
    """The squared distance beyond which a photo is none of a class's own.

    The photos that a class's mean was made from are nearer to it than others are.
    """
    mean, deviation = float(fit.values.sum()), math.sqrt(2 * float(fit.values @ fit.values))
    unseen = (photos + 1) / max(1.0, photos - 1)
    return max(REACH * mean, mean + 3 * deviation) * unseen
