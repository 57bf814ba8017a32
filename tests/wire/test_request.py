"""Requests to a tail: round trips, checks against the manifest, stock clients."""

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
    ImageError,
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
    Tensor,
    decode_activation,
    decode_request,
    encode_activation,
    encode_images,
)

OCTETS = "application/octet-stream"
X = np.linspace(-1, 3, 2 * 4 * 5 * 5, dtype=np.float32).reshape(2, 4, 5, 5)
JPEG = b"\xff\xd8\xff\xe0 not much of a photo"
PNG = b"\x89PNG\r\n\x1a\n nor this"
WEBP = b"RIFF\x10\0\0\0WEBPVP8 nor this"
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf nor this"


def make_request(**changes: Any) -> TailRequest:
    defaults: dict[str, Any] = {
        "cut": Cut("conv", "fp32"),
        "tensor": encode_activation(X, "fp32"),
    }
    return TailRequest(**{**defaults, "network_hash": "abc123", **changes})


def stock_request(
    array: np.ndarray, name: str = "activation", **parameters: Any
) -> tuple[bytes, int | None]:
    """A request of a client that knows the protocol alone."""
    datatype = np_to_triton_dtype(array.dtype)
    infer_input = triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)
    body, length = triton.InferenceServerClient.generate_request_body(
        [infer_input], parameters=parameters or None
    )
    return body, length


@pytest.mark.parametrize("codec", CODECS)
def test_round_trip(codec: str, manifest: Manifest) -> None:
    tensor = encode_activation(X, codec)
    sent = make_request(
        cut=Cut("conv.relu", codec),
        tensor=tensor,
        top_k=3,
        scores=True,
        binary_outputs=frozenset({"scores"}),
        head_ms=12.3456,
        encode_ms=0.25,
        uplink_ms=40.5,
        rtt_ms=38.0,
        queue_ms=1.5,
        group="north wing",
        id="r1",
    )
    body, length = sent.encode()
    decoded = decode_request(bytearray(body), length, OCTETS, manifest)
    assert decoded.cut == Cut("conv", codec)
    assert (decoded.shape, decoded.batch) == ((4, 5, 5), 2)
    assert (decoded.top_k, decoded.scores) == (3, True)
    assert decoded.binary_outputs == {"scores"}
    assert (decoded.head_ms, decoded.encode_ms, decoded.uplink_ms) == (12.3, 0.25, 40.5)
    assert (decoded.rtt_ms, decoded.queue_ms) == (38.0, 1.5)
    assert (decoded.group, decoded.id) == ("north wing", "r1")
    assert decoded.network_hash == "abc123"
    assert not decoded.is_image
    np.testing.assert_array_equal(
        decoded.activation(), decode_activation(tensor, shape=X.shape[1:])
    )
    step = np.ptp(X) / 2 ** int(codec[1]) if codec.startswith("q") else 0.02
    np.testing.assert_allclose(decoded.activation(), X, atol=step)
    with pytest.raises(WireError, match="not image files"):
        decoded.images()


@pytest.mark.parametrize(
    "binary",
    [frozenset(), frozenset({"top_class", "top_label"}), frozenset(OUTPUTS)],
)
def test_binary_flags_come_through(binary: frozenset[str], manifest: Manifest) -> None:
    decoded = decode_request(*make_request(binary_outputs=binary).encode(), OCTETS, manifest)
    assert decoded.binary_outputs == binary
    assert not decoded.scores


def test_defaults_are_not_written(manifest: Manifest) -> None:
    body, length = make_request().encode()
    assert set(json.loads(body[:length])["parameters"]) == {"isplit_split_point", "isplit_network"}
    decoded = decode_request(body, length, OCTETS, manifest)
    assert (decoded.top_k, decoded.scores, decoded.group, decoded.id) == (5, False, "all", "")
    assert math.isnan(decoded.head_ms)
    assert math.isnan(decoded.encode_ms)
    assert math.isnan(decoded.uplink_ms)
    assert math.isnan(decoded.rtt_ms)
    assert math.isnan(decoded.queue_ms)


@pytest.mark.parametrize("codec", ["jpeg", "file"])
def test_images_at_split_point_input(codec: str, two_deployed: Manifest) -> None:
    sent = make_request(
        cut=Cut("input", codec),
        tensor=encode_images([JPEG, PNG], codec),
        network_hash=None,
    )
    decoded = decode_request(*sent.encode(), OCTETS, two_deployed)
    assert (decoded.cut, decoded.batch, decoded.is_image) == (Cut("input", codec), 2, True)
    assert [bytes(image) for image in decoded.images()] == [JPEG, PNG]
    with pytest.raises(WireError, match="image files"):
        decoded.activation()
    with pytest.raises(WireSizeError, match="2 images, at most 1"):
        decode_request(*sent.encode(), OCTETS, two_deployed, max_batch=1)


