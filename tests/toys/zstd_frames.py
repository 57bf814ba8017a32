"""zstd frames that the product itself never writes."""

from __future__ import annotations

import sys
from collections.abc import Iterable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def frame_without_size(blocks: Iterable[bytes], window_log: int = 20) -> bytes:
    """A frame that does not state the size of its content."""
    compressor = zstd.ZstdCompressor(options=_options(window_log))
    frame = b"".join([*map(compressor.compress, blocks), compressor.flush()])
    assert zstd.get_frame_info(frame).decompressed_size is None
    return frame


def frame_with_size(content: bytes, window_log: int) -> bytes:
    """A frame that states its size, and was made with another window."""
    frame = zstd.compress(content, options=_options(window_log))
    assert zstd.get_frame_info(frame).decompressed_size == len(content)
    return bytes(frame)


def _options(window_log: int) -> dict[int, int]:
    return {zstd.CompressionParameter.window_log: window_log}
