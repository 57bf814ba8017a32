"""Where is a bottleneck worth placing: the two rules of I-SPLIT over a candidate set, and the ranking by CUI.

Cunico et al., "I-SPLIT: Deep Network Interpretability for Split Computing", ICPR 2022. The released code takes the
strict interior local maxima of log10 CUI, the paper's page the global maximum; they disagree wherever the last layer
is the highest, so every answer names its rule. CUI holds a factor 1/C (it averages over channels), so ranks across
widths are partly an artefact of its definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..schema import Candidate, SplitPoint
from .curves import Curve, number
from .live_view import F64, I64

BoolArray = npt.NDArray[np.bool_]

GLOBAL: Final = "global-maximum"
TIE: Final = 1e-9
"""Relative difference up to which two values are one (a layer and its flatten differ by rounding alone)."""


def candidate_points(split_points: Sequence[SplitPoint], candidate_set: str) -> tuple[I64, str]:
    """Indices (M,) of the members in execution order, and the name of the set that was used.

    "blocks" takes block outputs; a network without any gets "all".
    """
    blocks = [i for i, point in enumerate(split_points) if point.is_block]
    if candidate_set == "blocks" and blocks:
        return np.asarray(blocks, dtype=np.int64), "blocks"
    return np.arange(len(split_points), dtype=np.int64), "all"


def log_cui(values: F64) -> F64:
    """log10 with 0 (and below) at minus infinity; NaN stays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log10(np.maximum(values, 0.0)))


def local_maxima(values: F64) -> BoolArray:
    """Strict interior local maxima of log10 of ``values`` (M,): above both neighbours, never an end, never NaN."""
    logs = log_cui(values)
    found = np.zeros(len(logs), dtype=np.bool_)
    if len(logs) > 2:
        found[1:-1] = (logs[1:-1] > logs[:-2]) & (logs[1:-1] > logs[2:])
    return found