@pytest.mark.parametrize(
    ("photo", "kind"),
    [
        (JPEG, "image/jpeg"),
        (PNG, None),
        (JPEG, OCTETS),
        (WEBP, None),
        (AVIF, OCTETS),
        (b"?", "image/x"),
    ],
)
def test_a_photo_as_the_body(photo: bytes, kind: str | None, two_deployed: Manifest) -> None:
    decoded = decode_request(bytearray(photo), None, kind, two_deployed)
    assert (decoded.cut, decoded.top_k, decoded.scores) == (Cut("input", "file"), 5, False)
    assert bytes(decoded.images()[0]) == photo


@pytest.mark.parametrize("kind", ["image/gif", None, OCTETS])
def test_a_photo_in_a_format_that_does_not_travel(kind: str | None, two_deployed: Manifest) -> None:
    with pytest.raises(ImageError, match="expected JPEG, PNG, WebP or AVIF, got GIF"):
        decode_request(b"GIF89a" + bytes(60), None, kind, two_deployed)
    with pytest.raises(ImageError, match="got HEIC; convert it to JPEG"):
        decode_request(b"\0\0\0\x18ftypheic" + bytes(60), None, kind, two_deployed)


def test_a_preprocessed_input(manifest: Manifest) -> None:
    body, length = stock_request(np.ones((1, 3, 8, 8), np.float32), "input")
    decoded = decode_request(body, length, OCTETS, manifest)
    assert (decoded.cut, decoded.activation().shape) == (Cut("input", "fp32"), (1, 3, 8, 8))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_stock_client_reaches_the_only_split_point(dtype: type, manifest: Manifest) -> None:
    body, length = stock_request(X.astype(dtype))
    decoded = decode_request(body, length, OCTETS, manifest)
    assert (decoded.split_point, decoded.network_hash) == ("conv", None)
    assert decoded.binary_outputs == set(OUTPUTS)  # tritonclient asks for everything in binary
    np.testing.assert_array_equal(decoded.activation(), X.astype(dtype))


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
    decoded = decode_request(raw + codes.tobytes(), len(raw), OCTETS, manifest)
    np.testing.assert_array_equal(decoded.activation(), (codes.astype(np.float32) - 2) / 2)


def test_json_as_curl_sends_it(manifest: Manifest) -> None:
    message = {
        "inputs": [
            {"name": "activation", "datatype": "FP32", "shape": [1, 4, 5, 5], "data": X[0].tolist()}
        ]
    }
    for body in (message, json.dumps(message).encode()):
        decoded = decode_request(body, None, "application/json; charset=utf-8", manifest)
        np.testing.assert_array_equal(decoded.activation(), X[:1])


def test_with_several_split_points_the_missing_names_are_listed(two_deployed: Manifest) -> None:
    both = "lack isplit_split_point and isplit_network; split points: input, conv, mid"
    for parameters, error in [
        ({}, both),
        ({"isplit_split_point": "conv"}, "lack isplit_network;"),
        ({"isplit_network": "abc123"}, "lack isplit_split_point;"),
    ]:
        with pytest.raises(WireError, match=error) as caught:
            decode_request(*stock_request(X, **parameters), OCTETS, two_deployed)
        assert caught.value.status == 400
    parameters = {"isplit_split_point": "mid", "isplit_network": "abc123"}
    decoded = decode_request(
        *stock_request(np.ones((1, 7), np.float32), **parameters), OCTETS, two_deployed
    )
    assert decoded.split_point == "mid"


def test_a_head_of_another_network_is_refused(manifest: Manifest) -> None:
    with pytest.raises(
        NetworkMismatchError, match="belongs to network old99, this tail to abc123"
    ) as caught:
        decode_request(*make_request(network_hash="old99").encode(), OCTETS, manifest)
    assert caught.value.details == {"head": "old99", "tail": "abc123"}


def test_split_points_that_are_not_deployed(manifest: Manifest) -> None:
    for name, error in [
        ("nowhere", "unknown split point 'nowhere'; known: input, conv"),
        ("output", "unknown split point 'output'"),
        ("mid", "'mid' is not deployed; deployed: input, conv"),
    ]:
        with pytest.raises(UnknownSplitPointError, match=error):
            decode_request(*make_request(cut=Cut(name, "fp32")).encode(), OCTETS, manifest)


