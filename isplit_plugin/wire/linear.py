"""Codecs without training: linear quantisation, then run-length coding (Carra & Neglia, GLOBECOM 2023).

``q<bits>[c][+rle]``: 2 to 8 bits, per tensor or per channel (``c``), packed or with runs of zeros coded. Names and
entropy coding (``+zstd``) are the registry's. The payload describes itself but for the shape, little-endian::

    version u8 = 1 | channel axis u8 (with batch; 0: per tensor)
    each item:  step f32 | per channel only: exponents C x u8, flag u8, zero points C x u8 if the flag is 1
                         | per tensor only: zero point u8
                symbols: (code - zero point) mod 2**bits, channels outermost: as a run-length block, packed, or,
                where an entropy coder follows, as many in each byte as fit whole

Items are coded one by one: a neighbour in the batch changes nothing.

Clipping belongs to the packed form: at a fixed number of bits it lowers the error. In front of a variable-length code
(``+rle``, ``+zstd``) the full range is kept: rare large values cost few bytes there, and at equal bytes the result is
nearer to the network's (measured: docs/explanation/codecs.md).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ..errors import WireError
from ..schema import FloatArray
from . import bitpack, quantize, runlength
from .bitpack import Bytes
from .quantize import FLOAT32_MAX, FLOAT32_TINY, Grid, Ranges

VERSION: Final = 1
_STEP: Final = struct.Struct("<f")


@dataclass(frozen=True, slots=True)
class LinearCodec:
    """One of the family. Thread-safe; keeps nothing."""

    bits: int
    per_channel: bool = False
    runs: bool = False

    datatype: ClassVar[str] = "UINT8"

    @property
    def name(self) -> str:
        return f"q{self.bits}{'c' if self.per_channel else ''}{'+rle' if self.runs else ''}"

    def rows(self, array: FloatArray, channel_axis: int) -> FloatArray:
        """One item (without batch) as (C, S), row-major; C = 1 per tensor. ``channel_axis`` counts the batch."""
        if not self.per_channel:
            return np.ascontiguousarray(array).reshape(1, -1)
        first = np.moveaxis(array, channel_axis - 1, 0)
        return np.ascontiguousarray(first).reshape(first.shape[0], -1)

    def encode(
        self, array: FloatArray, *, channel_axis: int, ranges: Ranges | None, entropy_coded: bool
    ) -> bytes:
        """The payload of a finite float32 array (N, ...). Raises WireError for ranges of other channels."""
        axis = _axis(channel_axis, array.ndim) if self.per_channel else 0
        parts = [bytes((VERSION, axis))]
        for item in array:
            parts += self._encode_item(self.rows(item, axis), ranges, entropy_coded)
        return b"".join(parts)

    def _encode_item(
        self, rows: FloatArray, ranges: Ranges | None, entropy_coded: bool
    ) -> list[bytes]:
        if ranges is None:
            ranges = quantize.ranges_of(rows)
            if not (self.runs or entropy_coded):
                ranges = quantize.clipped(rows, ranges, self.bits)
        elif ranges.low.shape != (len(rows),) or ranges.high.shape != (len(rows),):
            raise WireError(
                f"ranges of {ranges.low.size} channels, codec {self.name!r} codes {len(rows)} here"
            )
        grid = quantize.grid_of(ranges, self.bits)
        symbols = grid.quantize(rows)
        zeros = grid.zero_points
        shifted = bool(zeros.any())
        if shifted:
            symbols -= zeros[:, None]  # modulo 256, and 2**bits divides it
            symbols &= np.uint8((1 << self.bits) - 1)
        head = [_STEP.pack(grid.step)]
        if self.per_channel:
            head += [
                grid.exponents.tobytes(),
                bytes((shifted,)),
                zeros.tobytes() if shifted else b"",
            ]
        else:
            head.append(zeros.tobytes())
        flat = symbols.reshape(-1)
        if self.runs:
            return [*head, runlength.encode(flat, self.bits)]
        arrange = bitpack.group if entropy_coded else bitpack.pack
        return [*head, arrange(flat, self.bits).tobytes()]

    def max_size(self, shape: tuple[int, ...]) -> int:
        """Bytes that no payload for an activation of ``shape`` (N, ...) exceeds."""
        count = math.prod(shape[1:])
        channels = max(shape[1:]) if self.per_channel else 1
        symbols = runlength.max_size(count, self.bits) if self.runs else count
        return 2 + shape[0] * (_STEP.size + 1 + 2 * channels + symbols)

    def decode(
        self, data: memoryview, shape: tuple[int, ...], *, entropy_coded: bool
    ) -> FloatArray:
        """float32 of ``shape`` (N, ...) from exactly this payload. Raises WireError for anything else."""
        version, axis = _take(data, 0, 2)
        if version != VERSION:
            raise WireError(f"codec {self.name!r}: payload version {version}, expected {VERSION}")
        if self.per_channel != bool(axis) or axis >= len(shape):
            raise WireError(
                f"codec {self.name!r}: channel axis {axis} of a shape of {len(shape)} dimensions"
            )
        moved = (
            (shape[axis], *(d for i, d in enumerate(shape[1:], 1) if i != axis))
            if axis
            else shape[1:]
        )
        channels = shape[axis] if axis else 1
        out = np.empty(shape, np.float32)
        at = 2
        for item in out:
            grid, at = self._decode_grid(data, at, channels)
            symbols, at = self._decode_symbols(data, at, math.prod(moved), entropy_coded)
            codes = symbols.reshape(channels, -1)
            if grid.zero_points.any():
                codes += grid.zero_points[:, None]
                codes &= np.uint8((1 << self.bits) - 1)
            restored = grid.restore(codes).reshape(moved)
            item[...] = np.moveaxis(restored, 0, axis - 1) if axis else restored
        if at != len(data):
            raise WireError(f"codec {self.name!r}: {len(data) - at} bytes behind the last item")
        return out

    def _decode_grid(self, data: memoryview, at: int, channels: int) -> tuple[Grid, int]:
        top = (1 << self.bits) - 1
        (step,) = _STEP.unpack(_take(data, at, _STEP.size))
        at += _STEP.size
        if not FLOAT32_TINY <= step <= FLOAT32_MAX / top:
            raise WireError(f"codec {self.name!r}: a step of {step}")
        exponents, zeros = np.zeros(1, np.uint8), np.zeros(channels, np.uint8)
        shifted = True
        if self.per_channel:
            exponents = np.frombuffer(_take(data, at, channels), np.uint8)
            at += channels
            (flag,) = _take(data, at, 1)
            at += 1
            if flag > 1:
                raise WireError(f"codec {self.name!r}: a flag of {flag}, expected 0 or 1")
            shifted = bool(flag)
        if shifted:
            zeros = np.frombuffer(_take(data, at, channels), np.uint8)
            at += channels
            if zeros.max() > top:
                raise WireError(
                    f"codec {self.name!r}: a zero point of {zeros.max()}, at most {top}"
                )
        return Grid(self.bits, np.float32(step), exponents, zeros), at

    def _decode_symbols(
        self, data: memoryview, at: int, count: int, entropy_coded: bool
    ) -> tuple[Bytes, int]:
        if self.runs:
            symbols, used = runlength.decode(data[at:], count, self.bits)
            return symbols, at + used
        if entropy_coded:
            size = bitpack.grouped_size(count, self.bits)
            return bitpack.ungroup(_take(data, at, size), count, self.bits), at + size
        size = bitpack.packed_size(count, self.bits)
        return bitpack.unpack(_take(data, at, size), count, self.bits), at + size


def _axis(channel_axis: int, ndim: int) -> int:
    if not 1 <= channel_axis < ndim:
        raise WireError(
            f"channel axis {channel_axis}: expected 1 to {ndim - 1} for an activation of {ndim} dimensions"
        )
    return channel_axis


def _take(data: memoryview, at: int, size: int) -> memoryview:
    if size > len(data) - at:
        raise WireError(f"the payload ends: {len(data) - at} bytes left, {size} needed")
    return data[at : at + size]


FAMILY: Final = tuple(
    LinearCodec(bits, per_channel, runs)
    for bits in range(quantize.MAX_BITS, quantize.MIN_BITS - 1, -1)
    for per_channel in (False, True)
    for runs in (False, True)
)
