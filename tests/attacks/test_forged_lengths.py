"""Lengths that are not those of the data: in headers, tensors, byte strings and frames.

Defence: every length is compared with the bytes that are there, and with the size that the shape
implies, before memory is allocated.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from toys.client import make_manifest
from toys.zstd_frames import frame_with_size

from isplit_plugin.errors import WireError
from isplit_plugin.schema import Cut
from isplit_plugin.wire import (
    HEADER,
    Scalar,
    TailRequest,
    Tensor,
    decode_activation,
    decode_request,
    encode_activation,
    encode_images,
    header_length,
)

MANIFEST = make_manifest()
X = np.ones((1, 3, 4, 4), np.float32)
LIES = (-1, 0, 1, 191, 193, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30)
MB = 2**20


def _body(codec: str = "fp32", **lies: Any) -> tuple[bytes, int]:
    """A request with forged parameters of its tensor."""
    tensor = encode_activation(X, codec)
    body, length = TailRequest(
        cut=Cut("double", codec), tensor=tensor, network_hash="feed"
    ).encode()
    assert length is not None
    head = json.loads(body[:length])
    head["inputs"][0]["parameters"].update(lies)
    raw = json.dumps(head).encode()
    return raw + body[length:], len(raw)


def _refused(read: Callable[[], object]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MB


def _decode(body: bytes, length: int | None) -> object:
    return decode_request(body, length, "application/octet-stream", MANIFEST).activation()


@pytest.mark.parametrize("size", LIES)
def test_of_a_tensor(size: int) -> None:
    body, length = _body(binary_data_size=size)
    _refused(lambda: _decode(body, length))


@pytest.mark.parametrize("length", [-1, 0, 1, 10, 2**16, 2**31, 2**63])
def test_of_the_json(length: int) -> None:
    body, right = _body()
    assert length != right
    _refused(lambda: _decode(body, length))


@pytest.mark.parametrize(
    "value", ["-1", "0x10", "1e3", "+5", "1_0", "\u0663", "", "12 34", "9" * 11, "9" * 10_000]
)
def test_of_the_header(value: str) -> None:
    _refused(lambda: header_length({HEADER: value}))


@pytest.mark.parametrize("length", [1, 5, 2**31, 2**32 - 1])
def test_of_a_byte_string(length: int) -> None:
    tensor = encode_images([b"\xff\xd8\xff\xe0"], "file")
    body, json_length = TailRequest(cut=Cut("input", "file"), tensor=tensor).encode()
    assert json_length is not None
    forged = body[:json_length] + struct.pack("<I", length) + body[json_length + 4 :]
    _refused(lambda: _decode(forged, json_length))


@pytest.mark.parametrize("codec", ["uint8+zstd", "q4+zstd", "q4+rle+zstd", "q2c+zstd", "fp16+zstd"])
@pytest.mark.parametrize("size", [0, 1, 1000, 64 * MB])
def test_of_a_frame(codec: str, size: int) -> None:
    """A frame that holds another amount than the codec needs for the shape."""
    frame = frame_with_size(bytes(size), window_log=20)
    parameters: dict[str, Scalar] = {
        "isplit_codec": codec,
        "isplit_shape": "1,3,4,4",
        "scale": 1.0,
        "zero_point": 0,
    }
    tensor = Tensor.of_bytes("activation", [frame], parameters)
    _refused(lambda: decode_activation(tensor, shape=(3, 4, 4)))
