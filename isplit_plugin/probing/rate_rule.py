"""How often a device should probe: often where a whole curve is hardly known, never where it is known well."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ..advice import F64, I64, LiveView, positions

WHOLE: Final = ("probe", "input")
"""The sources of whole curves."""
ENOUGH: Final = 0.05
"""A relative standard error at which no more probes are needed."""
MUCH: Final = 0.5
"""A relative standard error from which on as many as allowed are."""


def relative_errors(live: LiveView, mean0: F64) -> tuple[I64, F64]:
    """Class ids (K,) with whole curves and the relative standard error (K,) of each class's curve.

    The error of a class is the median over the points whose mean is above zero of standard error / mean, from the
    whole curves alone (``WHOLE``); infinite below an effective number of two, zero for a curve that is zero.
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
    found = np.array(
        [np.median(e[a]) if a.any() else 0.0 for e, a in zip(error, above, strict=True)]
    )
    found[np.where(known, number, np.inf).min(axis=1) < 2.0 - 1e-9] = np.inf
    return ids, found


def rate(relative_error: npt.ArrayLike, most: float) -> F64:
    """The share of requests to follow with a probe: zero up to ``ENOUGH``, ``most`` from ``MUCH``; linear between."""
    error = np.asarray(relative_error, np.float64)
    share: F64 = most * np.clip((error - ENOUGH) / (MUCH - ENOUGH), 0.0, 1.0)
    return share
