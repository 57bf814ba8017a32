"""The ``q`` family: linear quantisation without training (Carra & Neglia, GLOBECOM 2023).

``q<bits>[c][+rle]+zstd``: 2 to 8 bits, a step per tensor or per channel (``c``), runs of zeros
coded or not, entropy-coded. In front of zstd the payload describes itself, but for the shape.
Little-endian::

    version u8 = 1 | channel axis u8 (counted with the batch; 0: per tensor)
    each item:
        step f32
        per tensor:   zero point u8
        per channel:  exponents C x u8 | flag u8 | zero points C x u8, if the flag is 1
        symbols:      (code - zero point) mod 2**bits, channels outermost;
                      a run-length block with ``+rle``, otherwise grouped into bytes
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..errors import WireError
from ..schema import FloatArray
from . import quantize, runlength
from .codec import Codec, EncodeOptions, Payload
from .entropy import WithZstd
from .grouping import Bytes, group, grouped_size, ungroup
from .quantize import FLOAT32_MAX, FLOAT32_TINY, Grid, Ranges
from .reader import Reader

VERSION: Final = 1

_HEADER: Final = struct.Struct("<BB")
_STEP: Final = struct.Struct("<f")


@dataclass(frozen=True, slots=True)
class LinearCodec(Codec):
    """One member of the family, in front of the entropy coder.

    Attributes:
        bits: Bits of a code, 2 to 8.
        per_channel: A step and a zero point for each channel, instead of one for the tensor.
        run_lengths: Code the runs of zeros.
    """

    bits: int
    per_channel: bool = False
    run_lengths: bool = False

    @property
    def name(self) -> str:
        return f"q{self.bits}{'c' if self.per_channel else ''}{'+rle' if self.run_lengths else ''}"

    def encode(self, activation: FloatArray, options: EncodeOptions) -> Payload:
        axis = self._payload_axis(options.channel_axis, activation.ndim)
        parts = [_HEADER.pack(VERSION, axis)]
        for item in activation:
            parts += self._encode_item(_rows(item, axis), options.ranges)
        return Payload(b"".join(parts))

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> FloatArray:
        reader = Reader(payload.data, f"codec {self.name!r}")
        axis = self._read_header(reader, len(shape))
        channels = shape[axis] if axis else 1
        activation = np.empty(shape, np.float32)
        for item in activation:
            grid = self._read_grid(reader, channels)
            codes = self._read_symbols(reader, item.size).reshape(channels, -1)
            if grid.zero_points.any():
                codes += grid.zero_points[:, None]
                codes &= np.uint8((1 << self.bits) - 1)
            channels_first = np.moveaxis(item, axis - 1, 0) if axis else item
            channels_first[...] = grid.restore(codes).reshape(channels_first.shape)
        reader.finish()
        return activation

    def max_size(self, shape: tuple[int, ...]) -> int:
        count = math.prod(shape[1:])
        channels = max(shape[1:]) if self.per_channel else 1
        symbols = (
            runlength.max_size(count, self.bits)
            if self.run_lengths
            else grouped_size(count, self.bits)
        )
        return _HEADER.size + shape[0] * (_STEP.size + 1 + 2 * channels + symbols)

    def calibrate(self, activations: Iterable[FloatArray], channel_axis: int) -> Ranges:
        return quantize.widest_ranges(
            _rows(item, self._payload_axis(channel_axis, activation.ndim))
            for activation in activations
            for item in activation
        )

    def _payload_axis(self, channel_axis: int, dimensions: int) -> int:
        """The channel axis as the payload states it: 0 per tensor."""
        if not self.per_channel:
            return 0
        if not 1 <= channel_axis < dimensions:
            raise WireError(
                f"expected a channel axis from 1 to {dimensions - 1} for an activation of "
                f"{dimensions} dimensions, got {channel_axis}"
            )
        return channel_axis

    def _encode_item(self, rows: FloatArray, ranges: Ranges | None) -> list[bytes]:
        """The parts of the payload for one item (C, S)."""
        if ranges is None:
            ranges = quantize.ranges_of(rows)
        elif ranges.low.shape != (len(rows),) or ranges.high.shape != (len(rows),):
            raise WireError(
                f"codec {self.name!r}: expected ranges of {len(rows)} channels, "
                f"got {ranges.low.size}"
            )
        grid = quantize.grid_of(ranges, self.bits)
        symbols = grid.quantize(rows)
        shifted = bool(grid.zero_points.any())
        if shifted:
            symbols -= grid.zero_points[:, None]  # modulo 256, and 2**bits divides it
            symbols &= np.uint8((1 << self.bits) - 1)
        parts = [_STEP.pack(grid.step)]
        if self.per_channel:
            parts += [grid.exponents.tobytes(), bytes((shifted,))]
        if shifted or not self.per_channel:
            parts.append(grid.zero_points.tobytes())
        flat = symbols.reshape(-1)
        if self.run_lengths:
            return [*parts, runlength.encode(flat, self.bits)]
        return [*parts, group(flat, self.bits).tobytes()]

    def _read_header(self, reader: Reader, dimensions: int) -> int:
        """The channel axis; 0 per tensor."""
        version, axis = reader.unpack(_HEADER)
        if version != VERSION:
            raise WireError(f"{reader.subject}: expected payload version {VERSION}, got {version}")
        if self.per_channel != bool(axis) or axis >= dimensions:
            raise WireError(
                f"{reader.subject}: channel axis {axis} in the payload of an activation of "
                f"{dimensions} dimensions"
            )
        return int(axis)

    def _read_grid(self, reader: Reader, channels: int) -> Grid:
        top = (1 << self.bits) - 1
        (step,) = reader.unpack(_STEP)
        if not FLOAT32_TINY <= step <= FLOAT32_MAX / top:
            raise WireError(f"{reader.subject}: a step of {step}")
        exponents = np.zeros(1, np.uint8)
        shifted = 1
        if self.per_channel:
            exponents = np.frombuffer(reader.take(channels), np.uint8)
            (shifted,) = reader.take(1)
            if shifted > 1:
                raise WireError(f"{reader.subject}: expected a flag of 0 or 1, got {shifted}")
        zero_points = np.zeros(channels, np.uint8)
        if shifted:
            zero_points = np.frombuffer(reader.take(channels), np.uint8)
            if zero_points.max() > top:
                raise WireError(
                    f"{reader.subject}: a zero point of {zero_points.max()}, at most {top}"
                )
        return Grid(self.bits, np.float32(step), exponents, zero_points)

    def _read_symbols(self, reader: Reader, count: int) -> Bytes:
        if self.run_lengths:
            return runlength.decode(reader, count, self.bits)
        return ungroup(reader.take(grouped_size(count, self.bits)), count, self.bits)


def _rows(item: FloatArray, axis: int) -> FloatArray:
    """One item, without batch, as (C, S); ``axis`` counts the batch, 0 means C = 1."""
    if not axis:
        return np.ascontiguousarray(item).reshape(1, -1)
    channels_first = np.moveaxis(item, axis - 1, 0)
    return np.ascontiguousarray(channels_first).reshape(len(channels_first), -1)


FAMILY: Final = tuple(
    WithZstd(LinearCodec(bits, per_channel, run_lengths))
    for bits in range(quantize.MAX_BITS, quantize.MIN_BITS - 1, -1)
    for per_channel in (False, True)
    for run_lengths in (False, True)
)
