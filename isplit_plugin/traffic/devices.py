"""Devices: one hour of one device counts as one observation, and how many devices there were.

Values that one device sends within an hour resemble each other, and a device can lie as often as it likes. Where the
operator has switched device identity on, what a device says of one class within one **bucket** of time is therefore
averaged first, and only this mean enters the statistics, as one observation. A device has one mean per class and
bucket, whatever split points, sources and group names it uses: the mean at a point of the curve is that of all its
values there, and the whole counts for the population of its earliest known point. So no device weighs more than
1 / (number of devices) of a bucket. Requests without a verified device share one, ``UNSIGNED``: ten invented ids weigh
no more than one.

The mean's time is its bucket's begin. A bucket lasts an hour, or a 24th of the half-life where that is shorter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from .moments import F64

UNSIGNED: Final = "unsigned"
"""The one device that all requests without a verified device belong to."""
OTHER_DEVICE: Final = "other"
"""The one device that all above the cap belong to."""
MAX_DEVICES: Final = 256
"""Devices with a mean of their own, for one class in one bucket."""
MAX_DEVICE_NAME: Final = 64
SKETCH: Final = 64
"""Device hashes kept for one row: counts are exact below it, estimates from there on."""
KEEP_HALF_LIVES: Final = 8
"""After how many half-lives a device that was not seen again is not counted any more."""
_RANK: Final = ("tail", "input", "probe")
_SEEN: Final = np.dtype([("hash", "<u8"), ("hour", "<u4")])

Seen = npt.NDArray[np.void]


def bucket_s(half_life_s: float) -> int:
    """Seconds that a bucket lasts."""
    return max(1, min(3600, int(half_life_s // 24)))


def bucket_of(at: float, half_life_s: float) -> int:
    """The begin, in epoch seconds, of the bucket that holds ``at``."""
    width = bucket_s(half_life_s)
    return int(at // width) * width


def device_of(name: object) -> str:
    """The name under which an observation is kept: of a verified device, or ``UNSIGNED`` for anything else."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_DEVICE_NAME or not name.isprintable():
        return UNSIGNED
    return name


class StagedKey(NamedTuple):
    """One device's mean: of which target and class, in which bucket (epoch seconds of its begin)."""

    target: str
    class_id: int
    bucket: int
    device: str


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """What a device has said of a class in a bucket so far: ``number`` (P,) values at each point, and their
    ``total`` (P,). ``start``: the first known point, ``source``: who knew it. A device that names several groups within
    a bucket counts in the first of them by the alphabet. Never changed in place."""

    group: str
    source: str
    start: int
    number: F64
    total: F64

    @classmethod
    def of(cls, group: str, source: str, start: int, curve: F64) -> Self:
        """One curve (P,), known from ``start`` on."""
        known = np.arange(len(curve)) >= start
        return cls(group, source, start, known.astype(np.float64), np.where(known, curve, 0.0))

    @classmethod
    def from_bytes(cls, raw: bytes, points: int, group: str, source: str, start: int) -> Self:
        """Read what :meth:`to_bytes` wrote. Raises StoreError where the length is not that of ``points`` points."""
        if len(raw) != 16 * points:
            raise StoreError(
                f"device means: expected {16 * points} bytes ({points} points), got {len(raw)}"
            )
        number, total = np.frombuffer(raw, "<f8").astype(np.float64).reshape(2, points)
        return cls(group, source, start, number, total)

    def to_bytes(self) -> bytes:
        """Little-endian float64: the numbers, then the totals."""
        return np.concatenate([self.number, self.total]).astype("<f8").tobytes()

    def merge(self, other: Staged) -> Staged:
        """What both say; in any order the same."""
        first = min(self, other, key=lambda s: (s.start, -_RANK.index(s.source)))
        number, total = self.number + other.number, self.total + other.total
        return Staged(min(self.group, other.group), first.source, first.start, number, total)


# ------------------------------------------------------------------------------------------------- how many


def seen_of(devices: Iterable[tuple[str, int]]) -> Seen:
    """The sketch of devices and the buckets (epoch seconds) in which they were seen last."""
    found: dict[int, int] = {}
    for device, bucket in devices:
        number = _hash(device)
        found[number] = max(found.get(number, 0), bucket // 3600)
    return _sketch(found)


@lru_cache(maxsize=4096)
def _hash(device: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(device.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def merge_seen(parts: Iterable[Seen], *, not_before: float = -math.inf) -> Seen:
    """The devices of all ``parts`` that were seen at or after ``not_before`` (epoch seconds)."""
    found: dict[int, int] = {}
    for part in parts:
        for number, hour in part.tolist():
            found[number] = max(found.get(number, 0), hour)
    return _sketch(
        {number: hour for number, hour in found.items() if 3600 * (hour + 1) > not_before}
    )


def count_seen(seen: Seen) -> float:
    """How many devices there are: exact below SKETCH, from there on within about 1 / sqrt(SKETCH).

    The k-th smallest of n uniform hashes lies at about k / n (Bar-Yossef et al., RANDOM 2002; unbiased with k - 1).
    """
    if len(seen) < SKETCH:
        return float(len(seen))
    return (SKETCH - 1) / ((int(seen["hash"][-1]) + 1) / 2.0**64)


def seen_from_bytes(raw: bytes) -> Seen:
    """Read ``Seen.tobytes()``. Raises StoreError where it is none."""
    if len(raw) % _SEEN.itemsize or len(raw) > SKETCH * _SEEN.itemsize:
        raise StoreError(
            f"devices: expected at most {SKETCH} entries of {_SEEN.itemsize} bytes, got {len(raw)} bytes"
        )
    return np.frombuffer(raw, _SEEN)


def _sketch(found: dict[int, int]) -> Seen:
    return np.array(sorted(found.items())[:SKETCH], dtype=_SEEN)
