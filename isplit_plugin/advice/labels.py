"""What labels say of the deployed cuts, and where they overrule the measured agreement.

Labels are counted one by one where the question is whether there are enough of them. Where the
question is what they prove, opinions count (:class:`.live_view.OutcomeRow`): a device that labels a
thousand requests an hour is one device. The size of a share is then Kish's effective number of
opinions, and never more than the labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from ..schema import Cut
from .agreement import Agreement, stratified
from .anytime import bound_factor
from .intervals import newcombe
from .live_view import F64, MAX_COUNT, OutcomeRow, OutcomeRows
from .mix import Mix

MIN_LABELLED: Final = 30
"""Labels (effective) that both sides need before live accuracy may overrule the profile."""
LEVEL: Final = 0.99
"""Confidence with which labels overrule the profile, at all times at once."""
LOSSLESS: Final = 0.999
"""Measured agreement from which a cut may stand for the full network, to compare labels with."""


class LabelSums(NamedTuple):
    """The sums of :class:`.live_view.OutcomeRow` over the labels of a cut, all of one shape (M,)."""

    labelled: F64
    correct: F64
    weight: F64
    weight_correct: F64
    weight2: F64

    @classmethod
    def of(cls, rows: Iterable[OutcomeRow]) -> LabelSums:
        """The sums of each row."""
        return cls(*np.array([row[3:] for row in rows], np.float64).reshape(-1, 5).T)

    @classmethod
    def total(cls, parts: Sequence[LabelSums]) -> LabelSums:
        """All parts together."""
        return cls(*(np.sum(sums, axis=0) for sums in zip(*parts, strict=True)))

    def one_by_one(self) -> tuple[F64, F64]:
        """The number of labels and of correct ones, both (M,)."""
        return self.labelled, np.clip(self.correct, 0.0, self.labelled)

    def opinions(self) -> tuple[F64, F64]:
        """The effective number of opinions, (sum w)^2 / sum w^2 (Kish), and that of correct ones.

        Both are (M,). There are no more than labels.
        """
        known = np.isfinite(self.weight) & (self.weight > 0) & (self.weight2 > 0)
        weight = np.where(known, self.weight, 1.0)
        with np.errstate(over="ignore"):
            number = weight * (weight / np.where(known, self.weight2, 1.0))
            share = np.where(known, self.weight_correct, 0.0) / weight
        size = np.where(known, np.minimum(number, self.labelled), 0.0)
        return size, size * np.clip(share, 0.0, 1.0)


def label_sums(outcomes: Sequence[OutcomeRow], mix: Mix) -> dict[Cut, LabelSums]:
    """The labels of every served cut by class of the mix. Shapes (M,)."""
    rows = outcomes.labelled() if isinstance(outcomes, OutcomeRows) else outcomes
    if not rows:
        return {}
    columns = {int(class_id): i for i, class_id in enumerate(mix.class_ids)}
    usable = [
        row
        for row in rows
        if 0 < row.labelled <= MAX_COUNT
        and all(map(math.isfinite, row[4:]))
        and row.class_id in columns
    ]
    sums: dict[Cut, F64] = {}
    for row in sorted(usable, key=lambda r: (r.cut.split_point, r.cut.coding, r.class_id)):
        if row.cut not in sums:
            sums[row.cut] = np.zeros((5, len(columns)))
        sums[row.cut][:, columns[row.class_id]] += row[3:]
    return {cut: LabelSums(*parts) for cut, parts in sums.items()}


def agreements_with_labels(
    agreements: Mapping[Cut, Agreement],
    labels: Mapping[Cut, LabelSums],
    mix: Mix,
    tolerance: float,
    on_server: Iterable[Cut],
) -> dict[Cut, Agreement]:
    """The agreements, overruled by labels where these settle the matter.

    A cut's accuracy is compared with that of the full network: requests at ``on_server``, or else
    the cut with the most labels among those measured as lossless. Only classes with labels on both
    sides count, so both sides describe one population.

    Both sides need 30 labels, and the 99 % Newcombe interval of the difference must lie on one side
    of the tolerance. The interval is widened so that it holds at all times, and it counts opinions.
    So a few labels never overrule a paired measurement, looking more often does not help them, and
    neither does sending more of them from one device.

    Parameters:
        labels: from :func:`label_sums`.
        on_server: cuts at which the whole network runs on the server.
    """
    overruled = dict(agreements)
    for cut in agreements if labels else ():
        reference = _reference_sums(cut, agreements, labels, on_server)
        if reference is not None and cut in labels:
            decision = _decision(labels[cut], reference, mix, tolerance)
            if decision is not None:
                overruled[cut] = decision
    return overruled


def _decision(
    sums: LabelSums, reference: LabelSums, mix: Mix, tolerance: float
) -> Agreement | None:
    """What labels say about a cut; ``None`` where they do not settle it."""
    n, hits = sums.opinions()
    reference_n, reference_hits = reference.opinions()
    weights = np.where((n > 0) & (reference_n > 0), mix.weights, 0.0)
    labels = min(stratified(weights, *part.one_by_one()).n for part in (sums, reference))
    if labels < MIN_LABELLED:
        return None
    own = stratified(weights, n, hits)
    full = stratified(weights, reference_n, reference_hits)
    z = float(bound_factor(min(own.n, full.n), 1 - LEVEL))
    low, high = newcombe(own.value, own.n, full.value, full.n, z)
    within = low >= -tolerance
    if not within and not high < -tolerance:
        return None
    share = 1 + min(0.0, own.value - full.value)
    low, high = newcombe(own.value, own.n, full.value, full.n)
    return Agreement(
        share=share,
        low=_clip(1 + low),
        high=max(share, _clip(1 + high)),
        count=own.n,
        source="live labels",
        estimate=share,
        decided=within,
    )


def _reference_sums(
    cut: Cut,
    agreements: Mapping[Cut, Agreement],
    labels: Mapping[Cut, LabelSums],
    on_server: Iterable[Cut],
) -> LabelSums | None:
    """The labels of the full network, or of the best stand-in for it."""
    whole = [labels[other] for other in sorted(on_server) if other in labels and other != cut]
    if whole:
        total = LabelSums.total(whole)
        if total.labelled.sum() >= MIN_LABELLED:
            return total
    lossless = [
        other
        for other, agreement in agreements.items()
        if other != cut
        and other in labels
        and agreement.estimate is not None
        and agreement.estimate >= LOSSLESS
    ]
    if not lossless:
        return None
    return labels[max(lossless, key=lambda other: (float(labels[other].labelled.sum()), other))]


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
