"""Linear quantisation to 2 to 8 bits, per tensor or per channel: ``x' = step * (code - zero_point)``.

Zero lies on the grid, so a ReLU's zeros stay zeros. Within the clip range, from ``-(zero_point + 1/2) * step`` to
``(levels - zero_point + 1/2) * step``, a value is off by at most ``step / 2``; beyond it, it becomes the nearest end.
The range is that of the data or of a calibration (:func:`calibrate`). With few bits a smaller range than the full one
loses less: of a small grid of shares of it, the one with the least squared error (on a sample) is taken.

An array here is (C, S): channels, and values of each; C = 1 means per tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from ..schema import FloatArray
from .bitpack import Bytes

MIN_BITS: Final = 2
MAX_BITS: Final = 8
FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
FLOAT32_TINY: Final = float(np.finfo(np.float32).tiny)
RANGE_LIMIT: Final = FLOAT32_MAX * 127 / 256
"""Values beyond it are clipped: all levels and a rounded zero point must fit into float32."""

# Exponents are sixteenths of an octave: a step is at most 4.4 % larger than its channel needs, and takes one byte.
_RATIOS: Final = np.array([2.0 ** (-(k // 16)) * 2.0 ** (-(k % 16) / 16) for k in range(256)])

_SHARES: Final = {
    2: (0.8, 0.6, 0.45, 0.3),
    3: (0.85, 0.7, 0.55, 0.4),
    4: (0.85, 0.7, 0.55),
    5: (0.85, 0.7),
}
_SAMPLE: Final = 4096
_SAMPLE_CHANNEL: Final = 128
_CHANNEL_BITS: Final = 3
"""Above it a channel is not clipped: few values hold few outliers, and a share chosen on a sample of them can lose."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Low and high end of every channel, shapes (C,), float64; C = 1: of the whole tensor. Zero always belongs to a
    range. Raises WireError for NaN and infinite ends."""

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise WireError("a range that is not finite")


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The quantiser of one item. ``step`` float32 > 0: the largest channel's; channel c has ``step`` times
    2**(-exponents[c] / 16). ``zero_points`` and ``exponents``: (C,) uint8."""

    bits: int
    step: np.float32
    exponents: Bytes
    zero_points: Bytes

    @property
    def steps(self) -> FloatArray:
        """(C,) float32."""
        steps = float(self.step) * _RATIOS[self.exponents]
        return np.maximum(steps, FLOAT32_TINY).astype(np.float32)

    def quantize(self, array: FloatArray) -> Bytes:
        """Codes (C, S), uint8, of a finite float32 array (C, S)."""
        top = np.float32((1 << self.bits) - 1)
        with np.errstate(
            over="ignore"
        ):  # a value far beyond the range becomes infinite, and is clipped
            work = array * (np.float32(1) / self.steps)[:, None]
        work += self.zero_points.astype(np.float32)[:, None] + np.float32(0.5)
        np.clip(work, 0, top, out=work)
        return work.astype(np.uint8)

    def restore(self, codes: Bytes) -> FloatArray:
        """float32 (C, S) of codes (C, S)."""
        array = codes.astype(np.float32)
        if self.zero_points.any():
            array -= self.zero_points.astype(np.float32)[:, None]
        array *= self.steps[:, None]
        return array


def ranges_of(array: FloatArray) -> Ranges:
    """The range of every channel, zero included, of an array (C, S)."""
    return Ranges(
        array.min(axis=1).clip(-RANGE_LIMIT, 0).astype(np.float64),
        array.max(axis=1).clip(0, RANGE_LIMIT).astype(np.float64),
    )


def grid_of(ranges: Ranges, bits: int) -> Grid:
    """The quantiser that covers the ranges with ``2**bits`` levels."""
    top = (1 << bits) - 1
    low, high = ranges.low.clip(-RANGE_LIMIT, 0), ranges.high.clip(0, RANGE_LIMIT)
    needed = (high - low) / top
    largest = np.float32(max(float(needed.max()), FLOAT32_TINY))
    with np.errstate(divide="ignore"):
        octaves = 16 * np.log2(float(largest) / needed)
    exponents = np.floor(octaves + 1e-4).clip(0, 255).astype(np.uint8)
    steps = np.maximum(float(largest) * _RATIOS[exponents], FLOAT32_TINY)
    return Grid(bits, largest, exponents, np.rint(-low / steps).clip(0, top).astype(np.uint8))


def clipped(array: FloatArray, ranges: Ranges, bits: int) -> Ranges:
    """The ranges, each shrunk to the share with the least squared error on a sample of its channel's values."""
    channels, size = array.shape
    shares = _SHARES.get(bits, ()) if channels == 1 or bits <= _CHANNEL_BITS else ()
    if not shares:
        return ranges
    # An odd stride: one that divides the width of a map would look at a few of its columns alone.
    sample = array[:, :: size // (_SAMPLE if channels == 1 else _SAMPLE_CHANNEL) | 1]
    best_low, best_high = ranges.low, ranges.high
    least = _squared_error(sample, ranges, bits)
    for share in shares:
        trial = Ranges(ranges.low * share, ranges.high * share)
        error = _squared_error(sample, trial, bits)
        better = error < least
        if not better.any():
            break
        best_low, best_high = (
            np.where(better, trial.low, best_low),
            np.where(better, trial.high, best_high),
        )
        least = np.where(better, error, least)
    return Ranges(best_low, best_high)


def calibrate(arrays: Iterable[FloatArray], bits: int) -> Ranges:
    """Ranges for all of these arrays (C, S): the widest of each channel, then clipped by the squared error over all.

    Raises WireError where there are none.
    """
    kept = list(arrays)
    if not kept:
        raise WireError("expected at least one activation to calibrate on")
    each = [ranges_of(array) for array in kept]
    widest = Ranges(np.min([r.low for r in each], axis=0), np.max([r.high for r in each], axis=0))
    return clipped(np.concatenate(kept, axis=1), widest, bits)


def _squared_error(sample: FloatArray, ranges: Ranges, bits: int) -> npt.NDArray[np.float64]:
    """(C,): in units of the channel's full range, so that nothing overflows."""
    top = np.float32((1 << bits) - 1)
    step = np.maximum((ranges.high - ranges.low) / float(top), FLOAT32_TINY).astype(np.float32)
    zero = np.rint(-ranges.low / step).astype(np.float32)[:, None]
    with np.errstate(over="ignore"):
        scaled = sample * (np.float32(1) / step)[:, None]
        error = np.rint(scaled + zero)
        np.clip(error, 0, top, out=error)
        error -= zero
        error -= scaled
        total: npt.NDArray[np.float64] = np.einsum("cs,cs->c", error, error).astype(np.float64)
        return total * np.square(step, dtype=np.float64)
