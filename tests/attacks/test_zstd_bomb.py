"""A few kilobytes of zstd that decompress to hundreds of megabytes, or ask for as large a window.

Defence: a frame may hold exactly what the codec needs for the stated shape, and its window no more
than 8 MB or that. A stated size is checked before anything is decompressed; a frame that states
none stops at the limit. The tail takes at most 128 MiB decoded in one request.
"""

from __future__ import annotations

import pytest
from fuzz.target import memory_limit
from toys.zstd_frames import frame_with_size, frame_without_size

from isplit_plugin.errors import WireError
from isplit_plugin.wire import Scalar, Tensor, codec_names, decode_activation

_BLOCK = bytes(2**20)
_BOMBS = {
    "without a size": frame_without_size([_BLOCK] * 256),
    "without a size, window of 1 GB": frame_without_size([_BLOCK] * 256, window_log=30),
    "with its size": frame_with_size(_BLOCK * 256, window_log=27),
}


@pytest.mark.parametrize("codec", [name for name in codec_names() if name.endswith("+zstd")])
def test_every_codec(codec: str) -> None:
    parameters: dict[str, Scalar] = {
        "isplit_codec": codec,
        "isplit_shape": "1,3,4,4",
        "scale": 1.0,
        "zero_point": 0,
    }
    for bomb in _BOMBS.values():
        assert len(bomb) < 100_000
        tensor = Tensor.of_bytes("activation", [bomb], parameters)
        with memory_limit(64), pytest.raises(WireError, match="zstd frame"):
            decode_activation(tensor, shape=(3, 4, 4))
