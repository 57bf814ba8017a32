"""Requests to a tail and its answers: round trips, the manifest checks, stock clients, golden bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import np_to_triton_dtype

from isplit_plugin.errors import (
    NetworkMismatchError,
    UnknownCodecError,
    UnknownSplitPointError,
    WireError,
    WireSizeError,
)
from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.wire import (
    CODECS,
    OUTPUTS,
    TailRequest,
    TailResponse,
    Tensor,
    decode_activation,
    decode_request,
    decode_response,
    encode_activation,
    encode_images,
    http_headers,
    top_k,
)

OCTETS = "application/octet-stream"
X = np.linspace(-1, 3, 2 * 4 * 5 * 5, dtype=np.float32).reshape(2, 4, 5, 5)
JPEG = b"\xff\xd8\xff\xe0 not much of a photo"
PNG = b"\x89PNG\r\n\x1a\n nor this"


def asked(**changes: Any) -> TailRequest:
    usual: dict[str, Any] = {
        "cut": Cut("conv", "fp32"),
        "tensor": encode_activation(X, "fp32"),
    }
    return TailRequest(**{**usual, "network_hash": "abc123", **changes})


def stock(
    array: np.ndarray, name: str = "activation", **parameters: Any
) -> tuple[bytes, int | None]:
    """A request as somebody writes it who knows nothing of us."""
    datatype = np_to_triton_dtype(array.dtype)
    given_input = triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)
    body, length = triton.InferenceServerClient.generate_request_body(
        [given_input], parameters=parameters or None
    )
    return body, length


@pytest.mark.parametrize("codec", CODECS)
def test_round_trip(codec: str, manifest: Manifest) -> None:
    tensor = encode_activation(X, codec)
    sent = asked(
        cut=Cut("conv.relu", codec),
        tensor=tensor,
        top_k=3,
        scores=True,
        binary_outputs=frozenset({"scores"}),
        head_ms=12.3456,
        encode_ms=0.25,
        group="north wing",
        id="r1",
    )
    body, length = sent.encode()
    got = decode_request(bytearray(body), length, OCTETS, manifest)
    assert (got.cut, got.shape, got.batch) == (Cut("conv", codec), (4, 5, 5), 2)
    assert (got.top_k, got.scores, got.binary_outputs) == (3, True, {"scores"})
    assert (got.head_ms, got.encode_ms, got.group, got.id) == (12.346, 0.25, "north wing", "r1")
    assert got.network_hash == "abc123"
    assert not got.is_image
    np.testing.assert_array_equal(got.activation(), decode_activation(tensor, shape=X.shape[1:]))
    step = np.ptp(X) / 2 ** int(codec[1]) if codec.startswith("q") else 0.02
    np.testing.assert_allclose(got.activation(), X, atol=step)
    with pytest.raises(WireError, match="not image files"):
        got.images()


@pytest.mark.parametrize(
    "binary",
    [frozenset(), frozenset({"top_class", "top_label"}), frozenset(OUTPUTS)],
)
def test_binary_flags_come_through(binary: frozenset[str], manifest: Manifest) -> None:
    got = decode_request(*asked(binary_outputs=binary).encode(), OCTETS, manifest)
    assert got.binary_outputs == binary
    assert not got.scores


def test_defaults_are_not_written(manifest: Manifest) -> None:
    body, length = asked().encode()
    assert set(json.loads(body[:length])["parameters"]) == {"isplit_split_point", "isplit_network"}
    got = decode_request(body, length, OCTETS, manifest)
    assert (got.top_k, got.scores, got.group, got.id) == (5, False, "all", "")
    assert math.isnan(got.head_ms)
    assert math.isnan(got.encode_ms)


@pytest.mark.parametrize("codec", ["jpeg", "file"])
def test_images_at_split_point_input(codec: str, two_deployed: Manifest) -> None:
    sent = asked(
        cut=Cut("input", codec),
        tensor=encode_images([JPEG, PNG], codec),
        network_hash=None,
    )
    got = decode_request(*sent.encode(), OCTETS, two_deployed)
    assert (got.cut, got.batch, got.is_image) == (Cut("input", codec), 2, True)
    assert [bytes(image) for image in got.images()] == [JPEG, PNG]
    with pytest.raises(WireError, match="image files"):
        got.activation()
    with pytest.raises(WireSizeError, match="2 images, at most 1"):
        decode_request(*sent.encode(), OCTETS, two_deployed, max_batch=1)


@pytest.mark.parametrize(
    ("photo", "kind"), [(JPEG, "image/jpeg"), (PNG, None), (JPEG, OCTETS), (b"GIF8", "image/gif")]
)
def test_a_photo_as_the_body(photo: bytes, kind: str | None, two_deployed: Manifest) -> None:
    got = decode_request(bytearray(photo), None, kind, two_deployed)
    assert (got.cut, got.top_k, got.scores) == (Cut("input", "file"), 5, False)
    assert bytes(got.images()[0]) == photo


def test_a_preprocessed_input(manifest: Manifest) -> None:
    body, length = stock(np.ones((1, 3, 8, 8), np.float32), "input")
    got = decode_request(body, length, OCTETS, manifest)
    assert (got.cut, got.activation().shape) == (Cut("input", "fp32"), (1, 3, 8, 8))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_stock_client_reaches_the_only_split_point(dtype: type, manifest: Manifest) -> None:
    body, length = stock(X.astype(dtype))
    got = decode_request(body, length, OCTETS, manifest)
    assert (got.split_point, got.network_hash) == ("conv", None)
    assert got.binary_outputs == set(OUTPUTS)  # tritonclient asks for everything in binary
    np.testing.assert_array_equal(got.activation(), X.astype(dtype))


def test_a_stock_client_writes_quantized_tensors(manifest: Manifest) -> None:
    codes = np.arange(100, dtype=np.uint8).reshape(1, 4, 5, 5)
    head = {
        "inputs": [
            {
                "name": "activation",
                "datatype": "UINT8",
                "shape": [1, 4, 5, 5],
                "parameters": {"scale": 0.5, "zero_point": 2, "binary_data_size": 100},
            }
        ]
    }
    raw = json.dumps(head).encode()
    got = decode_request(raw + codes.tobytes(), len(raw), OCTETS, manifest)
    np.testing.assert_array_equal(got.activation(), (codes.astype(np.float32) - 2) / 2)


def test_json_as_curl_sends_it(manifest: Manifest) -> None:
    message = {
        "inputs": [
            {"name": "activation", "datatype": "FP32", "shape": [1, 4, 5, 5], "data": X[0].tolist()}
        ]
    }
    for body in (message, json.dumps(message).encode()):
        got = decode_request(body, None, "application/json; charset=utf-8", manifest)
        np.testing.assert_array_equal(got.activation(), X[:1])


def test_with_several_split_points_the_missing_names_are_told(two_deployed: Manifest) -> None:
    both = "lack isplit_split_point and isplit_network; split points: input, conv, mid"
    for parameters, says in [
        ({}, both),
        ({"isplit_split_point": "conv"}, "lack isplit_network;"),
        ({"isplit_network": "abc123"}, "lack isplit_split_point;"),
    ]:
        with pytest.raises(WireError, match=says) as caught:
            decode_request(*stock(X, **parameters), OCTETS, two_deployed)
        assert caught.value.status == 400
    told = {"isplit_split_point": "mid", "isplit_network": "abc123"}
    got = decode_request(*stock(np.ones((1, 7), np.float32), **told), OCTETS, two_deployed)
    assert got.split_point == "mid"


def test_a_head_of_another_network_is_refused(manifest: Manifest) -> None:
    with pytest.raises(
        NetworkMismatchError, match="belongs to network old99, this tail to abc123"
    ) as caught:
        decode_request(*asked(network_hash="old99").encode(), OCTETS, manifest)
    assert caught.value.details == {"head": "old99", "tail": "abc123"}


def test_split_points_that_are_not_served(manifest: Manifest) -> None:
    for name, says in [
        ("nowhere", "unknown split point 'nowhere'; known: input, conv"),
        ("output", "unknown split point 'output'"),
        ("mid", "'mid' is not deployed; deployed: input, conv"),
    ]:
        with pytest.raises(UnknownSplitPointError, match=says):
            decode_request(*asked(cut=Cut(name, "fp32")).encode(), OCTETS, manifest)


def test_a_codec_the_tail_does_not_take(manifest: Manifest) -> None:
    narrow = Manifest.from_json({**manifest.to_json(), "codecs": ["uint8"]})
    with pytest.raises(UnknownCodecError, match="unknown codec 'fp32'; known: uint8"):
        decode_request(*asked().encode(), OCTETS, narrow)


def test_shape_name_and_batch(manifest: Manifest) -> None:
    for request, says in [
        (asked(tensor=encode_activation(X[:, :3], "fp32")), "expected shape \\[N, 4, 5, 5\\]"),
        (
            asked(tensor=encode_activation(X[:, :3], "uint8+zstd")),
            "expected shape \\[N, 4, 5, 5\\]",
        ),
        (asked(tensor=encode_activation(X, "fp32", "x")), "named 'activation', got 'x'"),
        (asked(tensor=encode_images([JPEG], "jpeg", "activation")), "unknown codec 'jpeg'"),
        (
            asked(cut=Cut("input", "jpeg"), tensor=encode_images([JPEG], "jpeg", "activation")),
            "named 'input'",
        ),
    ]:
        with pytest.raises((WireError, UnknownCodecError), match=says):
            decode_request(*request.encode(), OCTETS, manifest)
    with pytest.raises(WireSizeError, match="batch of 2, at most 1"):
        decode_request(*asked().encode(), OCTETS, manifest, max_batch=1)
    two = Tensor.of_bytes("input", [JPEG], {"isplit_codec": "jpeg"}, shape=(1, 1))
    with pytest.raises(WireError, match="BYTES of shape \\[N\\]"):
        decode_request(*asked(cut=Cut("input", "jpeg"), tensor=two).encode(), OCTETS, manifest)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"isplit_top_k": 0}, "from 1 to 100"),
        ({"isplit_top_k": 101}, "from 1 to 100"),
        ({"isplit_top_k": True}, "from 1 to 100"),
        ({"isplit_top_k": "3"}, "from 1 to 100"),
        ({"isplit_head_ms": -0.1}, "milliseconds"),
        ({"isplit_head_ms": 3_600_001}, "milliseconds"),
        ({"isplit_encode_ms": "1"}, "milliseconds"),
        ({"isplit_encode_ms": False}, "milliseconds"),
        ({"isplit_group": "x" * 65}, "at most 64"),
        ({"isplit_group": "a\nb"}, "cannot be printed"),
        ({"isplit_group": 5}, "expected a string"),
        ({"isplit_split_point": "x" * 129}, "at most 128"),
        ({"isplit_split_point": 5}, "expected a string"),
        ({"isplit_network": 5}, "expected a string"),
        ({"binary_data_output": 1}, "true or false"),
    ],
)
def test_hostile_parameters(parameters: dict[str, Any], says: str, manifest: Manifest) -> None:
    raw = json.loads(asked().encode(binary=False)[0])
    with pytest.raises(WireError, match=says):
        decode_request(
            {**raw, "parameters": {**raw["parameters"], **parameters}},
            None,
            "application/json",
            manifest,
        )


def test_outputs_are_checked(manifest: Manifest) -> None:
    raw = json.loads(asked().encode(binary=False)[0])
    for outputs, says in [
        ([{"name": "logits"}], "unknown output 'logits'; known: top_class"),
        ([{"name": "scores", "parameters": {"binary_data": "yes"}}], "true or false"),
    ]:
        with pytest.raises(WireError, match=says):
            decode_request({**raw, "outputs": outputs}, None, None, manifest)
    with pytest.raises(WireError, match="one input tensor, got 2"):
        decode_request(
            {**raw, "inputs": [raw["inputs"][0], {**raw["inputs"][0], "name": "b"}]},
            None,
            None,
            manifest,
        )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is empty"),
        (b"\x00\x01\x02\x03", "needs the header Inference-Header-Content-Length"),
        (X.tobytes(), "needs the header"),
        (b"{", "not valid JSON"),
        (b'{"inputs": []}\x00\x00\x80\x3f', "without the header Inference-Header-Content-Length"),
        (None, "contiguous body"),
        ([1, 2], "expected a JSON object, got list"),
    ],
)
def test_bodies_that_are_none_of_the_three_forms(body: Any, says: str, manifest: Manifest) -> None:
    with pytest.raises(WireError, match=says):
        decode_request(body, None, OCTETS, manifest)


@given(data=st.data())
def test_mutated_requests_raise_what_the_docstring_says(
    manifest: Manifest, data: st.DataObject
) -> None:
    codec = data.draw(st.sampled_from(CODECS))
    body, length = asked(
        cut=Cut("conv", codec), tensor=encode_activation(X, codec), scores=True, head_ms=1.0
    ).encode()
    mutated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(
            st.integers(32, 126) | st.integers(0, 255)
        )
    try:
        array = decode_request(mutated, length, OCTETS, manifest).activation()
    except (WireError, UnknownSplitPointError, UnknownCodecError, NetworkMismatchError) as error:
        json.dumps(error.to_json(), allow_nan=False)
        return
    assert array.shape == X.shape
    assert np.isfinite(array).all()


SCORES = np.array([[1.0, 3.0, 2.0], [0.5, 0.5, -1.0]], np.float32)


def answered(**changes: Any) -> TailResponse:
    usual: dict[str, Any] = {
        "k": 2,
        "with_scores": True,
        "split_point": "conv",
        "network_hash": "abc123",
    }
    return TailResponse.from_scores(
        SCORES, ("ant", "b\u00e9e", "cat"), **{**usual, "request_id": "s1", **changes}
    )


@pytest.mark.parametrize("binary", [frozenset(), frozenset({"scores"}), frozenset(OUTPUTS)])
def test_an_answer_comes_back(binary: frozenset[str]) -> None:
    sent = answered(decode_ms=0.1234, tail_ms=7.0, model="toy", version="1.0", id="r1")
    got = decode_response(*sent.encode(binary))
    assert got.top_class.tolist() == [[1, 2], [0, 1]]  # the lower id first among equals
    assert got.top_label == (("b\u00e9e", "cat"), ("ant", "b\u00e9e"))
    assert got.top_score.tolist() == [[3.0, 2.0], [0.5, 0.5]]
    weights = np.exp(SCORES.astype(np.float64))
    expected = np.take_along_axis(
        weights / weights.sum(axis=1, keepdims=True), got.top_class, axis=1
    )
    np.testing.assert_allclose(got.top_probability, expected, rtol=1e-6)
    assert got.scores is not None
    assert got.scores.tobytes() == SCORES.tobytes()
    assert (got.split_point, got.network_hash, got.request_id) == ("conv", "abc123", "s1")
    assert (got.decode_ms, got.tail_ms, got.model, got.version, got.id) == (
        0.123,
        7.0,
        "toy",
        "1.0",
        "r1",
    )


def test_tritonclient_reads_an_answer() -> None:
    body, length = answered().encode(frozenset(OUTPUTS))
    result = triton.InferenceServerClient.parse_response_body(body, header_length=length)
    assert result.as_numpy("top_class").tolist() == [[1, 2], [0, 1]]
    assert [v.decode() for v in result.as_numpy("top_label").ravel()] == [
        "b\u00e9e",
        "cat",
        "ant",
        "b\u00e9e",
    ]
    np.testing.assert_array_equal(result.as_numpy("scores"), SCORES)
    body, length = answered(with_scores=False).encode()
    assert length is None
    assert "scores" not in [output["name"] for output in json.loads(body)["outputs"]]


def test_top_k_of_few_classes_and_few_labels() -> None:
    ids, best, probabilities = top_k(np.array([[-1e38, 1e38]], np.float32), 5)
    assert (ids.tolist(), best.shape, probabilities.tolist()) == ([[1, 0]], (1, 2), [[1.0, 0.0]])
    assert TailResponse.from_scores(
        SCORES, ("ant",), k=1, with_scores=False, split_point="c", network_hash="h"
    )
    assert answered(k=1).top_label == (("b\u00e9e",), ("ant",))


@pytest.mark.parametrize(
    "scores", [np.array([1.0]), np.zeros((0, 3)), np.array([[np.nan, 1]]), np.array([[np.inf, 1]])]
)
def test_scores_that_are_no_answer(scores: np.ndarray) -> None:
    with pytest.raises(WireError):
        TailResponse.from_scores(
            scores, (), k=1, with_scores=True, split_point="c", network_hash="h"
        )


def test_answers_that_are_not_ours() -> None:
    raw = json.loads(answered().encode()[0])
    outputs = {output["name"]: output for output in raw["outputs"]}
    wrong: list[Any] = [
        {"outputs": [o for o in raw["outputs"] if o["name"] != name]} for name in list(outputs)[:4]
    ]
    for name, change in [
        ("top_class", {"data": [-1, 0, 0, 0]}),
        ("top_class", {"shape": [4]}),
        ("top_class", {"datatype": "INT32"}),
        ("top_score", {"shape": [1, 4]}),
        ("top_label", {"datatype": "FP32", "data": [1, 2, 3, 4]}),
        ("scores", {"shape": [3, 2]}),
    ]:
        wrong.append(
            {"outputs": [{**o, **change} if o["name"] == name else o for o in raw["outputs"]]}
        )
    hostile: list[dict[str, Any]] = [
        {"isplit_tail_ms": -1},
        {"isplit_tail_ms": "1"},
        {"isplit_split_point": 3},
    ]
    wrong += [{"parameters": {**raw["parameters"], **change}} for change in hostile]
    wrong.append({"parameters": {}})
    for change in wrong:
        with pytest.raises(WireError):
            decode_response(json.dumps({**raw, **change}).encode(), None)


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
    b'"inputs":[{"name":"activation","datatype":"BYTES","shape":[1],"parameters":{"isplit_codec":"fp32+zstd",'
    b'"isplit_datatype":"FP32","isplit_shape":"1,16","binary_data_size":38}}]}',
    bytes.fromhex("2200000028b52ffd2040cd000088000000000000803f00000040000040400002006702d88225"),
)
GOLDEN_ANSWER = (
    b'{"model_name":"toy","model_version":"1.0","parameters":{"isplit_split_point":"conv","isplit_network":"abc123",'
    b'"isplit_request_id":"s1","isplit_decode_ms":0.25,"isplit_tail_ms":7.5},"outputs":['
    b'{"name":"top_class","datatype":"INT64","shape":[1,2],"data":[1,2]},'
    b'{"name":"top_score","datatype":"FP32","shape":[1,2],"data":[3.0,2.0]},'
    b'{"name":"top_probability","datatype":"FP32","shape":[1,2],"data":[0.66524094,0.24472848]},'
    b'{"name":"top_label","datatype":"BYTES","shape":[1,2],"data":["bee","cat"]},'
    b'{"name":"scores","datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":12}}]}',
    b"\x00\x00\x80\x3f\x00\x00\x40\x40\x00\x00\x00\x40",
)


def padded(golden: tuple[bytes, bytes]) -> tuple[bytes, int]:
    head = golden[0] + b" " * (-len(golden[0]) % 16)
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
    got = decode_request(*padded(GOLDEN_ZSTD), OCTETS, Manifest.from_json(raw))
    assert got.activation().tolist() == [[0, 1, 2, 3] * 4]


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
    assert sent.encode(frozenset({"scores"})) == padded(GOLDEN_ANSWER)
    got = decode_response(*padded(GOLDEN_ANSWER))
    assert (got.top_label, got.tail_ms) == ((("bee", "cat"),), 7.5)
