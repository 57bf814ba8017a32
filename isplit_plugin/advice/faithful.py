"""What a calibration set can tell about a cut: whether its agreement is within the tolerance.

Agreement is paired with the full network by definition: on every photo, a cut either gives the full
network's class or misses it. Two exact tests ask whether the misses could be chance:

- the sign test against the full network: k misses, and none the other way, have the probability
  1 / 2**k (McNemar, *Psychometrika* 1947, exact)
- the binomial test against the tolerance: the probability of k misses or more of n photos, each
  missed with the probability that the tolerance allows

A cut whose share is below 1 - tolerance is *undecided* while neither test rejects at 5 %. So one
photo of sixty does not rule a cut out, and five photos always do.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from ..profile import CutMeasurement
from .live_view import I64

TOLERANCE: Final = 0.01
"""The share of answers that may differ, where nobody says otherwise."""
CHANCE: Final = 0.05
"""The probability below which misses are not put down to chance."""
_SLACK: Final = 1e-9
"""For rounding: 0.99 of 100 photos is 99 of them."""


class Sample(NamedTuple):
    """So many photos, and how many of them a cut misses. Both may be effective numbers."""

    photos: float
    misses: float

    @classmethod
    def of(cls, measurement: CutMeasurement, rows: I64 | None = None) -> Sample:
        """The photos of a measurement, of all class rows or of these."""
        own_rows = slice(None) if rows is None else rows
        photos = int(measurement.images[own_rows].sum())
        return cls(photos, photos - int(measurement.agreeing[own_rows].sum()))

    def within(self, tolerance: float) -> bool:
        """Whether the share of misses is at most the tolerance."""
        return self.photos > 0 and self.misses <= tolerance * self.photos + _SLACK

    def undecided(self, tolerance: float) -> bool:
        """Whether the share is beyond the tolerance, but the photos cannot tell whether the cut is."""
        if self.photos <= 0 or self.within(tolerance):
            return False
        misses = math.ceil(self.misses - _SLACK)
        photos = max(misses, math.floor(self.photos + _SLACK))
        return sign_test(misses, 0) >= CHANCE and _at_least(misses, photos, tolerance) >= CHANCE

    def faithful(self, tolerance: float) -> bool:
        """Whether the cut is within the tolerance, as far as the photos can tell."""
        return self.within(tolerance) or self.undecided(tolerance)

    def photos_needed(self, tolerance: float) -> int | None:
        """How many photos would decide, if the cut missed as large a share of them.

        ``None`` where these do.
        """
        if not self.undecided(tolerance):
            return None
        rate = self.misses / self.photos
        misses = math.floor(self.misses) + 1
        while Sample(math.ceil(misses / rate), misses).undecided(tolerance):
            misses += 1
        return math.ceil(misses / rate)


NO_PHOTOS: Final = Sample(0.0, 0.0)


def is_faithful(measurement: CutMeasurement, tolerance: float = TOLERANCE) -> bool:
    """Whether a measured cut is within the tolerance, as far as its photos can tell."""
    return Sample.of(measurement).faithful(tolerance)


def photos_needed(measurement: CutMeasurement, tolerance: float = TOLERANCE) -> int | None:
    """How many photos would tell whether a measured cut is within the tolerance.

    ``None`` where its own do.
    """
    return Sample.of(measurement).photos_needed(tolerance)


def most_misses(photos: int, tolerance: float = TOLERANCE) -> int:
    """The most misses of ``photos`` with which a cut is still faithful."""
    misses = 0
    while misses < photos and Sample(photos, misses + 1).faithful(tolerance):
        misses += 1
    return misses


def sign_test(wins: int, losses: int) -> float:
    """The probability of so many wins or more against so few losses, if both are as likely."""
    trials = wins + losses
    return sum(math.comb(trials, k) for k in range(wins, trials + 1)) / (1 << trials)


def _at_least(misses: int, photos: int, rate: float) -> float:
    """The probability of this many misses or more, each of ``photos`` missed with ``rate``."""
    fewer = (math.comb(photos, k) * rate**k * (1 - rate) ** (photos - k) for k in range(misses))
    return 1 - math.fsum(fewer)
