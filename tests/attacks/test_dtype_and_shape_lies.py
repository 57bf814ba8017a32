"""A tensor that says it has another datatype, shape or codec than it has.

Defence: datatype, shape and codec are compared with the manifest and with the number of bytes. What
is accepted has the split point's shape, is finite, and is float32.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from fuzz.target import memory_limit
from toys.client import make_manifest

from isplit_plugin.errors import IsplitError, UnknownCodecError, WireError
from isplit_plugin.schema import Cut
from isplit_plugin.wire import CODECS, TailRequest, decode_request, encode_activation

MANIFEST = make_manifest()
SHAPE = (3, 4, 4)
X = np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, *SHAPE)
DATATYPES = ("FP32", "FP16", "UINT8", "INT8", "INT64", "FP64", "BYTES", "BOOL", "BF16", "fp32", "")
SHAPES: tuple[list[Any], ...] = (
    *([1, 3, 4, 4], [1, 48], [48], [2, 3, 4, 2], [1, 4, 4, 3], [0, 3, 4, 4], [-1, 3, 4, 4]),
    *([2**40, 3, 4, 4], [2**62, 2**62], [], [1] * 9, [1.0, 3, 4, 4], [True, 3, 4, 4], ["1", 3, 4]),
    [None],
)


def _request(codec: str) -> tuple[dict[str, Any], bytes]:
    """The JSON of a right request, and its tensor."""
    tensor = encode_activation(X, codec)
    request = TailRequest(cut=Cut("double", codec), tensor=tensor, network_hash="feed")
    body, length = request.encode()
    assert length is not None
    return json.loads(body[:length]), body[length:]


def _activation(head: dict[str, Any], tensor: bytes) -> np.ndarray:
    raw = json.dumps(head).encode()
    kind = "application/octet-stream"
    return decode_request(raw + tensor, len(raw), kind, MANIFEST).activation()


def _is_right(activation: np.ndarray) -> bool:
    shape = activation.shape
    return (
        shape[1:] == SHAPE
        and activation.dtype == np.float32
        and bool(np.isfinite(activation).all())
    )


@pytest.mark.parametrize("codec", CODECS)
def test_datatypes_and_shapes(codec: str) -> None:
    head, tensor = _request(codec)
    right = (head["inputs"][0]["datatype"], head["inputs"][0]["shape"])
    assert _is_right(_activation(head, tensor))
    with memory_limit(256):
        for datatype, shape in itertools.product(DATATYPES, SHAPES):
            if (datatype, shape) == right:
                continue
            head["inputs"][0] |= {"datatype": datatype, "shape": shape}
            with pytest.raises(WireError):
                _activation(head, tensor)


@pytest.mark.parametrize(
    "shape",
    [
        "1,48",
        "2,3,4,4",
        "1,3,4",
        "0,3,4,4",
        "1,3,4,-4",
        "1,3,4,4,1",
        "1000000000,3,4,4",
        "",
        "1,,4",
    ],
)
def test_the_shape_behind_a_codec(shape: str) -> None:
    head, tensor = _request("q4+zstd")
    head["inputs"][0]["parameters"]["isplit_shape"] = shape
    with memory_limit(256), pytest.raises(WireError):
        _activation(head, tensor)


@pytest.mark.parametrize("claimed", CODECS)
@pytest.mark.parametrize("real", CODECS)
def test_the_codec(claimed: str, real: str) -> None:
    """Bytes of one codec under the name of another: refused, or numbers of the right shape."""
    head, tensor = _request(real)
    head["inputs"][0]["parameters"]["isplit_codec"] = claimed
    try:
        assert _is_right(_activation(head, tensor))
    except (WireError, UnknownCodecError):
        assert claimed != real


def test_numbers_that_are_not_finite() -> None:
    head, _ = _request("fp32")
    for value in (np.nan, np.inf, -np.inf):
        array = X.copy()
        array[0, 0, 0, 0] = value
        with pytest.raises(IsplitError, match="NaN or infinite"):
            _activation(head, array.tobytes())
