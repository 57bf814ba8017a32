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
DIRECTIONS: Final = 32
"""Directions of the distance that an exit keeps."""
REACH: Final = 1.5
"""A class reaches as far as this many times the mean squared distance of its own photos, and at
least three deviations further than the mean, were they normal."""

_LARGEST_LEVERAGE: Final = 0.9
_LEAST_MARGIN: Final = 0.25  # nats


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
    ids, coef, intercept, shares = fit.class_ids, fit.coef, fit.intercept, fit.log_shares
    other = ~np.isin(sums.class_ids, ids)
    if sums.weights[other].sum() > 0:
        row, bias, share = _other_classes(sums, fit, other)
        ids = np.concatenate(([NONE], ids))
        coef = np.vstack((row, coef))
        intercept = np.concatenate(([bias], intercept))
        shares = np.concatenate(([share], shares))
    floor, gains, directions = _directions(fit)
    reach = _reach(fit, floor, gains, shrinkage, float(sums.effective.sum()))
    return Exit(
        network_hash=sums.network_hash,
        cut=sums.cut,
        pooling=sums.pooling,
        class_ids=ids.astype(np.int64),
        center=fit.center.astype(np.float32),
        scale=fit.scale.astype(np.float32),
        weights=coef.astype(np.float16),
        bias=intercept.astype(np.float32),
        offsets=shares.astype(np.float32),
        directions=directions.astype(np.float16),
        gains=gains.astype(np.float32),
        floor=floor,
        reach=np.full(len(ids), reach, np.float32),
        usual=_usual_margins(sums, fit, ids, coef, intercept).astype(np.float32),
        created=created,
        expires=created + lifetime_s,
    )


def usual_shrinkage(sums: ExitSums) -> float:
    """F / (F + n), with n effective photos: what few photos say of many features weighs little."""
    return sums.features / (sums.features + max(1.0, float(sums.effective.sum())))


def _other_classes(
    sums: ExitSums, fit: Discriminants, other: npt.NDArray[np.bool_]
) -> tuple[F64, float, float]:
    """Coefficients, intercept and log share of one discriminant for all other classes."""
    weight = sums.weights[other].sum()
    mean = sums.rows[other, 3:].sum(axis=0) / weight + sums.shift
    scaled = (mean - fit.center) * fit.scale
    coef = (scaled @ fit.vectors / fit.shrunk) @ fit.vectors.T
    share = float(np.log(weight / (sums.weights.sum() - weight)))
    return coef, share - 0.5 * float(scaled @ coef), share


def _usual_margins(sums: ExitSums, fit: Discriminants, ids: I64, coef: F64, intercept: F64) -> F64:
    """The margin of the mean photo of each class; that of ``NONE`` means nothing."""
    means = sums.means()[np.isin(sums.class_ids, fit.class_ids)]
    scores = ((means - fit.center) * fit.scale) @ coef.T + intercept
    others = np.where(ids == fit.class_ids[:, None], -np.inf, scores).max(axis=1)
    own = scores[ids == fit.class_ids[:, None]]
    usual = np.full(len(ids), _LEAST_MARGIN)
    usual[ids != NONE] = np.maximum(own - others, _LEAST_MARGIN)
    return usual


def _directions(fit: Discriminants) -> tuple[float, F64, F64]:
    """The inverse covariance as floor * identity - directions' gains directions."""
    kept = min(DIRECTIONS, len(fit.shrunk))
    inverse = 1 / fit.shrunk
    rest = inverse[: len(inverse) - kept]
    floor = float(rest.mean()) if len(rest) else float(inverse.max())
    return floor, floor - inverse[-kept:], fit.vectors[:, -kept:].T


def _reach(fit: Discriminants, floor: float, gains: F64, shrinkage: float, photos: float) -> float:
    """The squared distance beyond which a photo is none of a class's own.

    The photos that the fit has seen are nearer than others. One photo's leverage says by how much,
    as for predictions that leave one out (Allen, *Technometrics* 1974): its mean is taken for all.
    """
    inverse = np.full(len(fit.values), floor)
    inverse[len(inverse) - len(gains) :] -= gains
    parts = fit.values * inverse
    mean, deviation = float(parts.sum()), math.sqrt(2 * float(parts @ parts))
    leverage = (1 - shrinkage) * float((fit.values / fit.shrunk).sum()) / max(1.0, photos)
    return max(REACH * mean, mean + 3 * deviation) / (1 - min(leverage, _LARGEST_LEVERAGE)) ** 2
