"""Audits: what keeps a release honest after it was proven.

A random share of the photos that a device answered by itself is sent afterwards, and compared with
the full network's answer. Two rules use them.

**Withdrawal.** After each audit a Shiryaev-Roberts sum of likelihood ratios, one for each of
several chances above the tolerance, says how strongly *any* recent stretch of audits speaks for a
larger chance: R <- (R + 1) q/p or (1-q)/(1-p) (Shin, Ramdas & Rinaldo, "E-detectors", *New England
Journal of Statistics in Data Science* 2023). A sum from the release on would be slow: a thousand
agreeing audits would have to be outweighed first. While the chance is within the tolerance,
withdrawals come once in 1 / ``FALSE_ALARM`` audits at most, on average.

**The share of audits** falls as exits accumulate: ``EXPOSURE`` / (tolerance * exits), from 1 down
to ``LEAST_SHARE``. Detection takes two or three audited disagreements, whatever the drift, so a
device gives about that many over the share of wrong answers before it: 20 to 30 % of what the
tolerance allows to all exits so far. A constant share would have to be that large from the
beginning, or would leave young releases without a defence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..errors import DataError
from .evidence import chance_interval, larger_chances
from .release import ALPHA, TOLERANCE

FALSE_ALARM: Final = 1e-3
"""False withdrawals for each audit, at most, in the long run."""
LEAST_SHARE: Final = 0.02
"""The share of exits that is always audited."""
EXPOSURE: Final = 10.0
"""All exits of a class are audited until the tolerance allows this many of them to disagree."""
DETECTORS: Final = len(larger_chances(TOLERANCE))
"""The numbers of a detector's state."""

_LARGEST: Final = 1e100
_SETTLED: Final = 2000  # steps after which the sums no longer change, or are as large as they get


@dataclass(frozen=True, slots=True)
class Audits:
    """The audits of one released class of one version. Immutable.

    Attributes:
        audited, disagreed: audits, and those whose answers disagree.
        exits: how many photos the devices answered by themselves, estimated: each audit stands for
            1 / share of them, whatever devices say.
        wrong: how many of these disagree, estimated in the same way.
        detector: the Shiryaev-Roberts sums.
    """

    audited: int = 0
    disagreed: int = 0
    exits: float = 0.0
    wrong: float = 0.0
    detector: tuple[float, ...] = (0.0,) * DETECTORS

    def after(
        self, agreeing: int, disagreeing: int, share: float, tolerance: float = TOLERANCE
    ) -> Audits:
        """With more audits, drawn with this share. Their order is not known: disagreeing ones are
        taken to be spread evenly, so hand in small batches, or a drift is noticed late.

        Raises DataError for negative counts, or a share that is not above 0 and at most 1.
        """
        if min(agreeing, disagreeing) < 0 or not 0 < share <= 1:
            raise DataError(
                f"audits: expected counts and a share above 0 and at most 1, got {agreeing}, "
                f"{disagreeing}, {share}"
            )
        sums = np.array(self.detector)
        q = larger_chances(tolerance)
        agree, disagree = (1 - q) / (1 - tolerance), q / tolerance
        # R <- (R + 1) L, n times, is L^n R + L + ... + L^n.
        decay = agree ** (agreeing / (disagreeing + 1))
        growth = agree * (1 - decay) / (1 - agree)
        sums = decay * sums + growth
        for _ in range(min(disagreeing, _SETTLED)):
            sums = np.minimum(decay * (sums + 1) * disagree + growth, _LARGEST)
        return replace(
            self,
            audited=self.audited + agreeing + disagreeing,
            disagreed=self.disagreed + disagreeing,
            exits=self.exits + (agreeing + disagreeing) / share,
            wrong=self.wrong + disagreeing / share,
            detector=tuple(float(value) for value in sums),
        )

    @property
    def withdrawn(self) -> bool:
        """Whether the class must be withdrawn."""
        return self.alarms(FALSE_ALARM)

    def alarms(self, false_alarm: float) -> bool:
        """Whether a recent stretch speaks for more than the tolerance.

        ``false_alarm``: for each audit, at most, how often that is in vain in the long run.
        """
        return sum(self.detector) / len(self.detector) >= 1 / false_alarm

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """The audited share of disagreements, between two bounds that hold at all times."""
        return chance_interval(self.audited, self.disagreed, alpha)


def audit_share(exits: float, tolerance: float = TOLERANCE) -> float:
    """The share of further exits to audit, after this many (:attr:`Audits.exits`).

    Raises DataError for a negative number.
    """
    if not exits >= 0 or math.isinf(exits):
        raise DataError(f"exits: expected a number from 0 on, got {exits}")
    if exits == 0:
        return 1.0
    return min(1.0, max(LEAST_SHARE, EXPOSURE / (tolerance * exits)))
