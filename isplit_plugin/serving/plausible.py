"""What a device may report: limits that follow from the profile, far above anything honest.

Values beyond them are mistakes or lies. They are no protection against a liar who stays within them; that one is
bounded by counting each device once.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from ..profile import Profile
from ..schema import Cut

SLOWEST: Final = 1000.0
"""How many times slower than the machine of the profile a device may be; a second is always fine."""
DEVIATIONS: Final = 100.0
"""By Cantelli's inequality at most one value in 10,000 lies so many standard deviations above the mean, however the
values are distributed."""


class ReportLimits:
    """Limits of one network's reports."""

    def __init__(self, profile: Profile) -> None:
        self._head = {
            name: 1e3 + SLOWEST * ms for name, ms in profile.head_ms.items() if math.isfinite(ms)
        }
        self._encode: dict[Cut, float] = {}
        for measure in profile.measurements:
            if math.isfinite(measure.encode_ms):
                self._encode[measure.cut] = 1e3 + SLOWEST * measure.encode_ms

    def head_ms(self, split_point: str, ms: float, items: int = 1) -> float:
        """The reported time of the head for so many items, or NaN (not reported) where it cannot be."""
        return ms if ms <= items * self._head.get(split_point, math.inf) else math.nan

    def encode_ms(self, cut: Cut, ms: float, items: int = 1) -> float:
        """As :meth:`head_ms`, of encoding."""
        return ms if ms <= items * self._encode.get(cut, math.inf) else math.nan


def curve_limits(profile: Profile) -> npt.NDArray[np.float64]:
    """The largest plausible importance at each point, (P,): ten times the mean plus ``DEVIATIONS`` standard deviations
    over all classes of the profile; at least a hundredth of the median of these limits, for points that are zero in
    the profile."""
    count = max(float(profile.count.sum()), 1.0)
    shift = profile.sum1.sum(axis=0) / count
    spread = np.sqrt(np.maximum(profile.sum2.sum(axis=0) / count - shift**2, 0.0))
    limits: npt.NDArray[np.float64] = (
        10.0 * np.maximum(profile.mean0 + shift, 0.0) + DEVIATIONS * spread
    )
    return np.maximum(limits, 1e-2 * float(np.median(limits)))
