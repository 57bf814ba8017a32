"""Intervals: Wilson for a share, Newcombe for a difference of shares.

Counts may be fractional, as effective sizes are.
"""

from __future__ import annotations

import math
from typing import Final

Z95: Final = 1.959963984540054


def wilson(share: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Score interval of a share of ``n`` trials (E. B. Wilson, JASA 1927).

    Without trials, it is (0, 1).
    """
    if not n > 0 or math.isnan(share):
        return 0.0, 1.0
    spread = z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(max(0.0, share * (1 - share)) / n + spread / (4 * n))
    # At 0 and 1 the exact ends are 0 and 1; rounding would leave 1e-17 there.
    low = 0.0 if share <= 0 else max(0.0, centre - half)
    high = 1.0 if share >= 1 else min(1.0, centre + half)
    return low, high


def newcombe(
    share1: float, n1: float, share2: float, n2: float, z: float = Z95
) -> tuple[float, float]:
    """Interval of ``share1 - share2`` of independent samples.

    R. G. Newcombe, Statistics in Medicine 1998, method 10.
    """
    low1, high1 = wilson(share1, n1, z)
    low2, high2 = wilson(share2, n2, z)
    difference = share1 - share2
    low = difference - math.hypot(share1 - low1, high2 - share2)
    high = difference + math.hypot(high1 - share1, share2 - low2)
    return max(-1.0, low), min(1.0, high)
