"""The yardstick of a split: what it sends, by what it leaves to the server.

With h the head's share of the network's time on the device, p the bytes of the best photo, b those
of the cut, R the uplink and T the network's time on the device, a split is faster than the photo
where h T < (p - b) / R, and faster than the whole network on the device where (1 - h) T > b / R.
Both hold for some uplink only if b / p < 1 - h. Codec, server and round trip cost time besides, so
this is necessary and not sufficient.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..profile import Profile
from ..schema import INPUT, OUTPUT


class Yardstick(NamedTuple):
    """The two numbers of a cut; NaN where one is unknown.

    Attributes:
        byte_ratio: b / p.
        tail_share: 1 - h, 1 at `input` and 0 at `output`.
    """

    byte_ratio: float
    tail_share: float

    @property
    def can_win(self) -> bool:
        """Whether the cut can be faster than both the photo and the whole network on the device."""
        return self.byte_ratio < self.tail_share


def yardstick(profile: Profile, split_point: str, nbytes: float, photo_bytes: float) -> Yardstick:
    """The yardstick of a cut that sends ``nbytes``, where the best photo takes ``photo_bytes``."""
    ratio = nbytes / photo_bytes if photo_bytes > 0 else math.nan
    return Yardstick(ratio, tail_share(profile, split_point))


def tail_share(profile: Profile, split_point: str) -> float:
    """1 - h: the share of the network's time on the device that a cut leaves to the server."""
    if split_point in (INPUT, OUTPUT):
        return 1.0 if split_point == INPUT else 0.0
    head_ms = profile.head_ms.get(split_point, math.nan)
    whole_ms = profile.head_ms.get(OUTPUT, math.nan)
    if not whole_ms > 0:
        return math.nan
    return min(1.0, max(0.0, 1 - head_ms / whole_ms)) if math.isfinite(head_ms) else math.nan
