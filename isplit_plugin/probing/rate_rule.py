"""How often a device should probe: the less is known of a whole curve, the more often."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ..advice import F64, I64, LiveView, positions

WHOLE: Final = ("probe", "input")
"""The sources of whole curves."""
ENOUGH: Final = 0.05
"""Relative standard error up to which no probes are needed."""
MUCH: Final = 0.5
"""Relative standard error from which on the largest rate is advised."""


def relative_errors(live: LiveView, mean0: F64) -> tuple[I64, F64]:
    """Ids of the classes with whole curves, and the relative standard error of each. Shapes (K,).

    The error of a class is the median of standard error / mean over the points whose mean is above
    zero. Only whole curves count (``WHOLE``). The error is infinite below an effective number of
    two, and zero for a curve that is zero.
    """
    rows = [r for r in live.importance if r.source in WHOLE and r.target == "predicted"]
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.float64)
    ids: I64 = np.unique(np.concatenate([r.class_ids for r in rows]))
    w, w2, s1, s2 = (np.zeros((len(ids), len(mean0))) for _ in range(4))
    for row in rows:
        at = positions(ids, row.class_ids)
        for total, part in ((w, row.weight), (w2, row.weight2), (s1, row.sum1), (s2, row.sum2)):
            total[at] += part
    known = w > 0
    weight = np.where(known, w, 1.0)
    number = np.where(known, w**2 / np.where(known, w2, 1.0), 0.0)
    mean = mean0 + s1 / weight
    variance = (
        np.maximum(s2 / weight - (s1 / weight) ** 2, 0.0) * number / np.maximum(number - 1.0, 1e-9)
    )
    above = known & (mean > 0)
    error = np.full(w.shape, np.nan)
    error[above] = np.sqrt(variance[above] / number[above]) / mean[above]
    errors = np.array(
        [np.median(e[a]) if a.any() else 0.0 for e, a in zip(error, above, strict=True)]
    )
    errors[np.where(known, number, np.inf).min(axis=1) < 2.0 - 1e-9] = np.inf
    return ids, errors


def rate(relative_error: npt.ArrayLike, most: float) -> F64:
    """The share of requests to follow with a probe.

    It is zero up to ``ENOUGH``, ``most`` from ``MUCH`` on, and linear between.
    """
    error = np.asarray(relative_error, np.float64)
    share: F64 = most * np.clip((error - ENOUGH) / (MUCH - ENOUGH), 0.0, 1.0)
    return share
