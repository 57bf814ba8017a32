"""Release: which classes a device may answer, and from which margin on, proven by shadow answers.

In shadow, a device sends as usual, and what the exit would have answered is compared with the full
network's answer. Counts are kept by class and bin of the margin. Classes are proven together, as a
**group**. A hypothesis for each group and each bin b says "of the answers of these classes with a
margin in bin b or above, more than the tolerance disagree". The chance that a group is ever proven
whose hypothesis is true is at most alpha, for all groups and bins of a version together:

* **Groups.** Any set of classes may be the group, chosen by the same counts, because each set has a
  share of alpha of its own (a union bound): most of it goes to the group of all classes, and what
  is left halves with each class that is left out, and is divided among the groups of that size.
  Tried are the groups without the k classes that disagree most, for each k.
* **Bins.** Three bins have a part of the group's share. They are tested from the strictest down: a
  rejected one hands its part on to the next (fixed-sequence testing, Angelopoulos et al., "Learn
  then Test", 2021, with parts of its own for several bins: the fallback procedure of Wiens &
  Dmitrienko, *J. Biopharmaceutical Statistics* 2005, so that strict bins that few photos reach do
  not block the others).

A class by itself may disagree more often than its group. So of a proven group those classes are
released that have a few answers of their own which do not speak against them, and audits watch
each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np

from ..errors import DataError
from .evidence import evidences_below, trials_missing
from .exit import BINS
from .features import I64

TOLERANCE: Final = 0.01
"""The share of the answers of released classes that may disagree with the full network's."""
ALPHA: Final = 0.05
"""The chance that this ever fails for an exit."""
STARTS: Final[Mapping[int, float]] = {5: 0.15, 9: 0.7, 12: 0.15}
"""The bins with a part of alpha of their own. Bin 9 begins just below the usual margin."""
LEAST_ANSWERS: Final = 30
"""The shadow answers of its own that a class of a proven group needs."""
_MAIN: Final = max(STARTS, key=lambda index: STARTS[index])
_ALL_CLASSES: Final = 0.7
"""The share of alpha of the group of all classes."""
_MAX_COUNT: Final = 2**53

