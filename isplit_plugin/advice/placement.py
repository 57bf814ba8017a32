"""Places for a bottleneck: the two rules of I-SPLIT over a candidate set, and rankings.

Cunico et al., "I-SPLIT: Deep Network Interpretability for Split Computing", ICPR 2022. The released
code takes the strict interior local maxima of log10 CUI, the paper's page the global maximum. They
disagree wherever the last layer is the highest, so every answer names its rule. CUI holds a factor
1/C, because it averages over channels, so ranks across widths are partly its definition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..schema import Candidate, SplitPoint
from .curves import Curve, number
from .live_view import F64, I64

BoolArray = npt.NDArray[np.bool_]

LOCAL: Final = "local-maxima"
GLOBAL: Final = "global-maximum"
TIE: Final = 1e-9
"""Values that differ by less, relatively, are equal: a layer and its flatten differ by rounding."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a bottleneck is worth training.

    Attributes:
        candidates: the members of the candidate set, ranked.
        best_candidate: the split point that the rule picks, ``None`` where it picks none.
        candidate_set: "blocks" or "all", as it was used.
        reason: the pick in words.
    """

    candidates: tuple[Candidate, ...]
    best_candidate: str | None
    candidate_set: str
    reason: str


def placement_by_cui(
    split_points: Sequence[SplitPoint],
    curve: Curve,
    *,
    base: F64 | None = None,
    rule: str,
    candidate_set: str,
    max_head_macs: float | None = None,
) -> Placement:
    """Apply a rule to a CUI curve.

    The best candidate is the highest member that the rule selects and whose head the device can
    afford. Limits of bytes and latency do not apply, because what a bottleneck sends is not known
    before it is trained.

    Parameters:
        base: shape (P,), see :func:`one_population`; by default the curve without live traffic.
        rule: "local-maxima" or "global-maximum".
        candidate_set: "blocks" or "all".
        max_head_macs: what the device can afford, in multiply-accumulates; ``None`` for no limit.
    """
    members = _Members.of(split_points, candidate_set)
    index = members.index
    base = curve.prior if base is None else base
    values = one_population(curve.value[index], base[index], curve.live_count[index])
    order = ranking(values, [point.nbytes for point in members.points])
    selected = local_maxima(values) if rule == LOCAL else _global_maximum(values, order)
    reasons = _reasons(members.points, values, order, selected, rule)
    with np.errstate(all="ignore"):
        scale = np.where(curve.value[index] > 0, values / curve.value[index], 1.0)
    candidates = tuple(
        Candidate(
            split_point=members.points[i].name,
            predictor_value=number(values[i]),
            standard_error=number(curve.standard_error[index[i]] * scale[i]),
            source=curve.source(int(index[i])),
            live_count=float(curve.live_count[index[i]]),
            profile_count=float(curve.profile_count[index[i]]),
            nbytes=members.points[i].nbytes,
            is_candidate=bool(selected[i]),
            reason=reasons[i],
        )
        for i in order
    )
    title, requirement = "global maximum", "a known value"
    if rule == LOCAL:
        title, requirement = "highest local maximum", "a strict interior local maximum"
    return _placement(
        members,
        candidates,
        [members.points[i] for i in order if selected[i]],
        max_head_macs,
        claim=f"is the {title} of CUI",
        absence=f"CUI has no point with {requirement} among",
    )


def placement_by_predictor(
    split_points: Sequence[SplitPoint],
    predicted: F64,
    *,
    predictor: str,
    candidate_set: str,
    max_head_macs: float | None = None,
) -> Placement:
    """Rank by another predictor than CUI, from the profile alone.

    The best candidate is the highest member that the device can afford. A rule of local maxima has
    no meaning for other predictors.

    Parameters:
        predicted: shape (P,), larger is better; NaN where a value is not known.
        predictor: its name.
        candidate_set: "blocks" or "all".
        max_head_macs: as for :func:`placement_by_cui`.
    """
    members = _Members.of(split_points, candidate_set)
    values = predicted[members.index]
    nbytes = [point.nbytes for point in members.points]
    order = [i for i in ranking(values, nbytes) if np.isfinite(values[i])]
    candidates = tuple(
        Candidate(
            split_point=members.points[i].name,
            predictor_value=number(values[i]),
            standard_error=math.nan,
            source="profile",
            live_count=0.0,
            profile_count=0.0,
            nbytes=members.points[i].nbytes,
            is_candidate=_affordable(members.points[i], max_head_macs),
            reason=f"number {place} of {len(order)} by {predictor}",
        )
        for place, i in enumerate(order, start=1)
    )
    return _placement(
        members,
        candidates,
        [members.points[i] for i in order],
        max_head_macs,
        claim=f"has the highest {predictor}",
        absence=f"{predictor} is not known at any of",
    )


def candidate_points(split_points: Sequence[SplitPoint], candidate_set: str) -> tuple[I64, str]:
    """Indices (M,) of the members of a candidate set, in execution order, and the set's name.

    "blocks" holds the block outputs. A network without any gets "all" instead.
    """
    blocks = [i for i, point in enumerate(split_points) if point.is_block]
    if candidate_set == "blocks" and blocks:
        return np.asarray(blocks, dtype=np.int64), "blocks"
    return np.arange(len(split_points), dtype=np.int64), "all"


def log_cui(values: F64) -> F64:
    """log10 of the values: minus infinity for 0 and below, NaN for NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log10(np.maximum(values, 0.0)))


