"""Limits on what a device may report. They follow from the profile, far above any honest value.

A value beyond them is a mistake or a lie. They do not protect against a liar who stays within them;
what such a device can do is bounded by counting each device once.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from ..profile import Profile
from ..schema import Cut

SLOWEST: Final = 1000.0
"""How many times slower than the machine of the profile a device may be, beyond one second."""
DEVIATIONS: Final = 100.0
"""By Cantelli's inequality, at most one value in 10,000 is this many standard deviations above the
mean, however the values are distributed."""
SLOWEST_UPLINK_MBPS: Final = 1e-3
FASTEST_UPLINK_MBPS: Final = 1e5
LONGEST_TRIP_MS: Final = 60_000.0
"""A round trip, or a wait at the server, beyond a minute: no device would have waited for it."""
_ALLOWANCE_MS: Final = 1e3


class ReportLimits:
    """Limits on the times that devices report for one network."""

    def __init__(self, profile: Profile) -> None:
        self._head_ms = {
            point: _ALLOWANCE_MS + SLOWEST * ms
            for point, ms in profile.head_ms.items()
            if math.isfinite(ms)
        }
        self._encode_ms = {
            measurement.cut: _ALLOWANCE_MS + SLOWEST * measurement.encode_ms
            for measurement in profile.measurements
            if math.isfinite(measurement.encode_ms)
        }

    def head_ms(self, split_point: str, ms: float, items: int = 1) -> float:
        """The reported time of the head for ``items`` images; NaN if it is not plausible."""
        return ms if ms <= items * self._head_ms.get(split_point, math.inf) else math.nan

    def encode_ms(self, cut: Cut, ms: float, items: int = 1) -> float:
        """As :meth:`head_ms`, for the time that encoding took."""
        return ms if ms <= items * self._encode_ms.get(cut, math.inf) else math.nan

    def uplink_ms(self, nbytes: int, ms: float) -> float:
        """The reported time of ``nbytes`` on the uplink; NaN if no uplink has such a rate."""
        megabits = nbytes * 8e-6
        if ms > 0 and SLOWEST_UPLINK_MBPS <= megabits / (ms * 1e-3) <= FASTEST_UPLINK_MBPS:
            return ms
        return math.nan

    def trip_ms(self, ms: float) -> float:
        """The reported round trip, or wait at the server; NaN if it is not plausible."""
        return ms if 0 <= ms <= LONGEST_TRIP_MS else math.nan


def curve_limits(profile: Profile) -> npt.NDArray[np.float64]:
    """The largest plausible importance at each point of the curve, (P,).

    Ten times the mean plus ``DEVIATIONS`` standard deviations, over all classes of the profile. At
    least a hundredth of the median of these limits, for points where the profile is zero.
    """
    count = max(float(profile.count.sum()), 1.0)
    shifted_mean = profile.sum1.sum(axis=0) / count
    variance = profile.sum2.sum(axis=0) / count - shifted_mean**2
    deviation = np.sqrt(np.maximum(variance, 0.0))
    mean = np.maximum(profile.mean0 + shifted_mean, 0.0)
    limits: npt.NDArray[np.float64] = 10.0 * mean + DEVIATIONS * deviation
    return np.maximum(limits, 1e-2 * float(np.median(limits)))