Promise = Literal["together", "each"]
"""Whose answers keep the tolerance: those of all released classes together, or of each by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class ShadowCounts:
    """Shadow answers of one class and one version of an exit.

    Attributes:
        agreeing, disagreeing: (``BINS``,) int64, by bin of the margin.
    """

    agreeing: I64
    disagreeing: I64

    @classmethod
    def none(cls) -> Self:
        """No answers yet."""
        return cls(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64))

    @classmethod
    def from_lists(cls, agreeing: Sequence[Any], disagreeing: Sequence[Any]) -> Self:
        """Counts from two lists of ``BINS`` integers. Raises DataError."""
        counts = []
        for name, values in (("agreeing", agreeing), ("disagreeing", disagreeing)):
            array = np.asarray(values)
            whole = array.shape == (BINS,) and np.issubdtype(array.dtype, np.integer)
            if not whole or (array < 0).any() or (array > _MAX_COUNT).any():
                raise DataError(f"{name}: expected {BINS} counts, got {str(values)[:80]}")
            counts.append(array.astype(np.int64))
        return cls(*counts)

    def add(self, bin_index: int, agreed: bool, times: int = 1) -> ShadowCounts:
        """With more answers in one bin. Raises DataError for a bin that there is not."""
        if not 0 <= bin_index < BINS:
            raise DataError(f"bin: expected 0 to {BINS - 1}, got {bin_index}")
        more = np.zeros(BINS, np.int64)
        more[bin_index] = times
        nothing = np.zeros(BINS, np.int64)
        return self.merge(ShadowCounts(more, nothing) if agreed else ShadowCounts(nothing, more))

    def merge(self, other: ShadowCounts) -> ShadowCounts:
        """The answers of both."""
        return ShadowCounts(self.agreeing + other.agreeing, self.disagreeing + other.disagreeing)

    @property
    def answers(self) -> int:
        """All of them."""
        return int(self.agreeing.sum() + self.disagreeing.sum())

    def trials(self) -> I64:
        """(``BINS``,): the answers in each bin or above."""
        return np.asarray((self.agreeing + self.disagreeing)[::-1].cumsum()[::-1])

    def misses(self) -> I64:
        """(``BINS``,): the disagreeing answers in each bin or above."""
        return np.asarray(self.disagreeing[::-1].cumsum()[::-1])


def version_alpha(number: int, alpha: float = ALPHA) -> float:
    """What the ``number``-th version of an exit, counted from 1, may spend of ``alpha``.

    All versions together spend ``alpha``. Raises DataError for a number below 1.
    """
    if number < 1:
        raise DataError(f"version number: expected 1 or more, got {number}")
    return alpha * 6 / (math.pi * number) ** 2


class ProvenGroup(NamedTuple):
    """Classes whose answers together keep the tolerance.

    Attributes:
        bin: with a margin in this bin or above.
        class_ids: the classes.
    """

    bin: int
    class_ids: frozenset[int]


def proven_groups(
    counts: Mapping[int, ShadowCounts], tolerance: float = TOLERANCE, alpha: float = ALPHA
) -> tuple[ProvenGroup, ...]:
    """The groups that are proven, the one with the most classes first; mostly one or none.

    Once proven a group stays so, whatever counts follow.

    Parameters:
        counts: of all classes of a version, also of those without an answer.
    """
    groups = _groups(counts, tolerance, alpha)
    proven = ((left_out, _lowest(group, tolerance)) for left_out, group in enumerate(groups.tests))
    return tuple(
        ProvenGroup(lowest, frozenset(groups.class_ids[left_out:].tolist()))
        for left_out, lowest in proven
        if lowest is not None
    )


def may_be_released(counts: ShadowCounts, bin_index: int, tolerance: float = TOLERANCE) -> bool:
    """Whether a class's own answers allow to release it with its group, from this bin on.

    It takes ``LEAST_ANSWERS``, of which no more than twice the tolerance, and one, disagree.
    """
    trials, misses = int(counts.trials()[bin_index]), int(counts.misses()[bin_index])
    return trials >= LEAST_ANSWERS and misses <= 1 + 2 * tolerance * trials


def missing(
    counts: Mapping[int, ShadowCounts], tolerance: float = TOLERANCE, alpha: float = ALPHA
) -> int:
    """How many more shadow answers a version needs at least until a group is proven; 0 if one is.

    So many are enough if all agree, are of classes of the group that needs the fewest, and have
    margins in the bin that needs the fewest.
    """
    tests = _groups(counts, tolerance, alpha).tests
    if any(_lowest(test, tolerance) is not None for test in tests):
        return 0
    return min(
        trials_missing(
            int(test.trials[index]), int(test.misses[index]), tolerance, part * test.alpha
        )
        for test in tests
        for index, part in STARTS.items()
        if part * test.alpha > 0
    )


class _Test(NamedTuple):
    """The answers (``BINS``,) of a group together, and its share of alpha."""

    trials: I64
    misses: I64
    alpha: float


class _Groups(NamedTuple):
    """Groups to test.

    Attributes:
        class_ids: the class that disagrees most first.
        tests: of all classes, of those without the first, without the first two, and so on.
    """

    class_ids: I64
    tests: Sequence[_Test]


def _groups(counts: Mapping[int, ShadowCounts], tolerance: float, alpha: float) -> _Groups:
    """All classes, and all without the worst, the two worst, ... that disagree too often."""
    if not counts:
        raise DataError("counts: expected those of one class at least, got none")
    class_ids = np.array(sorted(counts), np.int64)
    trials = np.stack([counts[class_id].trials() for class_id in class_ids.tolist()])
    misses = np.stack([counts[class_id].misses() for class_id in class_ids.tolist()])
    excess = misses[:, _MAIN] - tolerance * trials[:, _MAIN]
    worst = np.argsort(-excess, kind="stable")
    most = min(int(np.count_nonzero(excess > 0)), len(worst) - 1)
    trials, misses = (each[worst[::-1]].cumsum(axis=0)[::-1] for each in (trials, misses))
    tests = [
        _Test(trials[left_out], misses[left_out], alpha * _group_share(len(worst), left_out))
        for left_out in range(most + 1)
    ]
    return _Groups(class_ids[worst], tests)


def _group_share(classes: int, left_out: int) -> float:
    """The share of alpha of one group. Those of all groups add up to 1 at most."""
    if left_out == 0:
        return _ALL_CLASSES
    ways = (
        math.lgamma(classes + 1) - math.lgamma(left_out + 1) - math.lgamma(classes - left_out + 1)
    )
    return (1 - _ALL_CLASSES) * math.exp(-left_out * math.log(2) - ways)


def _lowest(test: _Test, tolerance: float) -> int | None:
    """The lowest bin whose hypothesis is rejected; ``None`` where none is."""
    evidence = evidences_below(test.trials, test.misses, tolerance)
    lowest, inherited = None, 0.0
    for index in reversed(range(BINS)):
        own = inherited + STARTS.get(index, 0.0) * test.alpha
        inherited = 0.0
        if own > 0 and evidence[index] >= -math.log(own):
            lowest, inherited = index, own
    return lowest
