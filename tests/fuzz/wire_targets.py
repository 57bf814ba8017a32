"""Targets: what travels between device and tail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from toys.client import make_manifest, recommendation

from isplit_plugin.errors import (
    ArtifactError,
    ImageError,
    NetworkMismatchError,
    UnknownCodecError,
    UnknownSplitPointError,
    WireError,
    from_json,
)
from isplit_plugin.probing.messages import ProbeResponse, decode_probe_response
from isplit_plugin.schema import Cut, Recommendation
from isplit_plugin.wire import (
    CODECS,
    OUTPUTS,
    Buffer,
    EncodeOptions,
    Scalar,
    TailRequest,
    TailResponse,
    Tensor,
    WithZstd,
    codings,
    decode_activation,
    decode_request,
    decode_response,
    encode_activation,
    encode_images,
    find_coding,
    load_json,
)
from isplit_plugin.wire.entropy import compress
from isplit_plugin.wire.parameters import P_CODEC, P_SHAPE, read_parameters
from isplit_plugin.wire.tensor import BYTES, DATATYPES, read_binary

from .target import Target

MANIFEST: Final = make_manifest(codecs=(*CODECS, "q2+rle+zstd"))
SHAPE: Final = (3, 4, 4)
SHAPES: Final = ((1, 3, 4, 4), (2, 5, 3, 3), (1, 64), (3, 16, 1, 1), (1, 8, 32, 32))
"""Shapes of activations, with the batch. A case of the target `activation` names one."""

_WIRE_WORDS: Final = (
    *("inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "id"),
    *("binary_data_size", "binary_data", "binary_data_output", "activation", "input", "scores"),
    *("isplit_codec", "isplit_shape", "isplit_split_point", "isplit_network", "isplit_top_k"),
    *("isplit_head_ms", "isplit_encode_ms", "isplit_group", "isplit_device", "isplit_probe"),
    *(
        "isplit_gradient",
        "scale",
        "zero_point",
        "double",
        "pool",
        "feed",
        "jpeg",
        "jpeg@90",
        "webp@75",
        "file",
    ),
    *("1,3,4,4", "64,3,4,4", *DATATYPES, BYTES, *CODECS),
)


# ------------------------------------------------------------------------ messages

# A case is the JSON, a null byte and the binary tensors; without a null byte it is JSON alone.
# So mutations of the JSON leave its length right, and reach what lies behind.


def split_message(case: bytes) -> tuple[bytes, int | None]:
    """Body and length of the JSON of a case."""
    head, null, tensors = case.partition(b"\0")
    return (head + tensors, len(head)) if null else (head, None)


def join_message(body: bytes, json_length: int | None) -> bytes:
    """The case of a message."""
    if json_length is None:
        return body
    return body[:json_length] + b"\0" + body[json_length:]


def _request(case: bytes) -> None:
    body, length = split_message(case)
    kind = None if length is None else "application/octet-stream"
    request = decode_request(body, length, kind, MANIFEST)
    if request.is_image:
        assert all(len(image) <= len(case) for image in request.images())
    else:
        _check_activation(request.activation(), (request.batch, *request.shape))
    again, again_length = request.encode()
    assert decode_request(again, again_length, kind, MANIFEST).cut == request.cut


def _request_seeds() -> Iterator[bytes]:
    x = np.linspace(-1, 2, 2 * 48, dtype=np.float32).reshape(2, 3, 4, 4)
    for codec in MANIFEST.codecs:
        request = TailRequest(
            cut=Cut("double", codec), tensor=encode_activation(x, codec), network_hash="feed"
        )
        yield join_message(*request.encode())
    full = TailRequest(
        cut=Cut("pool", "fp32"),
        tensor=encode_activation(x.mean(axis=(2, 3)), "fp32"),
        network_hash="feed",
        top_k=3,
        scores=True,
        binary_outputs=frozenset(OUTPUTS),
        head_ms=1.5,
        encode_ms=0.5,
        group="north",
        id="r1",
        device_token="isplit1.e30.e30",
        probe=True,
        gradient="fp32",
    )
    yield join_message(*full.encode())
    yield join_message(*full.encode(binary=False))
    image = TailRequest(cut=Cut("input", "file"), tensor=encode_images([b"\xff\xd8\xff"], "file"))
    yield join_message(*image.encode())
    yield b"\xff\xd8\xff\xe0 a photo"


def _response(case: bytes) -> None:
    response = decode_response(*split_message(case))
    assert len(response.top_label) == len(response.top_class)
    assert np.isfinite(response.top_score).all()


def _response_seeds() -> Iterator[bytes]:
    scores = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    response = TailResponse.from_scores(
        scores,
        MANIFEST.classes,
        k=2,
        with_scores=True,
        split_point="double",
        network_hash="feed",
        request_id="s-1",
        decode_ms=0.25,
        tail_ms=1.5,
        device="ok",
        probe_rate=0.01,
    )
    yield join_message(*response.encode())
    yield join_message(*response.encode(frozenset(OUTPUTS)))
    yield join_message(*replace(response, scores=None).encode(frozenset({"top_class"})))


def _probe_response(case: bytes) -> None:
    response = decode_probe_response(*split_message(case), SHAPE)
    assert response.gradient.shape == (1, *SHAPE)


def _probe_response_seeds() -> Iterator[bytes]:
    gradient = np.linspace(-1e-3, 1e-3, 48, dtype=np.float32).reshape(1, *SHAPE)
    for codec in ("fp16", "fp32"):
        response = ProbeResponse(
            gradient=gradient,
            class_id=2,
            ticket="e30.e30",
            split_point="double",
            network_hash="feed",
            codec=codec,
            device="ok",
        )
        yield join_message(*response.encode())


# ------------------------------------------------------------------------ codecs

# A case is: which codec, which shape, a flag, the parameters as JSON, a null byte, the payload.
# With an even flag the target compresses the payload itself: hardly any mutation of a zstd frame
# is one.

_NAMES: Final = codings()


def _activation(case: bytes) -> None:
    if len(case) < 3:
        return
    codec_name, shape = _NAMES[case[0] % len(_NAMES)], SHAPES[case[1] % len(SHAPES)]
    raw_parameters, _, payload = case[3:].partition(b"\0")
    parameters = read_parameters(load_json(raw_parameters), "case")
    codec, _ = find_coding(codec_name)
    if isinstance(codec, WithZstd) and case[2] % 2 == 0:
        payload = compress(payload)
    tensor = _tensor(codec_name, shape, parameters, payload)
    _check_activation(decode_activation(tensor, shape=shape[1:]), shape)


def _tensor(
    codec: str, shape: tuple[int, ...], parameters: dict[str, Scalar], payload: Buffer
) -> Tensor:
    datatype = {"fp32": "FP32", "fp16": "FP16", "uint8": "UINT8"}.get(codec)
    if datatype is None:
        stated = {P_CODEC: codec, P_SHAPE: ",".join(map(str, shape))}
        return Tensor.of_bytes("activation", [payload], {**parameters, **stated})
    tensor = read_binary("activation", datatype, shape, memoryview(payload))
    return Tensor("activation", datatype, shape, tensor.data, parameters)


def _activation_seeds() -> Iterator[bytes]:
    for number, name in enumerate(_NAMES):
        shape = SHAPES[number % len(SHAPES)]
        values = np.random.default_rng(number).normal(size=shape).astype(np.float32)
        codec, quality = find_coding(name)
        options = EncodeOptions(channel_axis=1, quality=quality)
        inner = codec.codec if isinstance(codec, WithZstd) else codec
        for flag, coder in ((0, inner), (1, codec)):
            payload = coder.encode(np.maximum(values, 0), options)
            head = bytes((number, number % len(SHAPES), flag))
            yield head + json.dumps(dict(payload.parameters)).encode() + b"\0" + bytes(payload.data)


def _check_activation(activation: np.ndarray, shape: tuple[int, ...]) -> None:
    assert activation.dtype == np.float32
    assert activation.shape == shape
    assert np.isfinite(activation).all()


# ------------------------------------------------------------------------ JSON for the client


def _recommendation(case: bytes) -> None:
    raw = load_json(case)
    if isinstance(raw, dict):
        Recommendation.from_json(raw)


def _error_answer(case: bytes) -> None:
    raw = load_json(case)
    if isinstance(raw, dict):
        str(from_json(raw, status=500))


def _error_seeds() -> Iterator[bytes]:
    error = NetworkMismatchError("made for another network", head="feed", tail="beef")
    yield json.dumps(error.to_json()).encode()
    yield b'{"code": 404, "type": "ModelNotFoundException", "message": "Model not found: toy"}'


WIRE_TARGETS: Final = (
    Target(
        "request",
        "a request to a tail, and its activation",
        _request,
        _request_seeds,
        (WireError, ImageError, UnknownSplitPointError, UnknownCodecError, NetworkMismatchError),
        words=_WIRE_WORDS,
    ),
    Target(
        "response", "a tail's answer", _response, _response_seeds, (WireError,), words=_WIRE_WORDS
    ),
    Target(
        "activation",
        "the payload of every codec",
        _activation,
        _activation_seeds,
        (WireError,),
        json_at=3,
        words=("scale", "zero_point"),
    ),
    Target(
        "probe-response",
        "the tail's answer to a probe",
        _probe_response,
        _probe_response_seeds,
        (WireError,),
        words=("isplit_ticket", "isplit_class", "isplit_gradient_scale", *_WIRE_WORDS),
    ),
    Target(
        "recommendation",
        "the endpoint's answer, at the device",
        _recommendation,
        lambda: [json.dumps(recommendation().to_json()).encode()],
        (WireError, ArtifactError),
    ),
    Target(
        "error-answer",
        "an error's answer, at the device",
        _error_answer,
        _error_seeds,
        (WireError,),
    ),
)
