"""Exact evidence about a share of disagreements, valid at all times.

For counts of ``trials`` and ``misses``, the evidence against "the chance of a miss is at least p"
is a mixture of likelihood ratios over smaller chances q, the evidence against "at most p" one over
larger chances. Each is a nonnegative supermartingale under what it speaks against, whatever the
order and even where the chance changes with what came before, as long as it stays on that side of
p. By Ville's inequality it ever exceeds 1 / alpha with a chance of at most alpha, however often one
looks (Robbins, *Annals of Mathematical Statistics* 1970; Waudby-Smith & Ramdas, "Estimating means
of bounded random variables by betting", *JRSS B* 2024). Nothing is asymptotic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .features import F64

_PARTS: Final = np.array([0.0, 0.05, 0.15, 0.3, 0.5, 0.7])
"""Alternatives below p, as parts of p. The first, no miss at all, has half of the mixture."""
_PART_WEIGHTS: Final = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
_ODDS: Final = np.array([1.5, 2.0, 4.0, 10.0, 30.0, 100.0])
"""Alternatives above p, as multiples of its odds."""
_HALVINGS: Final = 50


def evidence_below(trials: float, misses: float, p: float) -> float:
    """The log of the evidence that the chance of a miss is below ``p``.

    Raises DataError for counts that are none, or a ``p`` outside 0 to 1.
    """
    _check(trials, misses, p)
    return float(evidences_below(np.array([trials]), np.array([misses]), p)[0])


def evidences_below(trials: npt.NDArray[Any], misses: npt.NDArray[Any], p: float) -> F64:
    """:func:`evidence_below` of several counts (N,), which are not checked."""
    return _mixture(trials, misses, p, p * _PARTS, _PART_WEIGHTS)


def evidence_above(trials: float, misses: float, p: float) -> float:
    """The log of the evidence that the chance of a miss is above ``p``. Raises DataError."""
    _check(trials, misses, p)
    q = larger_chances(p)
    weights = np.full(len(q), 1 / len(q))
    return float(_mixture(np.array([trials]), np.array([misses]), p, q, weights)[0])


def larger_chances(p: float) -> F64:
    """Chances above ``p`` among which the evidence for a larger one is mixed."""
    odds = _ODDS * p / (1 - p)
    return np.asarray(odds / (1 + odds))


def chance_interval(trials: float, misses: float, alpha: float) -> tuple[float, float]:
    """An interval that holds the chance of a miss at all times with 1 - ``alpha``.

    It is (0, 1) without trials. Raises DataError for counts that are none.
    """
    limit = math.log(2 / alpha)
    share = min(max(misses / trials, 1e-9), 1 - 1e-9) if trials > 0 else 0.5
    low, high = 0.0, 1.0
    if trials > 0 and evidence_below(trials, misses, 1 - 1e-9) > limit:
        high = _crossing(share, 1 - 1e-9, lambda p: evidence_below(trials, misses, p) - limit)
    if misses > 0 and evidence_above(trials, misses, 1e-9) > limit:
        low = _crossing(share, 1e-9, lambda p: evidence_above(trials, misses, p) - limit)
    return low, high


def trials_missing(trials: float, misses: float, p: float, alpha: float) -> int:
    """How many more trials without a miss, at least, prove a chance below ``p``; 0 if proven."""
    limit = -math.log(alpha)
    if evidence_below(trials, misses, p) >= limit:
        return 0
    low, high = 0, 1
    while evidence_below(trials + high, misses, p) < limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if evidence_below(trials + middle, misses, p) < limit:
            low = middle
        else:
            high = middle
    return high


def _mixture(
    trials: npt.NDArray[Any], misses: npt.NDArray[Any], p: float, q: F64, weights: F64
) -> F64:
    """(N,) logs of the mixtures, from counts (N,) and chances ``q`` (M,) with their weights."""
    missed = misses[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        of_misses = np.where(missed > 0, missed * np.log(q / p), 0.0)
        of_others = (trials - misses)[:, None] * np.log((1 - q) / (1 - p))
        logs = np.log(weights) + of_misses + of_others
    largest = logs.max(axis=1)
    return np.asarray(largest + np.log(np.exp(logs - largest[:, None]).sum(axis=1)))


def _crossing(inside: float, outside: float, excess: Callable[[float], float]) -> float:
    """Where ``excess`` changes its sign, between a chance inside and one outside."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if excess(middle) > 0:
            outside = middle
        else:
            inside = middle
    return outside


def _check(trials: float, misses: float, p: float) -> None:
    if not (math.isfinite(trials) and 0 <= misses <= trials):
        raise DataError(f"counts: expected 0 <= misses <= trials, got {misses} of {trials}")
    if not 0 < p < 1:
        raise DataError(f"chance: expected more than 0 and less than 1, got {p}")
