"""Mergeable histograms of milliseconds with fixed logarithmic buckets.

Bucket i holds (LOW g^(i-1), LOW g^i] with g = (1 + a) / (1 - a) and a = 0.02. A quantile is the
value in the middle of its bucket, which is at most the share a away from every member, as in
DDSketch (Masson, Rim, Lee, VLDB 2019). So a quantile is within 2 % of the observation of that rank,
for times from 1 microsecond to 1 hour; shorter ones count as 1 microsecond, longer ones as 1 hour.
The mean is exact up to rounding.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from ...errors import StoreError

RELATIVE_ERROR: Final = 0.02
LOW_MS: Final = 1e-3
HIGH_MS: Final = 3.6e6
_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
BUCKETS: Final = 1 + math.ceil(math.log(HIGH_MS / LOW_MS) / _LOG_GAMMA)
_HEAD: Final = struct.Struct("<dHH")
_PAIR: Final = np.dtype([("bucket", "<u2"), ("count", "<u8")])
_NO_PAIRS: Final = np.zeros(0, _PAIR)


def bucket_of(ms: float) -> int:
    """The bucket of a time, which must not be NaN."""
    if ms <= LOW_MS:
        return 0
    return min(BUCKETS - 1, math.ceil(math.log(ms / LOW_MS) / _LOG_GAMMA))


def upper_ms(bucket: int) -> float:
    """The longest time in a bucket, in milliseconds."""
    return LOW_MS * math.exp(_LOG_GAMMA * bucket)


@dataclass(slots=True, eq=False)
class Histogram:
    """Counts by bucket (without empty ones) and the sum of all times in milliseconds."""

    counts: dict[int, int] = field(default_factory=dict)
    total_ms: float = 0.0

    @classmethod
    def of(cls, times: Iterable[float]) -> Histogram:
        """A histogram of ``times``; see :meth:`add`."""
        histogram = cls()
        for ms in times:
            histogram.add(ms)
        return histogram

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def add(self, ms: float) -> None:
        """Add one time. NaN and infinities mean "not reported"; negative times count as zero."""
        if not math.isfinite(ms):
            return
        bucket = bucket_of(ms)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total_ms += min(max(ms, 0.0), HIGH_MS)

    def update(self, other: Histogram) -> None:
        """Add the times of ``other``."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total_ms += other.total_ms

    @property
    def mean_ms(self) -> float:
        """The mean; NaN for an empty histogram."""
        return self.total_ms / self.count if self.counts else math.nan

    def quantile(self, q: float) -> float:
        """The time of rank ceil(q * count) in milliseconds, within RELATIVE_ERROR.

        ``q`` in [0, 1]: 0 is the smallest, 0.5 the lower median, 1 the largest. NaN for an empty
        histogram.
        """
        if not self.counts:
            return math.nan
        rank = max(1, math.ceil(min(max(q, 0.0), 1.0) * self.count))
        below = 0
        for bucket in sorted(self.counts):
            below += self.counts[bucket]
            if below >= rank:
                break
        return LOW_MS if bucket == 0 else LOW_MS * math.exp(_LOG_GAMMA * bucket) * 2 / (1 + _GAMMA)

    def to_bytes(self) -> bytes:
        """Sum, number of buckets, then (bucket, count) pairs; little-endian.

        About 10 bytes for each bucket that is not empty.
        """
        pairs = np.array(sorted(self.counts.items()), dtype=_PAIR)
        return _HEAD.pack(self.total_ms, BUCKETS, len(pairs)) + pairs.tobytes()


def pack(histograms: Iterable[Histogram]) -> bytes:
    """Several histograms, one after the other."""
    return b"".join(h.to_bytes() for h in histograms)


def unpack(raw: bytes, number: int) -> list[Histogram]:
    """Read ``number`` histograms that :func:`pack` wrote. Raises StoreError for other bytes."""
    return [
        Histogram(dict(zip(pairs["bucket"].tolist(), pairs["count"].tolist(), strict=True)), total)
        for total, pairs in _read(raw, number)
    ]


def unpack_sum(
    settled: Iterable[bytes], number: int, *, changing: Iterable[bytes] = ()
) -> list[Histogram]:
    """The sums of the histograms in each of the rows, faster than :func:`unpack` and adding.

    Parameters:
        settled: rows that are the same the next time: they are read once, and kept.
        number: histograms in each row.
        changing: rows that grow with each request. To keep them would cost memory for nothing.

    Raises:
        StoreError: for bytes that :func:`pack` did not write.
    """
    parts: list[list[bytes]] = [[] for _ in range(number)]
    totals = [0.0] * number
    rows = chain(
        (_read_settled(raw, number) for raw in settled), (_read(raw, number) for raw in changing)
    )
    for row in rows:
        for i, (total, pairs) in enumerate(row):
            parts[i].append(pairs.tobytes())
            totals[i] += total
    sums = []
    for part, total in zip(parts, totals, strict=True):
        counts = np.zeros(BUCKETS, np.int64)
        pairs = np.frombuffer(b"".join(part), _PAIR)
        np.add.at(counts, pairs["bucket"], pairs["count"].astype(np.int64))
        used = np.flatnonzero(counts)
        sums.append(Histogram(dict(zip(used.tolist(), counts[used].tolist(), strict=True)), total))
    return sums


def _read(raw: bytes, number: int) -> list[tuple[float, npt.NDArray[np.void]]]:
    histograms = []
    offset = 0
    try:
        for _ in range(number):
            total, buckets, length = _HEAD.unpack_from(raw, offset)
            offset += _HEAD.size
            pairs: npt.NDArray[np.void] = (
                np.frombuffer(raw, _PAIR, length, offset) if length else _NO_PAIRS
            )
            offset += length * _PAIR.itemsize
            if (
                buckets != BUCKETS
                or (length and pairs["bucket"].max() >= BUCKETS)
                or not math.isfinite(total)
            ):
                raise ValueError(
                    f"expected {BUCKETS} buckets and a finite sum, got {buckets} and {total}"
                )
            histograms.append((total, pairs))
        if offset != len(raw):
            raise ValueError(f"{len(raw) - offset} bytes left over")
    except (struct.error, ValueError, TypeError) as error:
        raise StoreError(
            f"time histograms: expected {number} of them, got {len(raw)} unreadable bytes ({error})"
        ) from error
    return histograms


_read_settled = lru_cache(maxsize=2048)(_read)