def test_a_codec_the_tail_does_not_take(manifest: Manifest) -> None:
    narrow = Manifest.from_json({**manifest.to_json(), "codecs": ["uint8"]})
    with pytest.raises(UnknownCodecError, match="unknown codec 'fp32'; known: uint8"):
        decode_request(*make_request().encode(), OCTETS, narrow)


def test_shape_name_and_batch(manifest: Manifest) -> None:
    for request, error in [
        (
            make_request(tensor=encode_activation(X[:, :3], "fp32")),
            "expected shape \\[N, 4, 5, 5\\]",
        ),
        (
            make_request(tensor=encode_activation(X[:, :3], "uint8+zstd")),
            "expected shape \\[N, 4, 5, 5\\]",
        ),
        (make_request(tensor=encode_activation(X, "fp32", "x")), "named 'activation', got 'x'"),
        (make_request(tensor=encode_images([JPEG], "jpeg", "activation")), "unknown codec 'jpeg'"),
        (
            make_request(
                cut=Cut("input", "jpeg"), tensor=encode_images([JPEG], "jpeg", "activation")
            ),
            "named 'input'",
        ),
    ]:
        with pytest.raises((WireError, UnknownCodecError), match=error):
            decode_request(*request.encode(), OCTETS, manifest)
    with pytest.raises(WireSizeError, match="batch of 2, at most 1"):
        decode_request(*make_request().encode(), OCTETS, manifest, max_batch=1)
    two = Tensor.of_bytes("input", [JPEG], {"isplit_codec": "jpeg"}, shape=(1, 1))
    with pytest.raises(WireError, match="BYTES of shape \\[N\\]"):
        decode_request(
            *make_request(cut=Cut("input", "jpeg"), tensor=two).encode(), OCTETS, manifest
        )


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"isplit_top_k": 0}, "from 1 to 100"),
        ({"isplit_top_k": 101}, "from 1 to 100"),
        ({"isplit_top_k": True}, "from 1 to 100"),
        ({"isplit_top_k": "3"}, "from 1 to 100"),
        ({"isplit_head_ms": -0.1}, "milliseconds"),
        ({"isplit_head_ms": 3_600_001}, "milliseconds"),
        ({"isplit_encode_ms": "1"}, "milliseconds"),
        ({"isplit_uplink_ms": "1"}, "milliseconds"),
        ({"isplit_rtt_ms": -1}, "milliseconds"),
        ({"isplit_queue_ms": 1e300}, "milliseconds"),
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
def test_hostile_parameters(parameters: dict[str, Any], error: str, manifest: Manifest) -> None:
    raw = json.loads(make_request().encode(binary=False)[0])
    with pytest.raises(WireError, match=error):
        decode_request(
            {**raw, "parameters": {**raw["parameters"], **parameters}},
            None,
            "application/json",
            manifest,
        )


def test_outputs_are_checked(manifest: Manifest) -> None:
    raw = json.loads(make_request().encode(binary=False)[0])
    for outputs, error in [
        ([{"name": "logits"}], "unknown output 'logits'; known: top_class"),
        ([{"name": "scores", "parameters": {"binary_data": "yes"}}], "true or false"),
    ]:
        with pytest.raises(WireError, match=error):
            decode_request({**raw, "outputs": outputs}, None, None, manifest)
    with pytest.raises(WireError, match="one input tensor, got 2"):
        decode_request(
            {**raw, "inputs": [raw["inputs"][0], {**raw["inputs"][0], "name": "b"}]},
            None,
            None,
            manifest,
        )


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "the body is empty"),
        (b"\x00\x01\x02\x03", "needs the header Inference-Header-Content-Length"),
        (X.tobytes(), "needs the header"),
        (b"{", "not valid JSON"),
        (b'{"inputs": []}\x00\x00\x80\x3f', "without the header Inference-Header-Content-Length"),
        (None, "contiguous body"),
        ([1, 2], "or a JSON object, got list"),
    ],
)
def test_bodies_that_are_none_of_the_three_forms(body: Any, error: str, manifest: Manifest) -> None:
    with pytest.raises(WireError, match=error):
        decode_request(body, None, OCTETS, manifest)


@given(data=st.data())
def test_mutated_requests_raise_what_the_docstring_says(
    manifest: Manifest, data: st.DataObject
) -> None:
    codec = data.draw(st.sampled_from(CODECS))
    body, length = make_request(
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
