"""The general entropy coder: one zstd frame (RFC 8878) at level 1, decompressed within bounds.

Only matches of 7 bytes and more are taken: in codes of activations shorter ones cost more than their entropy-coded
literals (2 to 3 % on sparse ones, measured).
"""

from __future__ import annotations

import sys
from typing import Final

from ..errors import WireError, WireSizeError
from .tensor import Buffer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL: Final = 1
_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: LEVEL,
    zstd.CompressionParameter.min_match: 7,
}
_WINDOW_LOG: Final = 23


def compress(data: Buffer) -> bytes:
    """One frame that states its size."""
    return bytes(zstd.compress(data, options=_OPTIONS))


def content_size(data: Buffer, limit: int) -> int:
    """The size that a frame states for its content, at most ``limit``. Raises WireSizeError above it, WireError for a
    frame that states none."""
    try:
        announced = zstd.get_frame_info(data).decompressed_size
    except (zstd.ZstdError, ValueError, OverflowError) as error:
        raise WireError(f"not a readable zstd frame ({error})") from error
    if announced is None:
        raise WireError("a zstd frame that does not state its size")
    if announced > limit:
        raise WireSizeError(f"a zstd frame of {announced} bytes, at most {limit}", limit=limit)
    return int(announced)


def decompress(data: Buffer, expected: int) -> bytes:
    """The content of exactly one frame, exactly ``expected`` bytes of it.

    Raises WireSizeError where the content is larger (before it is produced), WireError for anything else.
    """
    # A frame may ask for a window of its own content's size, which is known: never for more.
    window = max(_WINDOW_LOG, (expected - 1).bit_length())
    try:
        announced = zstd.get_frame_info(data).decompressed_size
        if announced is not None and announced != expected:
            kind = WireSizeError if announced > expected else WireError
            raise kind(f"a zstd frame of {announced} bytes, expected {expected}")
        decoder = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: min(window, 30)}
        )
        content: bytes = decoder.decompress(data, max_length=expected + 1)
    except (zstd.ZstdError, ValueError, OverflowError) as error:
        raise WireError(f"not a readable zstd frame ({error})") from error
    if len(content) > expected:
        raise WireSizeError(f"a zstd frame of more than the expected {expected} bytes")
    if len(content) != expected or not decoder.eof or decoder.unused_data:
        raise WireError(
            f"expected one zstd frame of {expected} bytes, got {len(content)} bytes or something behind it"
        )
    return content
