"""Linear discriminants with shrinkage, in closed form from sums.

Fisher (1936) with a covariance that is shrunk towards a multiple of the identity (Ledoit & Wolf,
*Journal of Multivariate Analysis* 2004). Equal to scikit-learn's
``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`` on the same photos, of features that
are divided by their deviation within the classes where ``standardise`` is set. A class's
discriminant does not depend on which other classes are fitted: leaving out classes without
evidence leaves out their rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import DataError, ExitError
from .features import F64, I64
from .sums import ExitSums


class Discriminants(NamedTuple):
    """Scores ``coef @ ((z - center) * scale) + intercept``, and what they were made from.

    Attributes:
        class_ids: (K,) ascending.
        center, scale: (F,): mean of all photos, and 1 / deviation within classes, or ones.
        coef: (K, F), in scaled features.
        intercept: (K,), with the log share of each class.
        means: (K, F), in scaled features.
        values: (F,) eigenvalues of their covariance before shrinkage, ascending.
        vectors: (F, F), one eigenvector a column.
        shrunk: (F,) the eigenvalues after shrinkage.
    """

    class_ids: I64
    center: F64
    scale: F64
    coef: F64
    intercept: F64
    means: F64
    values: F64
    vectors: F64
    shrunk: F64


def discriminants(
    sums: ExitSums, shrinkage: float, min_weight: float, *, standardise: bool = True
) -> Discriminants:
    """The discriminants of the classes whose effective sample size is at least ``min_weight``.

    The covariance is that of all classes. Shares are those among the fitted classes.

    Raises:
        DataError: a shrinkage that is not from 0 to 1.
        ExitError: fewer than two classes with evidence, or sums that are not finite; ``details``
            hold "reason", and the number of "classes" there are.
    """
    if not 0 <= shrinkage <= 1:
        raise DataError(f"shrinkage: expected 0 to 1, got {shrinkage}")
    chosen = (sums.effective >= min_weight) & (sums.weights > 0)
    if np.count_nonzero(chosen) < 2:
        raise ExitError(
            f"exit at {sums.cut}: expected at least 2 classes with {min_weight:g} photos, got "
            f"{np.count_nonzero(chosen)}",
            reason="evidence",
            classes=int(np.count_nonzero(chosen)),
        )
    total = float(sums.weights.sum())
    covariance = sums.within() / total
    if not np.isfinite(covariance).all():
        raise ExitError(f"exit at {sums.cut}: expected finite sums", reason="malformed")
    center = sums.shift + sums.rows[:, 3:].sum(axis=0) / total
    scale = _scale(covariance) if standardise else np.ones(sums.features)
    covariance = scale[:, None] * covariance * scale
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values = np.maximum(values, 0.0)
    shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
    if not shrunk[0] > 1e-12 * shrunk[-1]:
        raise ExitError(
            f"exit at {sums.cut}: the covariance is singular; a larger shrinkage helps",
            reason="singular",
        )
    means = (sums.means()[chosen] - center) * scale
    coef = (means @ vectors / shrunk) @ vectors.T
    weights = sums.weights[chosen]
    log_shares = np.log(weights / weights.sum())
    intercept = log_shares - 0.5 * (means * coef).sum(axis=1)
    return Discriminants(
        *(sums.class_ids[chosen], center, scale, coef, intercept, means),
        *(values, vectors, shrunk),
    )


def _scale(covariance: F64) -> F64:
    """1 / deviation; features that hardly vary are not blown up."""
    variance = np.diag(covariance)
    largest = float(variance.max())
    if not largest > 0:
        return np.ones(len(variance))
    return np.asarray(1 / np.sqrt(np.maximum(variance, 1e-8 * largest)))
