"""Sketches that count distinct devices: the smallest hashes, each with the hour it was last seen.

The k-th smallest of n uniform hashes lies at about k / n, which gives n (Bar-Yossef, Jayram, Kumar,
Sivakumar, Trevisan: "Counting Distinct Elements in a Data Stream", RANDOM 2002; the estimate with
k - 1 is unbiased). Merging two sketches gives the sketch of both sets.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from ...errors import StoreError
from .keys import HOUR_S

SKETCH_SIZE: Final = 64
"""Hashes in a sketch: below this number counts are exact, from there on they are estimates."""
_ENTRY: Final = np.dtype([("hash", "<u8"), ("hour", "<u4")])

DeviceSketch = npt.NDArray[np.void]
"""(n,) entries of hash and hour, sorted by hash, n at most SKETCH_SIZE."""


def sketch_of(devices: Iterable[tuple[str, int]]) -> DeviceSketch:
    """The sketch of devices and the buckets (epoch seconds) in which they were last seen."""
    hours: dict[int, int] = {}
    for device, bucket in devices:
        number = _hash(device)
        hours[number] = max(hours.get(number, 0), bucket // HOUR_S)
    return _sketch(hours)


def merge_sketches(
    sketches: Iterable[DeviceSketch], *, not_before: float = -math.inf
) -> DeviceSketch:
    """The sketch of all devices that were seen at or after ``not_before`` (epoch seconds)."""
    hours: dict[int, int] = {}
    for sketch in sketches:
        for number, hour in sketch.tolist():
            hours[number] = max(hours.get(number, 0), hour)
    recent = {number: hour for number, hour in hours.items() if HOUR_S * (hour + 1) > not_before}
    return _sketch(recent)


def count_devices(sketch: DeviceSketch) -> float:
    """The number of devices: exact below SKETCH_SIZE, else within about 1 / sqrt(SKETCH_SIZE)."""
    if len(sketch) < SKETCH_SIZE:
        return float(len(sketch))
    return (SKETCH_SIZE - 1) / ((int(sketch["hash"][-1]) + 1) / 2.0**64)


def sketch_from_bytes(raw: bytes) -> DeviceSketch:
    """Read what ``sketch.tobytes()`` wrote. Raises StoreError for a wrong length."""
    if len(raw) % _ENTRY.itemsize or len(raw) > SKETCH_SIZE * _ENTRY.itemsize:
        raise StoreError(
            f"device sketch: expected at most {SKETCH_SIZE} entries of {_ENTRY.itemsize} bytes, "
            f"got {len(raw)} bytes",
            reason="malformed",
        )
    return np.frombuffer(raw, _ENTRY)


def _sketch(hours: dict[int, int]) -> DeviceSketch:
    return np.array(sorted(hours.items())[:SKETCH_SIZE], dtype=_ENTRY)


@lru_cache(maxsize=4096)
def _hash(device: str) -> int:
    encoded = device.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big")
