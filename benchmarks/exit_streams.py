"""What an exit says of photos, and what traffic of such photos proves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from isplit_plugin.exits import (
    BINS,
    NONE,
    Exit,
    ShadowCounts,
    proven_groups,
    version_alpha,
)
from isplit_plugin.traffic import ExitClass, ExitCount, ExitState

from .exit_traffic import F64, I64

LENGTHS: Final = (3_000, 10_000, 30_000)
"""Photos of the traffic after which the released share is told."""
LOOKS: Final = 70

Bins = Mapping[int, int | None]
"""From which bin on each class is answered; ``None`` where it is not."""


@dataclass(frozen=True)
class Said:
    """What an exit said of N photos.

    Attributes:
        class_ids: (N,), ``NONE`` for none. bins: (N,). agrees: (N,).
    """

    class_ids: I64
    bins: I64
    agrees: npt.NDArray[np.bool_]

    @classmethod
    def by(cls, exit_: Exit, features: F64, answers: I64) -> Said:
        """What an exit says of features (N, F) where the full network gives these answers (N,)."""
        said = exit_.answers(features)
        class_ids = np.array([each.class_id for each in said])
        return cls(class_ids, np.array([each.bin for each in said]), class_ids == answers)

    def of(self, photos: I64) -> Said:
        """Of these photos alone, some of them several times."""
        return Said(self.class_ids[photos], self.bins[photos], self.agrees[photos])

    def counts(self) -> dict[int, ShadowCounts]:
        """By class."""
        known = self.class_ids != NONE
        ids, at = np.unique(self.class_ids[known], return_inverse=True)
        cells = (at * BINS + self.bins[known]) * 2 + self.agrees[known]
        counts = np.bincount(cells, minlength=len(ids) * BINS * 2).reshape(len(ids), BINS, 2)
        return {
            class_id: ShadowCounts(own[:, 1], own[:, 0])
            for class_id, own in zip(ids.tolist(), counts, strict=True)
        }

    def rows(self) -> list[ExitCount]:
        """As the store has them."""
        return [
            ExitCount("shadow", class_id, index, agreeing + disagreeing, agreeing)
            for class_id, each in self.counts().items()
            for index, (agreeing, disagreeing) in enumerate(
                zip(each.agreeing.tolist(), each.disagreeing.tolist(), strict=True)
            )
            if agreeing + disagreeing
        ]

    def answered(self, lowest: Bins) -> tuple[float, float]:
        """The share that is answered from these bins on, and the share of it that disagrees."""
        exits = np.zeros(len(self.bins), bool)
        for class_id, bin_index in lowest.items():
            if bin_index is not None:
                exits |= (self.class_ids == class_id) & (self.bins >= bin_index)
        return float(exits.mean()), float((~self.agrees[exits]).mean()) if exits.any() else 0.0

    def lowest_within(self, tolerance: float) -> int | None:
        """The lowest bin, one for all classes, from which no more than that share disagrees."""
        total = ShadowCounts.none()
        for each in self.counts().values():
            total = total.merge(each)
        trials, misses = total.trials(), total.misses()
        within = np.flatnonzero((trials > 0) & (misses <= tolerance * trials))
        return int(within[0]) if len(within) else None


def state_after(
    classes: Iterable[int], said: Said, tolerance: float, before: ExitState | None = None
) -> ExitState:
    """A first version after these shadow answers."""
    if before is None:
        before = ExitState(1, tolerance, {class_id: ExitClass() for class_id in classes})
    return before.after(said.rows(), alpha=version_alpha(1), now=0.0)


def released_bins(state: ExitState) -> Bins:
    """Of the classes that devices may answer."""
    return {class_id: each.bin for class_id, each in state.released().items()}


def released_after(
    exit_: Exit, population: Said, tolerance: float, random: np.random.Generator, *, together: bool
) -> tuple[float, list[Bins]]:
    """The photo of the first release, infinite without one, and what is released after ``LENGTHS``.

    Parameters:
        population: the photos of which the traffic is drawn: each once, then at random.
        together: classes are proven together, as devices have it, or each by itself.
    """
    size, longest = len(population.bins), max(LENGTHS)
    again = random.integers(0, size, max(0, longest - size))
    order = np.concatenate((random.permutation(size), again))
    state = state_after(exit_.classes, population.of(order[:0]), tolerance)
    bins: Bins = {}
    first, after = float("inf"), []
    for look in sorted({*np.geomspace(50, longest, LOOKS).astype(int).tolist(), *LENGTHS}):
        said = population.of(order[:look])
        if together:
            state = state_after(exit_.classes, said, tolerance, state)
            bins = released_bins(state)
        else:
            bins = _alone(bins, said.counts(), tolerance)
        if bins:
            first = min(first, look)
        if look in LENGTHS:
            after.append(bins)
    return first, after


def _alone(before: Bins, counts: Mapping[int, ShadowCounts], tolerance: float) -> Bins:
    """The bins of classes that are proven by themselves, each a group of one."""
    bins = dict(before)
    for class_id, own in counts.items():
        for group in proven_groups({class_id: own}, tolerance, version_alpha(1)):
            known = bins.get(class_id)
            bins[class_id] = group.bin if known is None else min(known, group.bin)
    return bins