def ranking(values: F64, nbytes: Sequence[int]) -> list[int]:
    """Positions from the highest value down; ties (within 1e-9 relative) take fewer bytes, then the earlier point.

    Values that are not known come last.
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

    Split traffic has values from its cut on only, so a rise from one point to the next may be nothing but other
    requests. Requests known at a point are known at all later ones: equal counts mean the same requests. Where counts
    differ, the step between the two neighbours is read from ``base``, a curve of one population (the profile with whole
    live curves alone), and everything before is scaled to it.
    """
    out = np.array(values, dtype=np.float64)
    scale = 1.0
    for i in range(len(out) - 2, -1, -1):
        j = i + 1
        if live_count[i] != live_count[j]:
            parts = (values[i], base[i], base[j], out[j])
            step = (
                base[i] / base[j] * out[j] / values[i]
                if all(np.isfinite(p) and p > 0 for p in parts)
                else scale
            )
            scale = step if np.isfinite(step) and step > 0 else scale
        out[i] = values[i] * scale
    return out


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a bottleneck is worth placing: all members ranked, the ``pick`` and what is to be said about it."""

    candidates: tuple[Candidate, ...]
    pick: str | None
    candidate_set: str
    reason: str


def place(
    split_points: Sequence[SplitPoint],
    curve: Curve,
    *,
    base: F64 | None = None,
    rule: str,
    candidate_set: str,
    max_head_macs: float | None = None,
) -> Placement:
    """Apply a rule. The pick is the highest member that the rule selects and whose head the device can afford.

    ``base``: (P,) see :func:`one_population`; the curve without live traffic where it is not given.
    Bytes and latency limits do not apply: what a bottleneck will send is not known before it is trained.
    """
    index, used_set = candidate_points(split_points, candidate_set)
    members = [split_points[int(i)] for i in index]
    base = curve.prior if base is None else base
    values = one_population(curve.value[index], base[index], curve.live_count[index])
    nbytes = [point.nbytes for point in members]
    order = ranking(values, nbytes)
    if rule == "local-maxima":
        selected = local_maxima(values)
    else:
        selected = np.zeros(len(members), dtype=np.bool_)
        if order and np.isfinite(values[order[0]]):
            selected[order[0]] = True
    with np.errstate(all="ignore"):
        scale = np.where(curve.value[index] > 0, values / curve.value[index], 1.0)
    candidates = tuple(
        Candidate(
            split_point=members[i].name,
            predictor_value=number(values[i]),
            standard_error=number(curve.standard_error[index[i]] * scale[i]),
            source=curve.source(int(index[i])),
            live_count=float(curve.live_count[index[i]]),
            profile_count=float(curve.profile_count[index[i]]),
            nbytes=members[i].nbytes,
            is_candidate=bool(selected[i]),
            reason=_why(
                i,
                values,
                rule,
                bool(selected[i]),
                [members[j].name for j in (order[0], *range(len(members)))],
            ),
        )
        for i in order
    )
    chosen = [members[i] for i in order if selected[i]]
    pick, reason = _pick(chosen, rule, used_set, len(members), max_head_macs)
    return Placement(candidates, pick, used_set, reason)


def place_by(
    split_points: Sequence[SplitPoint],
    predicted: F64,
    *,
    predictor: str,
    candidate_set: str,
    max_head_macs: float | None = None,
) -> Placement:
    """Rank by another predictor than CUI: ``predicted`` (P,), larger is better, from the profile alone.

    The pick is the highest member that the device can afford; a rule of local maxima has no meaning here.
    """
    index, used_set = candidate_points(split_points, candidate_set)
    members = [split_points[int(i)] for i in index]
    values = predicted[index]
    order = [
        i for i in ranking(values, [point.nbytes for point in members]) if np.isfinite(values[i])
    ]
    fit = [i for i in order if max_head_macs is None or members[i].macs.head <= max_head_macs]
    over = f"the {len(members)} {'block outputs' if used_set == 'blocks' else 'split points'}"
    best = (fit or sorted(order, key=lambda i: members[i].macs.head))[:1]
    if not best:
        reason = f"no place for a bottleneck: {predictor} is not known at any of {over}"
    elif fit:
        afford = "" if max_head_macs is None else " that the device can afford"
        reason = (
            f"bottleneck: {members[best[0]].name} has the highest {predictor} among {over}{afford}"
        )
    else:
        reason = f"bottleneck: no point meets max_head_macs; {members[best[0]].name} exceeds it the least"
    candidates = tuple(
        Candidate(
            split_point=members[i].name,
            predictor_value=number(values[i]),
            standard_error=number(float("nan")),
            source="profile",
            live_count=0.0,
            profile_count=0.0,
            nbytes=members[i].nbytes,
            is_candidate=i in fit,
            reason=f"number {place} of {len(order)} by {predictor}",
        )
        for place, i in enumerate(order, start=1)
    )
    return Placement(candidates, members[best[0]].name if best else None, used_set, reason)


def _pick(
    chosen: list[SplitPoint], rule: str, used_set: str, members: int, max_head_macs: float | None
) -> tuple[str | None, str]:
    over = f"the {members} {'block outputs' if used_set == 'blocks' else 'split points'}"
    if not chosen:
        what = "a strict interior local maximum" if rule == "local-maxima" else "a known value"
        return None, f"no place for a bottleneck: CUI has no point with {what} among {over}"
    what = "highest local maximum" if rule == "local-maxima" else "global maximum"
    if max_head_macs is None:
        return chosen[0].name, f"bottleneck: {chosen[0].name} is the {what} of CUI among {over}"
    fit = [point for point in chosen if point.macs.head <= max_head_macs]
    if fit:
        return (
            fit[0].name,
            f"bottleneck: {fit[0].name} is the {what} of CUI among {over} that the device can afford",
        )
    least = min(chosen, key=lambda point: point.macs.head)
    return least.name, (
        f"bottleneck: no point that the rule selects meets max_head_macs; {least.name} exceeds it the least "
        f"({least.macs.head} MACs)"
    )


def _why(i: int, values: F64, rule: str, selected: bool, names: Sequence[str]) -> str:
    """``names``: that of the highest member, then those of all members in order."""
    highest, *names = names
    if not np.isfinite(values[i]):
        return "CUI is not known here"
    if rule == "global-maximum":
        return (
            "global maximum of CUI"
            if selected
            else f"CUI is not above that of {highest}, or tied with more bytes"
        )
    if selected:
        return f"CUI is higher than at both neighbours, {names[i - 1]} and {names[i + 1]}"
    if i in (0, len(values) - 1):
        return "an end of the curve, and the rule takes interior points only"
    higher = [names[j] for j in (i - 1, i + 1) if not values[i] > values[j]]
    return f"CUI is not higher than at {' and '.join(higher)}"