def local_maxima(values: F64) -> BoolArray:
    """Mask of the strict interior local maxima of log10 of ``values``, shape (M,).

    A maximum is above both neighbours. An end or a NaN is never one.
    """
    logs = log_cui(values)
    maxima = np.zeros(len(logs), dtype=np.bool_)
    if len(logs) > 2:
        maxima[1:-1] = (logs[1:-1] > logs[:-2]) & (logs[1:-1] > logs[2:])
    return maxima


def ranking(values: F64, nbytes: Sequence[int]) -> list[int]:
    """Positions from the highest value down; unknown values come last.

    Of equal values (see ``TIE``), the one with fewer bytes comes first, then the earlier one.
    """
    known = [i for i in range(len(values)) if np.isfinite(values[i])]
    known.sort(key=lambda i: -values[i])
    order: list[int] = []
    while known:
        top = values[known[0]]
        with np.errstate(over="ignore"):  # values may be as large as floats go
            tied = [i for i in known if top - values[i] <= TIE * abs(top)]
        order += sorted(tied, key=lambda i: (nbytes[i], i))
        known = known[len(tied) :]
    return order + [i for i in range(len(values)) if not np.isfinite(values[i])]


def one_population(values: F64, base: F64, live_count: F64) -> F64:
    """Make the values of M points comparable where they rest on different requests.

    Split traffic has values from its cut on only. So a rise from one point to the next may only
    mean that other requests were counted. A request that counts at a point counts at all later
    ones; equal counts mean the same requests. Where the counts differ, the step between the two
    neighbours is taken from ``base``, and all earlier values are scaled to it.

    Parameters:
        values: shape (M,).
        base: shape (M,), a curve of one population: the profile with whole live curves alone.
        live_count: shape (M,), requests behind each value.
    """
    comparable = np.array(values, dtype=np.float64)
    scale = 1.0
    for i in range(len(comparable) - 2, -1, -1):
        if live_count[i] != live_count[i + 1]:
            parts = (values[i], base[i], base[i + 1], comparable[i + 1])
            if all(np.isfinite(part) and part > 0 for part in parts):
                step = base[i] / base[i + 1] * comparable[i + 1] / values[i]
                scale = step if np.isfinite(step) and step > 0 else scale
        comparable[i] = values[i] * scale
    return comparable


@dataclass(frozen=True, eq=False)
class _Members:
    """A candidate set: indices into the curve, shape (M,), and the split points."""

    index: I64
    points: list[SplitPoint]
    name: str

    @classmethod
    def of(cls, split_points: Sequence[SplitPoint], candidate_set: str) -> _Members:
        index, name = candidate_points(split_points, candidate_set)
        return cls(index, [split_points[int(i)] for i in index], name)

    def __str__(self) -> str:
        kind = "block outputs" if self.name == "blocks" else "split points"
        return f"the {len(self.points)} {kind}"


def _placement(
    members: _Members,
    candidates: tuple[Candidate, ...],
    selected: Sequence[SplitPoint],
    max_head_macs: float | None,
    *,
    claim: str,
    absence: str,
) -> Placement:
    """Pick the first of ``selected``, best first, that the device can afford."""
    if not selected:
        reason = f"no place for a bottleneck: {absence} {members}"
        return Placement(candidates, None, members.name, reason)
    affordable = [point for point in selected if _affordable(point, max_head_macs)]
    if affordable:
        best = affordable[0]
        limited = "" if max_head_macs is None else " that the device can afford"
        reason = f"bottleneck: {best.name} {claim} among {members}{limited}"
    else:
        best = min(selected, key=lambda point: point.macs.head)
        reason = (
            f"bottleneck: no selected point meets max_head_macs; {best.name} exceeds it the least "
            f"({best.macs.head} MACs)"
        )
    return Placement(candidates, best.name, members.name, reason)


def _affordable(point: SplitPoint, max_head_macs: float | None) -> bool:
    return max_head_macs is None or point.macs.head <= max_head_macs


def _global_maximum(values: F64, order: Sequence[int]) -> BoolArray:
    """Mask of the highest value, if any is known."""
    selected = np.zeros(len(values), dtype=np.bool_)
    if order and np.isfinite(values[order[0]]):
        selected[order[0]] = True
    return selected


def _reasons(
    points: Sequence[SplitPoint],
    values: F64,
    order: Sequence[int],
    selected: BoolArray,
    rule: str,
) -> list[str]:
    """Why each point is selected or not."""
    names = [point.name for point in points]
    reasons = []
    for i in range(len(points)):
        if not np.isfinite(values[i]):
            reasons.append("CUI is not known here")
        elif rule == GLOBAL and selected[i]:
            reasons.append("global maximum of CUI")
        elif rule == GLOBAL:
            highest = names[order[0]]
            reasons.append(f"CUI is not above that of {highest}, or tied with more bytes")
        elif selected[i]:
            neighbours = f"{names[i - 1]} and {names[i + 1]}"
            reasons.append(f"CUI is higher than at both neighbours, {neighbours}")
        elif i in (0, len(values) - 1):
            reasons.append("an end of the curve, and the rule takes interior points only")
        else:
            higher = [names[j] for j in (i - 1, i + 1) if not values[i] > values[j]]
            reasons.append(f"CUI is not higher than at {' and '.join(higher)}")
    return reasons
