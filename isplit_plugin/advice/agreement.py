"""How accurate is a choice for a mix of classes: measured agreement with the full network, and live labels.

A split without compression changes nothing; a codec does, by class. The profile measured, for every codec and split
point, on how many images of each class the top-1 class equals the full network's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ..profile import CutMeasurement
from ..schema import Cut
from .anytime import factor
from .curves import K_MAX, K_MIN
from .intervals import newcombe, wilson
from .live_view import F64, I64, MOST, OutcomeRow, positions
from .mix import Mix

MIN_LABELLED: Final = 30
"""Labels (effective) that both rivals need before live accuracy may outrank the profile."""
LEVEL: Final = 0.99
"""Confidence with which labels overrule the profile, ever."""
LOSSLESS: Final = 0.999
"""Measured agreement from which a choice may stand for the full network when labels are compared."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """``share`` with its 95 % interval: of images of the asked classes whose top-1 equals the full network's.

    ``count``: how many images of these classes stand behind it (effective for a mix). ``estimate``: what decides; a
    share of few images leans on that of all classes. ``decided``: whether live labels settled it, above or below the
    tolerance. All ``None`` where nothing was measured.
    """

    share: float | None = None
    low: float | None = None
    high: float | None = None
    count: float = 0.0
    source: str = "none"
    estimate: float | None = None
    decided: bool | None = None

    def within(self, tolerance: float) -> bool:
        """Whether the choice is accurate enough. 1e-9 is for rounding."""
        if self.decided is not None:
            return self.decided
        return self.estimate is not None and self.estimate >= 1 - tolerance - 1e-9


class Share(NamedTuple):
    """A share in a stratified sample: its value over the known classes, effective n, the known weight of the mix."""

    value: float
    n: float
    weight: float


def stratified(weights: F64, n: F64, hits: F64) -> Share:
    """Post-stratified share for class ``weights`` (M,), from ``hits`` of ``n`` in each; n = 1 / sum(w^2 / n_c)."""
    known = (n > 0) & (weights > 0)
    covered = math.fsum(weights[known])
    if not covered > 0:
        return Share(math.nan, 0.0, 0.0)
    w = weights[known] / covered
    # By misses: where all agree the share is exactly 1.
    missed = math.fsum(w * (1 - hits[known] / n[known]))
    return Share(
        max(0.0, 1 - missed),
        1 / math.fsum(w * w / n[known]),
        1.0 if covered > 1 - 1e-9 else covered,
    )


def prior_strength(n: F64, hits: F64) -> float:
    """How many images the share of all classes is worth in judging one class, from 1 to 10.

    Beta-binomial moments: (1 - rho) / rho with the intra-class correlation rho from the analysis of variance.
    """
    n, hits = n[n > 0], hits[n > 0]
    total, classes = float(n.sum()), len(n)
    if classes < 2 or total <= classes:
        return K_MAX
    mean, grand = hits / n, hits.sum() / total
    between = float((n * (mean - grand) ** 2).sum()) / (classes - 1)
    within = float((hits * (1 - mean)).sum()) / (total - classes)
    size = (total - float((n * n).sum()) / total) / (classes - 1)
    if not between > within:
        return K_MAX
    rho = (between - within) / (between + (size - 1) * within)
    return float(np.clip((1 - rho) / rho, K_MIN, K_MAX))


def measured(measure: CutMeasurement, profile_ids: I64, mix: Mix) -> Agreement:
    """Agreement of one measured (split point, codec) for a mix.

    Classes without images are estimated by all classes; the interval leaves them open from 0 to 1.
    """
    seen, agree = measure.images.astype(np.float64), measure.agreeing.astype(np.float64)
    if not seen.sum() > 0:
        return Agreement()
    everything = float(agree.sum() / seen.sum())
    row = positions(profile_ids, mix.class_ids)
    n, hits = (np.where(row >= 0, counts[row], 0.0) for counts in (seen, agree))
    part = stratified(mix.weights, n, hits)
    if not part.weight > 0:
        return Agreement(everything, 0.0, 1.0, 0.0, "profile (other classes)", everything)
    low, high = wilson(part.value, part.n)
    k = prior_strength(seen, agree)
    leaning = everything + part.n / (part.n + k) * (part.value - everything)
    rest = 1 - part.weight
    return Agreement(
        share=part.weight * part.value + rest * everything,
        low=part.weight * low,
        high=min(1.0, part.weight * high + rest),
        count=part.n,
        source="profile" if rest < 1e-9 else "profile (partly other classes)",
        estimate=part.weight * leaning + rest * everything,
    )


def class_shares(measure: CutMeasurement | None, profile_ids: I64, class_ids: I64) -> F64:
    """Measured agreement of each of ``class_ids`` (M,); that of all classes where a class has no image."""
    if measure is None or not measure.images.sum() > 0:
        return np.zeros(len(class_ids))
    seen, agree = measure.images.astype(np.float64), measure.agreeing.astype(np.float64)
    row = positions(profile_ids, class_ids)
    n, hits = (np.where(row >= 0, counts[row], 0.0) for counts in (seen, agree))
    return np.where(n > 0, hits / np.maximum(n, 1.0), agree.sum() / seen.sum())


def labelled(outcomes: Sequence[OutcomeRow], mix: Mix) -> dict[Cut, tuple[F64, F64]]:
    """Labels and correct ones per class of the mix, shapes (M,), of every served (split point, codec)."""
    at = {int(c): i for i, c in enumerate(mix.class_ids)}
    found: dict[Cut, tuple[F64, F64]] = {}
    known = [
        r
        for r in outcomes
        if 0 < r.labelled <= MOST and math.isfinite(r.correct) and r.class_id in at
    ]
    for row in sorted(known, key=lambda r: (r.cut.split_point, r.cut.coding, r.class_id)):
        key = row.cut
        if key not in found:
            found[key] = np.zeros(len(at)), np.zeros(len(at))
        n, hits = found[key]
        n[at[row.class_id]] += row.labelled
        hits[at[row.class_id]] += min(max(row.correct, 0.0), row.labelled)
    return found


def outrank(
    agreements: Mapping[Cut, Agreement],
    labels: Mapping[Cut, tuple[F64, F64]],
    mix: Mix,
    tolerance: float,
    whole: Iterable[Cut],
) -> dict[Cut, Agreement]:
    """Let labelled live outcomes overrule the profile where they settle the matter.

    A choice's accuracy is compared with that of the full network: requests at ``whole`` (everything on the server),
    else the choice with the most labels among those measured as lossless. Only classes with labels on both sides count,
    so that one population is compared with itself. Both sides need 30 labels, and the 99 % Newcombe interval of the
    difference, widened so that it holds at all times, must lie on one side of the tolerance: a few labels never
    overrule a paired measurement, and looking again and again does not help them.
    """
    out = dict(agreements)
    for key in agreements:
        rivals = _rivals(key, agreements, labels, whole)
        if rivals is None or key not in labels:
            continue
        (n1, hits1), (n2, hits2) = labels[key], rivals
        both = (n1 > 0) & (n2 > 0)
        w = np.where(both, mix.weights, 0.0)
        one, two = stratified(w, n1, hits1), stratified(w, n2, hits2)
        if one.n < MIN_LABELLED or two.n < MIN_LABELLED:
            continue
        z = float(factor(min(one.n, two.n), 1 - LEVEL))
        low, high = newcombe(one.value, one.n, two.value, two.n, z)
        if low >= -tolerance or high < -tolerance:
            decided = low >= -tolerance
            share = 1 + min(0.0, one.value - two.value)
            low, high = newcombe(one.value, one.n, two.value, two.n)
            out[key] = Agreement(
                share,
                _clip(1 + low),
                max(share, _clip(1 + high)),
                one.n,
                "live labels",
                share,
                decided,
            )
    return out


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def _rivals(
    key: Cut,
    agreements: Mapping[Cut, Agreement],
    labels: Mapping[Cut, tuple[F64, F64]],
    whole: Iterable[Cut],
) -> tuple[F64, F64] | None:
    served_whole = [labels[k] for k in sorted(whole) if k in labels and k != key]
    if served_whole:
        n = np.sum([n for n, _ in served_whole], axis=0)
        if n.sum() >= MIN_LABELLED:
            return n, np.sum([hits for _, hits in served_whole], axis=0)
    lossless = [
        k
        for k, a in agreements.items()
        if k != key and k in labels and a.estimate is not None and a.estimate >= LOSSLESS
    ]
    if not lossless:
        return None
    return labels[max(lossless, key=lambda k: (float(labels[k][0].sum()), k))]
