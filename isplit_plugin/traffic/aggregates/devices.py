"""Device means: all curves that one device sends about a class within an hour count as one.

Curves of one device within an hour resemble each other, and a device can lie as often as it likes.
Where the operator issues device tokens, the curves of one device, one class and one **bucket** of
time are therefore averaged, and only their mean enters the statistics, as one observation. A device
has one mean for each class and bucket, whatever split points, sources and group names it uses: the
mean at a point is that of all its values there, and the whole counts in the population of its
earliest known point. So no device weighs more than 1 / (number of devices) of a bucket. All
requests without a valid token belong to one device, ``UNSIGNED``: ten invented ids weigh no more
than one.

The time of a mean is the begin of its bucket. A bucket lasts an hour, or a 24th of the half-life
where that is shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np

from ...errors import StoreError
from ...schema import Cut
from .keys import HOUR_S, SOURCES
from .moments import F64

ANONYMOUS: Final = "anonymous"
"""The device of requests to a server that knows no devices: each of them counts by itself."""
UNSIGNED: Final = "unsigned"
"""The device of all requests without a verified device id, where devices are known."""
OTHER_DEVICE: Final = "other"
"""The device of all requests above the limit of devices."""
MAX_DEVICE_NAME: Final = 64


def bucket_s(half_life_s: float) -> int:
    """The length of a bucket in seconds."""
    return max(1, min(HOUR_S, int(half_life_s // 24)))


def bucket_of(at: float, half_life_s: float) -> int:
    """The begin, in epoch seconds, of the bucket that contains the time ``at``."""
    length = bucket_s(half_life_s)
    return int(at // length) * length


def oldest_open_bucket(newest: float, half_life_s: float) -> int:
    """The begin of the oldest bucket that is open when the newest observation is of ``newest``."""
    return bucket_of(newest, half_life_s) - bucket_s(half_life_s)


def device_of(name: object) -> str:
    """The name of a verified device, or ``UNSIGNED`` for anything that is no device name."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_DEVICE_NAME or not name.isprintable():
        return UNSIGNED
    return name


class DeviceKey(NamedTuple):
    """One mean of one device. ``bucket``: the epoch second at which its bucket began."""

    target: str
    class_id: int
    bucket: int
    device: str


class DeviceClassKey(NamedTuple):
    """Requests of one device, in one device group, for which one class was predicted."""

    bucket: int
    device: str
    device_group: str
    class_id: int


class DeviceLabelKey(NamedTuple):
    """Labels of one device, by the cut, group and predicted class of their requests."""

    bucket: int
    device: str
    cut: Cut
    device_group: str
    class_id: int


class LabelCounts(NamedTuple):
    """Numbers of labels and of correct ones, not decayed."""

    labelled: int
    correct: int

    def plus(self, other: LabelCounts) -> LabelCounts:
        """The labels of both."""
        return LabelCounts(self.labelled + other.labelled, self.correct + other.correct)


@dataclass(frozen=True, slots=True, eq=False)
class DeviceSums:
    """The sum of the curves that one device sent about a class within a bucket. Immutable.

    Attributes:
        group: the device group; of several, the first in alphabetical order.
        source: the source of the curve with the earliest known point.
        start: the first known point.
        number: (P,) the number of values at each point.
        total: (P,) the sum of these values.
    """

    group: str
    source: str
    start: int
    number: F64
    total: F64

    @classmethod
    def of(cls, group: str, source: str, start: int, curve: F64) -> Self:
        """The sums of one curve (P,), which is known from the point ``start`` on."""
        known = np.arange(len(curve)) >= start
        return cls(group, source, start, known.astype(np.float64), np.where(known, curve, 0.0))

    @classmethod
    def from_bytes(cls, raw: bytes, points: int, group: str, source: str, start: int) -> Self:
        """Read what :meth:`to_bytes` wrote. Raises StoreError for a wrong length."""
        if len(raw) != 16 * points:
            raise StoreError(
                f"device means: expected {16 * points} bytes ({points} points), got {len(raw)}"
            )
        number, total = np.frombuffer(raw, "<f8").astype(np.float64).reshape(2, points)
        return cls(group, source, start, number, total)

    def to_bytes(self) -> bytes:
        """Little-endian float64: the numbers, then the totals."""
        return np.concatenate([self.number, self.total]).astype("<f8").tobytes()

    def merge(self, other: DeviceSums) -> DeviceSums:
        """The sums of both, the same in any order."""
        first = min(self, other, key=lambda sums: (sums.start, -SOURCES.index(sums.source)))
        return DeviceSums(
            min(self.group, other.group),
            first.source,
            first.start,
            self.number + other.number,
            self.total + other.total,
        )
