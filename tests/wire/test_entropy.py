"""zstd frames from the network: exactly one, within bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.zstd_frames import frame_with_size, frame_without_size

from isplit_plugin.errors import WireError, WireSizeError
from isplit_plugin.wire import Codec, WithZstd, entropy
from isplit_plugin.wire.linear import LinearCodec
from isplit_plugin.wire.plain import Fp32

FRAME = entropy.compress(bytes(4000))
WINDOW_128_MIB = 27
"""A window of 2**27 bytes."""


@given(st.binary(max_size=3000))
def test_content_comes_back(content: bytes) -> None:
    frame = entropy.compress(content)
    assert entropy.decompress(frame, len(content)) == content
    assert entropy.decompress(frame, len(content) + 100) == content
    if content:
        with pytest.raises(WireSizeError, match=f"{len(content)} bytes, at most"):
            entropy.decompress(frame, len(content) - 1)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"", "not a readable zstd frame"),
        (b"\x00" * 40, "not a readable zstd frame"),
        (FRAME[:-3], "ends early"),
        (FRAME + b"!", "1 bytes after the zstd frame"),
        (FRAME + FRAME, "bytes after the zstd frame"),
    ],
)
def test_hostile_frames(frame: bytes, error: str) -> None:
    with pytest.raises(WireError, match=error):
        entropy.decompress(frame, 4000)


def test_a_frame_that_states_no_size_is_bounded_by_the_limit() -> None:
    frame = frame_without_size([bytes(4000)])
    assert entropy.decompress(frame, 4000) == bytes(4000)
    with pytest.raises(WireSizeError, match="more than 3999 bytes"):
        entropy.decompress(frame, 3999)


def test_a_frame_may_not_ask_for_a_large_window() -> None:
    with_size = frame_with_size(bytes(4000), WINDOW_128_MIB)
    assert entropy.decompress(with_size, 4000) == bytes(4000)  # the size bounds the window
    without_size = frame_without_size([bytes(4000)], WINDOW_128_MIB)
    with pytest.raises(WireError, match="not a readable zstd frame"):
        entropy.decompress(without_size, 4000)


@pytest.mark.parametrize("codec", [Fp32(), LinearCodec(3), LinearCodec(5, True, True)])
def test_the_bound_holds_for_bytes_that_cannot_be_compressed(codec: Codec) -> None:
    for items in (1, 7):
        shape = (items, 3, 40, 40)
        noise = np.random.default_rng(0).bytes(codec.max_size(shape))
        assert len(entropy.compress(noise)) <= WithZstd(codec).max_size(shape)
