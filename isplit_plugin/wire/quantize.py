"""Linear quantisation to 2 to 8 bits: ``value = step * (code - zero_point)``.

Zero is on the grid: a ReLU's zeros come back as zeros. A value within the range is off by at most
``step / 2``; a value beyond it becomes the nearest end. The range, zero included, is that of the
data or of a calibration. It is not clipped: in front of an entropy coder large values are rare
symbols and cost few bytes (docs/explanation/codecs.md has the measurement).

Arrays here have the shape (C, S): channels, and the values of each. C = 1 means per tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from ..schema import FloatArray
from .grouping import Bytes

MIN_BITS: Final = 2
MAX_BITS: Final = 8
FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
FLOAT32_TINY: Final = float(np.finfo(np.float32).tiny)
RANGE_LIMIT: Final = FLOAT32_MAX * 127 / 256
"""Larger values are clipped: all levels and a rounded zero point must fit into float32."""

# An exponent is a sixteenth of an octave: a step takes one byte and is at most 4.4 % too wide.
_RATIOS: Final = np.array([2.0 ** (-(k // 16)) * 2.0 ** (-(k % 16) / 16) for k in range(256)])


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """The range of every channel. Zero always belongs to a range.

    Raises WireError for ends that are NaN or infinite.

    Attributes:
        low: The low ends (C,), float64. C = 1: one range for the whole tensor.
        high: The high ends (C,), float64.
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise WireError("expected finite ranges, got NaN or infinite ends")


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The quantiser of one item.

    Attributes:
        bits: Bits of a code.
        step: The step of the channel with the widest range; float32, above 0.
        exponents: uint8 (C,). The step of channel c is ``step * 2**(-exponents[c] / 16)``.
        zero_points: uint8 (C,). The codes that mean 0.
    """

    bits: int
    step: np.float32
    exponents: Bytes
    zero_points: Bytes

    @property
    def steps(self) -> FloatArray:
        """The step of every channel (C,), float32."""
        steps = float(self.step) * _RATIOS[self.exponents]
        return np.maximum(steps, FLOAT32_TINY).astype(np.float32)

    def quantize(self, array: FloatArray) -> Bytes:
        """Turn a finite float32 array (C, S) into codes (C, S)."""
        top = np.float32((1 << self.bits) - 1)
        # A value far beyond a calibrated range becomes infinite here, and is clipped below.
        with np.errstate(over="ignore"):
            levels = array * (np.float32(1) / self.steps)[:, None]
        levels += self.zero_points.astype(np.float32)[:, None] + np.float32(0.5)
        np.clip(levels, 0, top, out=levels)
        return levels.astype(np.uint8)

    def restore(self, codes: Bytes) -> FloatArray:
        """Turn codes (C, S) into float32 (C, S)."""
        array = codes.astype(np.float32)
        if self.zero_points.any():
            array -= self.zero_points.astype(np.float32)[:, None]
        array *= self.steps[:, None]
        return array


def ranges_of(array: FloatArray) -> Ranges:
    """The range of every channel of an array (C, S), zero included."""
    return Ranges(
        array.min(axis=1).clip(-RANGE_LIMIT, 0).astype(np.float64),
        array.max(axis=1).clip(0, RANGE_LIMIT).astype(np.float64),
    )


def widest_ranges(arrays: Iterable[FloatArray]) -> Ranges:
    """The ranges that cover every one of the arrays (C, S). Raises WireError without arrays."""
    ranges = [ranges_of(array) for array in arrays]
    if not ranges:
        raise WireError("expected at least one activation to calibrate on")
    return Ranges(
        np.min([item.low for item in ranges], axis=0),
        np.max([item.high for item in ranges], axis=0),
    )


def grid_of(ranges: Ranges, bits: int) -> Grid:
    """The quantiser that covers the ranges with ``2**bits`` levels."""
    top = (1 << bits) - 1
    low = ranges.low.clip(-RANGE_LIMIT, 0)
    high = ranges.high.clip(0, RANGE_LIMIT)
    needed = (high - low) / top
    step = np.float32(max(float(needed.max()), FLOAT32_TINY))
    with np.errstate(divide="ignore"):
        sixteenths = 16 * np.log2(float(step) / needed)
    exponents = np.floor(sixteenths + 1e-4).clip(0, 255).astype(np.uint8)
    steps = np.maximum(float(step) * _RATIOS[exponents], FLOAT32_TINY)
    zero_points = np.rint(-low / steps).clip(0, top).astype(np.uint8)
    return Grid(bits, step, exponents, zero_points)
