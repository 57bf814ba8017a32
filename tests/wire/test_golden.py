"""Golden bytes: what is written today is read, and written the same, tomorrow."""

from __future__ import annotations

import numpy as np
import pytest

from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.wire import (
    TailRequest,
    TailResponse,
    decode_request,
    decode_response,
    encode_activation,
    encode_images,
    http_headers,
)

OCTETS = "application/octet-stream"

GOLDEN_UINT8 = (
    b'{"parameters":{"isplit_split_point":"mid","isplit_network":"abc123","isplit_head_ms":1.5},'
    b'"outputs":[{"name":"scores","parameters":{"binary_data":true}}],'
    b'"inputs":[{"name":"activation","datatype":"UINT8","shape":[1,4],'
    b'"parameters":{"scale":0.02,"zero_point":50,"binary_data_size":4}}]}',
    b"\x00\x32\x64\xff",
)
GOLDEN_BATCH = (
    b'{"parameters":{"isplit_split_point":"mid","isplit_network":"abc123"},'
    b'"inputs":[{"name":"activation","datatype":"UINT8","shape":[2,2],'
    b'"parameters":{"scale":"0.02,0.01","zero_point":"50,0","binary_data_size":4}}]}',
    b"\x00\xff\x00\xff",
)
GOLDEN_JPEG = (
    b'{"parameters":{"isplit_split_point":"input"},'
    b'"inputs":[{"name":"input","datatype":"BYTES","shape":[1],'
    b'"parameters":{"isplit_codec":"jpeg","binary_data_size":7}}]}',
    b"\x03\x00\x00\x00\xff\xd8\xff",
)
# One frame by libzstd 1.5, level 1: [[0, 1, 2, 3] * 4] in float32.
GOLDEN_ZSTD = (
    b'{"parameters":{"isplit_split_point":"mid","isplit_network":"abc123"},'
    b'"inputs":[{"name":"activation","datatype":"BYTES","shape":[1],'
    b'"parameters":{"isplit_codec":"fp32+zstd","isplit_shape":"1,16","binary_data_size":38}}]}',
    bytes.fromhex("2200000028b52ffd2040cd000088000000000000803f00000040000040400002006702d88225"),
)
GOLDEN_ANSWER = (
    b'{"model_name":"toy","model_version":"1.0",'
    b'"parameters":{"isplit_split_point":"conv","isplit_network":"abc123",'
    b'"isplit_request_id":"s1","isplit_decode_ms":0.25,"isplit_tail_ms":7.5},"outputs":['
    b'{"name":"top_class","datatype":"INT64","shape":[1,2],"data":[1,2]},'
    b'{"name":"top_score","datatype":"FP32","shape":[1,2],"data":[3.0,2.0]},'
    b'{"name":"top_probability","datatype":"FP32","shape":[1,2],"data":[0.66524094,0.24472848]},'
    b'{"name":"top_label","datatype":"BYTES","shape":[1,2],"data":["bee","cat"]},'
    b'{"name":"scores","datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":12}}]}',
    b"\x00\x00\x80\x3f\x00\x00\x40\x40\x00\x00\x00\x40",
)


def padded(golden: tuple[bytes, bytes], boundary: int = 1) -> tuple[bytes, int]:
    head = golden[0] + b" " * (-len(golden[0]) % boundary)
    return head + golden[1], len(head)


@pytest.mark.parametrize(
    ("request_", "golden"),
    [
        (
            TailRequest(
                cut=Cut("mid", "uint8"),
                tensor=encode_activation(np.array([[-1.0, 0.0, 1.0, 4.1]], np.float32), "uint8"),
                network_hash="abc123",
                scores=True,
                binary_outputs=frozenset({"scores"}),
                head_ms=1.5,
            ),
            GOLDEN_UINT8,
        ),
        (
            TailRequest(
                cut=Cut("mid", "uint8"),
                tensor=encode_activation(np.array([[-1.0, 4.1], [0.0, 2.55]], np.float32), "uint8"),
                network_hash="abc123",
            ),
            GOLDEN_BATCH,
        ),
        (
            TailRequest(cut=Cut("input", "jpeg"), tensor=encode_images([b"\xff\xd8\xff"], "jpeg")),
            GOLDEN_JPEG,
        ),
    ],
    ids=["uint8", "batch", "jpeg"],
)
def test_golden_requests(request_: TailRequest, golden: tuple[bytes, bytes]) -> None:
    assert request_.encode() == padded(golden)
    assert http_headers(padded(golden)[1]) == {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(padded(golden)[1]),
    }


def test_golden_zstd_is_read(manifest: Manifest) -> None:
    raw = manifest.to_json()
    raw["split_points"] = [{**raw["split_points"][1], "shape": [16]}]
    raw["deployed"] = ["mid"]
    decoded = decode_request(*padded(GOLDEN_ZSTD), OCTETS, Manifest.from_json(raw))
    assert decoded.activation().tolist() == [[0, 1, 2, 3] * 4]


def test_golden_answer() -> None:
    sent = TailResponse.from_scores(
        np.array([[1.0, 3.0, 2.0]]),
        ("ant", "bee", "cat"),
        k=2,
        with_scores=True,
        split_point="conv",
        network_hash="abc123",
        request_id="s1",
        decode_ms=0.25,
        tail_ms=7.5,
        model="toy",
        version="1.0",
    )
    assert sent.encode(frozenset({"scores"})) == padded(GOLDEN_ANSWER, 4)
    decoded = decode_response(*padded(GOLDEN_ANSWER, 4))
    assert (decoded.top_label, decoded.tail_ms) == ((("bee", "cat"),), 7.5)
