"""The general entropy coder: one zstd frame (RFC 8878) at level 1, decompressed within bounds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from ..errors import WireError, WireSizeError
from ..schema import FloatArray
from .codec import Codec, EncodeOptions, Payload
from .quantize import Ranges
from .reader import Buffer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL: Final = 1
MIN_MATCH: Final = 7
"""Shorter matches cost more than entropy-coded literals: 2 to 3 % of sparse codes, measured."""

_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: LEVEL,
    zstd.CompressionParameter.min_match: MIN_MATCH,
}
_MIN_WINDOW_LOG: Final = 23
_MAX_WINDOW_LOG: Final = 30


@dataclass(frozen=True, slots=True)
class WithZstd(Codec):
    """Another codec's payload, compressed with zstd: ``WithZstd(Fp16())`` is ``fp16+zstd``."""

    codec: Codec

    @property
    def name(self) -> str:
        return f"{self.codec.name}+zstd"

    @property
    def qualities(self) -> tuple[int, ...]:
        return self.codec.qualities

    def encode(self, activation: FloatArray, options: EncodeOptions) -> Payload:
        payload = self.codec.encode(activation, options)
        return Payload(compress(payload.data), payload.parameters)

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> FloatArray:
        data = decompress(payload.data, self.codec.max_size(shape))
        return self.codec.decode(replace(payload, data=data), shape)

    def max_size(self, shape: tuple[int, ...]) -> int:
        size = self.codec.max_size(shape)
        return size + size // 128 + 128  # never below zstd's own bound, ZSTD_compressBound

    def calibrate(self, activations: Iterable[FloatArray], channel_axis: int) -> Ranges:
        return self.codec.calibrate(activations, channel_axis)


def compress(data: Buffer) -> bytes:
    """One frame that states the size of its content."""
    return bytes(zstd.compress(data, options=_OPTIONS))


def decompress(data: Buffer, limit: int) -> bytes:
    """The content of exactly one frame, at most ``limit`` bytes.

    Raises WireSizeError where the content is larger, before it is produced; WireError for
    anything that is not one complete frame.
    """
    try:
        stated = zstd.get_frame_info(data).decompressed_size
        if stated is not None and stated > limit:
            raise WireSizeError(f"a zstd frame of {stated} bytes, at most {limit}", limit=limit)
        expected = limit if stated is None else stated
        # A frame needs no window larger than its content.
        window_log = min(max(_MIN_WINDOW_LOG, (expected - 1).bit_length()), _MAX_WINDOW_LOG)
        decoder = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: window_log}
        )
        content: bytes = decoder.decompress(data, max_length=expected + 1)
    except (zstd.ZstdError, ValueError, OverflowError) as error:
        raise WireError(f"not a readable zstd frame ({error})") from error
    if len(content) > expected:
        raise WireSizeError(f"a zstd frame of more than {limit} bytes", limit=limit)
    if not decoder.eof:
        raise WireError(f"a zstd frame that ends early, after {len(content)} bytes of content")
    if decoder.unused_data:
        raise WireError(f"{len(decoder.unused_data)} bytes after the zstd frame")
    return content
