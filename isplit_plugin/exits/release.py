"""Release: from which margin on a class may be answered by the device, proven by shadow answers.

In shadow, a device sends as usual, and what the exit would have answered is compared with the full
network's answer. Counts are kept by class and bin of the margin. A hypothesis for each bin b says
"the exit disagrees too often on photos with a margin in bin b or above". They are tested from the
strictest bin down: a rejected one hands its share of alpha on to the next (fixed-sequence testing,
Angelopoulos et al., "Learn then Test", 2021, with shares of its own for several bins: the fallback
procedure of Wiens & Dmitrienko, *J. Biopharmaceutical Statistics* 2005, so that strict bins that
few photos reach do not block the others). The chance that a class is ever released from a bin
where it disagrees too often is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from ..errors import DataError
from .evidence import evidences_below, trials_missing
from .exit import BINS
from .features import F64, I64

TOLERANCE: Final = 0.01
"""The share of a released class's answers that may disagree with the full network's."""
ALPHA: Final = 0.05
"""The chance that this ever fails for a class."""
STARTS: Final = (0, 3, 6, 9)
"""The bins with a share of alpha of their own. Bin 9 begins just below the usual margin."""
_MAX_COUNT: Final = 2**53


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


def released_bin(
    counts: ShadowCounts, tolerance: float = TOLERANCE, alpha: float = ALPHA
) -> int | None:
    """The lowest bin from which the class may be answered; ``None`` where none is proven.

    Once proven it stays so: keep the lowest that was ever returned for a version.
    """
    evidence = evidences_below(counts.trials(), counts.misses(), tolerance)
    released, inherited = None, 0.0
    for index in reversed(range(BINS)):
        own = _share(index, alpha) + inherited
        inherited = 0.0
        if own > 0 and evidence[index] >= math.log(1 / own):
            released, inherited = index, own
    return released


def missing(counts: ShadowCounts, tolerance: float = TOLERANCE, alpha: float = ALPHA) -> int:
    """How many more shadow answers the class needs at least until it is released; 0 if it is.

    So many are enough if all agree, with margins in the bin that needs the fewest.
    """
    if released_bin(counts, tolerance, alpha) is not None:
        return 0
    trials, misses = counts.trials(), counts.misses()
    return min(
        trials_missing(int(trials[index]), int(misses[index]), tolerance, _share(index, alpha))
        for index in STARTS
    )


def margin_shares(counts: ShadowCounts) -> F64:
    """(``BINS``,): the share of the answers in each bin or above; zeros without answers."""
    return np.asarray(counts.trials() / max(1, counts.answers))


def _share(index: int, alpha: float) -> float:
    return alpha / len(STARTS) if index in STARTS else 0.0
