"""From sums to an exit."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .discriminants import Discriminants, discriminants
from .exit import NONE, Exit
from .features import F64
from .sums import ExitSums

SHRINKAGE: Final = 0.5
"""The shrinkage of the covariance."""
MIN_WEIGHT: Final = 30.0
"""Photos (effective) that a class needs."""
LIFETIME_S: Final = 86_400.0
"""Seconds for which an exit may answer without a contact to the server."""
DIRECTIONS: Final = 32
"""Directions of the distance that an exit keeps."""
SPREAD: Final = 3.0
"""How many deviations beyond its mean the squared distance of a class's photos reaches."""


def fit_exit(
    sums: ExitSums,
    shrinkage: float = SHRINKAGE,
    min_weight: float = MIN_WEIGHT,
    *,
    created: float,
    lifetime_s: float = LIFETIME_S,
) -> Exit:
    """The exit over the classes with evidence, with one row for all others where there are any.

    Parameters:
        sums: of one cut.
        shrinkage: of the covariance, 0 to 1.
        min_weight: the effective photos that a class needs.
        created: seconds since the epoch.
        lifetime_s: seconds after which it expires.

    Raises:
        DataError: a shrinkage or lifetime that makes no sense.
        ExitError: too little evidence; the message says how much is missing.
    """
    if not lifetime_s > 0:
        raise DataError(f"lifetime: expected more than 0 seconds, got {lifetime_s}")
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
    mean, deviation = _distance_moments(fit)
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
        reach=np.full(len(ids), mean + SPREAD * deviation, np.float32),
        created=created,
        expires=created + lifetime_s,
    )


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


def _directions(fit: Discriminants) -> tuple[float, F64, F64]:
    """The inverse covariance as floor * identity - directions' gains directions."""
    kept = min(DIRECTIONS, len(fit.shrunk))
    inverse = 1 / fit.shrunk
    rest = inverse[: len(inverse) - kept]
    floor = float(rest.mean()) if len(rest) else float(inverse.max())
    return floor, floor - inverse[-kept:], fit.vectors[:, -kept:].T


def _distance_moments(fit: Discriminants) -> tuple[float, float]:
    """Mean and deviation of the squared distance of a class's own photos, were they normal."""
    ratio = fit.values / fit.shrunk
    return float(ratio.sum()), float(np.sqrt(2 * (ratio**2).sum()))
