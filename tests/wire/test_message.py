"""OIP v2 messages: compared with tritonclient and golden bytes, and read from a hostile network."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import WireError, WireSizeError
from isplit_plugin.wire import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    header_length,
    message,
)
from isplit_plugin.wire.tensor import DATATYPES


def frame(*inputs: dict[str, Any], tail: bytes = b"", **top: Any) -> tuple[bytes, int]:
    head = json.dumps({"inputs": list(inputs), **top}).encode()
    return head + tail, len(head)


GOOD = {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_request_of_tritonclient_is_read(datatype: str) -> None:
    array = np.arange(6).reshape(1, 2, 3).astype(DATATYPES[datatype])
    infer_input = triton.InferInput("x", [1, 2, 3], datatype).set_data_from_numpy(array)
    outputs = [triton.InferRequestedOutput("scores", binary_data=True)]
    body, length = triton.InferenceServerClient.generate_request_body(
        [infer_input], outputs=outputs, request_id="r7", parameters={"isplit_top_k": 3}
    )
    request = message.decode_infer_request(bytearray(body), length)
    assert (request.id, request.parameters["isplit_top_k"]) == ("r7", 3)
    assert [(o.name, o.parameters["binary_data"]) for o in request.outputs] == [("scores", True)]
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, (1, 2, 3))
    np.testing.assert_array_equal(tensor.array, array)


@pytest.mark.parametrize("datatype", ["FP32", "UINT8", "INT64"])
def test_a_json_request_of_tritonclient_is_read(datatype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(DATATYPES[datatype])
    infer_input = triton.InferInput("x", [2, 3], datatype).set_data_from_numpy(
        array, binary_data=False
    )
    body, length = triton.InferenceServerClient.generate_request_body([infer_input])
    assert length is None
    np.testing.assert_array_equal(message.decode_infer_request(body).inputs[0].array, array)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_reads_a_response(binary: bool) -> None:
    numbers = np.array([[1.5, -2.25, 1 / 3]], np.float32)
    labels = ["ant", "b\u00e9e", ""]
    response = InferResponse(
        (
            Tensor.of("scores", numbers),
            Tensor.of("ids", np.array([[5, 2**40, 0]])),
            Tensor.of_bytes("labels", [name.encode() for name in labels], shape=(1, 3)),
        ),
        model_name="toy",
        id="r7",
    )
    body, length = message.encode_infer_response(response, binary=binary)
    assert (length is not None) == binary
    result = triton.InferenceServerClient.parse_response_body(body, header_length=length)
    np.testing.assert_array_equal(result.as_numpy("scores"), numbers)
    np.testing.assert_array_equal(result.as_numpy("ids"), [[5, 2**40, 0]])
    decoded = result.as_numpy("labels").ravel().tolist()
    assert [v.decode() if isinstance(v, bytes) else v for v in decoded] == labels
    assert result.get_response()["id"] == "r7"


def test_mixed_binary_and_json_outputs() -> None:
    response = InferResponse(
        (Tensor.of("a", np.ones((1, 2), np.float32)), Tensor.of("b", np.zeros((1, 1), np.int64)))
    )
    body, length = message.encode_infer_response(response, binary=[False, True])
    result = triton.InferenceServerClient.parse_response_body(body, header_length=length)
    assert (result.as_numpy("a").tolist(), result.as_numpy("b").tolist()) == ([[1.0, 1.0]], [[0]])
    again = message.decode_infer_response(body, length)
    assert [t.array.tolist() for t in again.outputs] == [[[1.0, 1.0]], [[0]]]


GOLDEN_REQUEST = (
    b'{"id":"7","parameters":{"isplit_top_k":3},'
    b'"outputs":[{"name":"scores","parameters":{"binary_data":true}}],'
    b'"inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},'
    b'{"name":"b","datatype":"BYTES","shape":[1],"parameters":{"k":"v","binary_data_size":6}}]}'
    + b" "
    * 2,
    b"\x00\x00\x80\x3f\x00\x00\x00\xc0" + b"\x02\x00\x00\x00hi",
)
GOLDEN_RESPONSE = (
    b'{"model_name":"toy","model_version":"1.0","id":"7","parameters":{"isplit_tail_ms":1.5},'
    b'"outputs":[{"name":"top_class","datatype":"INT64","shape":[1,1],'
    b'"parameters":{"binary_data_size":8}}]}'
    b"   ",
    b"\x02\x01\x00\x00\x00\x00\x00\x00",
)


def test_golden_request() -> None:
    request = InferRequest(
        (
            Tensor.of("a", np.array([[1, -2]], np.float32)),
            Tensor.of_bytes("b", [b"hi"], {"k": "v"}),
        ),
        (RequestedOutput("scores", {"binary_data": True}),),
        "7",
        {"isplit_top_k": 3},
    )
    assert message.encode_infer_request(request) == (
        b"".join(GOLDEN_REQUEST),
        len(GOLDEN_REQUEST[0]),
    )
    decoded = message.decode_infer_request(b"".join(GOLDEN_REQUEST), len(GOLDEN_REQUEST[0]))
    assert (decoded.id, decoded.parameters, decoded.outputs) == (
        request.id,
        request.parameters,
        request.outputs,
    )
    assert decoded.inputs[0].array.tolist() == [[1, -2]]
    assert (bytes(decoded.inputs[1].items[0]), decoded.inputs[1].parameters) == (b"hi", {"k": "v"})


def test_golden_response() -> None:
    response = InferResponse(
        (Tensor.of("top_class", np.array([[258]])),), "toy", "1.0", "7", {"isplit_tail_ms": 1.5}
    )
    assert message.encode_infer_response(response) == (
        b"".join(GOLDEN_RESPONSE),
        len(GOLDEN_RESPONSE[0]),
    )
    decoded = message.decode_infer_response(b"".join(GOLDEN_RESPONSE), len(GOLDEN_RESPONSE[0]))
    assert decoded.outputs[0].array.tolist() == [[258]]
    assert (decoded.model_name, decoded.model_version, decoded.id) == ("toy", "1.0", "7")
    assert decoded.parameters == {"isplit_tail_ms": 1.5}


def test_a_decoded_tensor_is_an_aligned_view_of_the_body() -> None:
    for name in ("a", "ab", "abc"):
        body, length = message.encode_infer_request(
            InferRequest((Tensor.of(name, np.ones((1, 8))),))
        )
        buffer = bytearray(body)
        array = message.decode_infer_request(memoryview(buffer), length).inputs[0].array
        assert array.flags.aligned
        buffer[-8:] = np.float64(5).tobytes()
        assert array[0, -1] == 5


def test_headers_in_any_spelling() -> None:
    for name in ("Inference-Header-Content-Length", "inference-header-content-length"):
        assert header_length({"Other": "1", name: " 42 "}) == 42
    assert header_length({}) is None
    for wrong in ("", "-1", "1.0", "0x10", "\u0661", "9" * 11, "1 2"):
        with pytest.raises(WireError, match="expected a number"):
            header_length({"Inference-Header-Content-Length": wrong})


DEEP = 100_000
ONE_FLOAT = b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"data":'
VALID_JSON = ONE_FLOAT + b"[1]}]"
HOSTILE_JSON = [
    b"",
    b"null",
    b"[]",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b"[" * DEEP + b"]" * DEEP,
    b'{"inputs":' + b'[{"a":' * DEEP + b"1" + b"}]" * DEEP + b"}",
    ONE_FLOAT + b"[" * 20 + b"1" + b"]" * 20 + b"}]}",
    ONE_FLOAT + b"[NaN]}]}",
    ONE_FLOAT + b"[-Infinity]}]}",
    ONE_FLOAT + b"[1e999]}]}",
    ONE_FLOAT + b"[1e39]}]}",
    ONE_FLOAT + b"[" + b"9" * 400 + b"]}]}",
    ONE_FLOAT + b"[" + b"9" * 5000 + b"]}]}",
    b'{"inputs":[{"name":"a","datatype":"UINT8","shape":[1],"data":[256]}]}',
    b'{"inputs":[{"name":"a","datatype":"UINT8","shape":[1],"data":[1.0]}]}',
    b'{"inputs":[{"name":"a","datatype":"INT8","shape":[1],"data":[true]}]}',
    b'{"inputs":[{"name":"a","datatype":"FP16","shape":[1],"data":[1.0]}]}',
    b'{"inputs":[{"name":"a","datatype":"BYTES","shape":[1],"data":["\\ud800"]}]}',
    b'{"inputs":[{"name":"a","datatype":"BYTES","shape":[1],"data":[1]}]}',
    b'{"inputs":[{"name":"a","datatype":"FP32","shape":[2,2],"data":[[1,2],[3]]}]}',
    b'{"inputs":[{"name":"a","datatype":"FP32","shape":[2],"data":[[1],2]}]}',
    ONE_FLOAT + b"[[],[]]}]}",
    ONE_FLOAT + b'"1"}]}',
    ONE_FLOAT + b"[null]}]}",
    b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1]}]}',
    b'{"inputs":[{"name":"a","datatype":"BF16","shape":[1],"data":[1]}]}',
    b'{"inputs":[{"name":"a","datatype":[[[1]]],"shape":[1],"data":[1]}]}',
    b'{"inputs":[{"name":"a","datatype":"FP32","shape":[],"data":[1]}]}',
    b'{"inputs":[{"name":"a","datatype":"FP32","shape":[true],"data":[1]}]}',
    b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1.0],"data":[1]}]}',
    b'{"inputs":[{"name":"a","datatype":"FP32","shape":[' + b"9" * 4000 + b'],"data":[1]}]}',
    b'{"inputs":[{"name":"\\ud800","datatype":"FP32","shape":[1],"data":[1]}]}',
    b'{"inputs":[{"name":"a\\r\\n","datatype":"FP32","shape":[1],"data":[1]}]}',
    b'{"inputs":[{"name":"a","name":"a","datatype":"FP32","shape":[1],"data":[1]}]}',
    VALID_JSON + b',"id":5}',
    VALID_JSON + b',"id":"' + b"x" * 129 + b'"}',
    VALID_JSON + b',"parameters":[]}',
    VALID_JSON + b',"parameters":{"x":null}}',
    VALID_JSON + b',"parameters":{"x":[1]}}',
    VALID_JSON + b',"parameters":{"x":1e999}}',
    VALID_JSON + b',"parameters":{"x":' + b"9" * 30 + b"}}",
    VALID_JSON + b',"parameters":{"x":"\\udfff"}}',
    VALID_JSON + b',"outputs":{}}',
    VALID_JSON + b',"outputs":[1]}',
    VALID_JSON + b',"outputs":[{"name":"s"},{"name":"s"}]}',
    VALID_JSON + b',"outputs":[{}]}',
    b'{"inputs":[]}',
    b'{"inputs":[1]}',
    b'{"inputs":{}}',
    b"{}",
]


def test_the_json_that_the_hostile_ones_change_is_read() -> None:
    assert message.decode_infer_request(VALID_JSON + b"}").inputs[0].array.tolist() == [1]


@pytest.mark.parametrize("body", HOSTILE_JSON, ids=lambda b: repr(b[-40:]))
def test_hostile_json_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        message.decode_infer_request(body)
    with pytest.raises(WireError):
        message.decode_infer_response(body.replace(b"inputs", b"outputs", 1))


def test_an_object_the_server_parsed_is_checked_like_a_body() -> None:
    good = {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2.5]]}
    assert message.decode_infer_request({"inputs": [good]}).inputs[0].array.tolist() == [[1, 2.5]]
    deep: Any = []
    for _ in range(DEEP):
        deep = [deep]
    broken: list[dict[str, Any]] = [
        {"data": [float("nan"), 1]},
        {"data": deep},
        {"datatype": deep},
        {"name": deep},
        {"shape": deep},
        {"parameters": {"x": deep}},
        {"parameters": {5: 1}},
    ]
    for change in broken:
        with pytest.raises(WireError):
            message.decode_infer_request({"inputs": [{**good, **change}]})
    with pytest.raises(WireError, match="belongs to"):
        message.decode_infer_request({"inputs": [good]}, 10)


HOSTILE_BINARY: list[tuple[bytes, int, str]] = [
    (*frame(GOOD, tail=bytes(8))[:1], -1, "body has"),
    (*frame(GOOD, tail=bytes(8))[:1], 10**6, "body has"),
    (*frame(GOOD, tail=bytes(7)), "7 bytes are left"),
    (*frame(GOOD, tail=bytes(9)), "binary tensors: 1 bytes after the end"),
    (*frame(GOOD, GOOD, tail=bytes(16)), "comes twice"),
    (*frame({**GOOD, "shape": [1, 3]}, tail=bytes(8)), "takes 12 bytes, 8 announced"),
    (*frame({**GOOD, "shape": [-1, -2]}, tail=bytes(8)), "positive"),
    (*frame({**GOOD, "shape": [0, 2]}, tail=bytes(8)), "positive"),
    (*frame({**GOOD, "shape": [2**32, 2**32]}, tail=bytes(8)), "more than"),
    (*frame({**GOOD, "shape": [2**63, 2]}, tail=bytes(8)), "positive integers"),
    (*frame({**GOOD, "shape": [1] * 9}, tail=bytes(8)), "1 to 8 dimensions"),
    (*frame({**GOOD, "data": [1, 2]}, tail=bytes(8)), "either binary_data_size or data"),
    (
        *frame({**GOOD, "parameters": {"binary_data_size": "8"}}, tail=bytes(8)),
        "binary_data_size '8'",
    ),
    (
        *frame({**GOOD, "parameters": {"binary_data_size": True}}, tail=bytes(1)),
        "binary_data_size True",
    ),
    (
        *frame({**GOOD, "parameters": {"binary_data_size": -8}}, tail=bytes(8)),
        "binary_data_size -8",
    ),
    (
        *frame({**GOOD, "parameters": {"binary_data_size": 8.0}}, tail=bytes(8)),
        "binary_data_size 8.0",
    ),
    (*frame({**GOOD, "datatype": "BYTES", "shape": [2**39]}, tail=bytes(8)), "do not fit"),
    (
        *frame({**GOOD, "datatype": "BYTES", "shape": [1]}, tail=b"\x05\0\0\0abcd"),
        "a BYTES element of 5 bytes, 4 left",
    ),
    (
        *frame({**GOOD, "datatype": "BYTES", "shape": [1]}, tail=b"\x03\0\0\0abcd"),
        "1 bytes after the last BYTES",
    ),
    (
        *frame({**GOOD, "datatype": "BYTES", "shape": [2]}, tail=b"\x02\0\0\0ab\0\0"),
        "ends within a length",
    ),
    (*frame({**GOOD, "parameters": {f"p{i}": i for i in range(65)}}), "at most 64"),
    (
        *frame(*({**GOOD, "name": f"t{i}"} for i in range(17)), tail=bytes(8 * 17)),
        "1 to 16 tensors",
    ),
]


@pytest.mark.parametrize(
    ("body", "length", "error"), HOSTILE_BINARY, ids=lambda v: v if isinstance(v, str) else None
)
def test_hostile_binary_is_refused(body: bytes, length: int, error: str) -> None:
    with pytest.raises(WireError, match=error):
        message.decode_infer_request(body, length)


def test_long_json_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(WireSizeError, match="65537 bytes of JSON, at most 65536"):
        message.decode_infer_request(bytes(70_000), 65_537)
    with pytest.raises(WireSizeError):
        message.decode_infer_request(bytes(message.MAX_JSON_BYTES + 1))
    many = InferRequest(
        (Tensor.of("a", np.ones((1, 1), np.float32), {f"p{i}": "x" * 2000 for i in range(40)}),)
    )
    with pytest.raises(WireSizeError, match="at most 65536"):
        message.encode_infer_request(many)


def test_announced_sizes_allocate_nothing() -> None:
    huge = {**GOOD, "shape": [2**20, 2**19]}
    bodies = [frame(huge, tail=bytes(8)), frame({**huge, "datatype": "BYTES"}, tail=bytes(8))]
    bodies.append(frame({**huge, "parameters": {"binary_data_size": 2**41}}, tail=bytes(8)))
    json_body = json.dumps(
        {"inputs": [{"name": "a", "datatype": "FP32", "shape": [2**39], "data": [1]}]}
    ).encode()
    tracemalloc.start()
    try:
        for body, length in [*bodies, (json_body, None)]:
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            with pytest.raises(WireError):
                message.decode_infer_request(body, length)
            assert tracemalloc.get_traced_memory()[1] - start < 2**18
    finally:
        tracemalloc.stop()


def test_a_body_that_is_no_buffer_is_refused() -> None:
    for wrong in (None, "text", 5, np.zeros((4, 4)).data[::2], [1]):
        with pytest.raises(WireError, match="contiguous body"):
            message.decode_infer_request(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("a", "FP32", (1, 2), np.zeros((1, 2), np.float16)),
        Tensor("a", "FP32", (1, 3), np.zeros((1, 2), np.float32)),
        Tensor("a", "BYTES", (2,), (b"x",)),
        Tensor("a", "FP32", (1,), (b"abcd",)),
        Tensor("a", "FP32", (1,), np.zeros(1, np.float32), {"x": float("nan")}),
    ],
)
def test_data_that_do_not_fit_are_not_written(tensor: Tensor) -> None:
    with pytest.raises(WireError):
        message.encode_infer_request(InferRequest((tensor,)))


def test_what_json_cannot_carry_is_not_written() -> None:
    for tensor in (Tensor.of("a", np.array([np.inf])), Tensor.of_bytes("a", [b"\xff"])):
        with pytest.raises(WireError):
            message.encode_infer_request(InferRequest((tensor,)), binary=False)
    with pytest.raises(WireError, match="no datatype"):
        Tensor.of("a", np.array([1j]))


def only_wire_errors(body: Any, length: int | None) -> None:
    for decode in (message.decode_infer_request, message.decode_infer_response):
        try:
            decode(body, length)
        except WireError as error:
            error.message.encode()  # fit to be logged and sent
            json.dumps(error.to_json(), allow_nan=False)


VALID = frame(
    GOOD,
    {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
    tail=bytes(8) + b"\x01\0\0\0x\x01\0\0\0y",
    id="7",
    outputs=[{"name": "s"}],
    parameters={"k": 1.5},
)


@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(-5, 320)))
def test_random_bytes(body: bytes, length: int | None) -> None:
    only_wire_errors(body, length)


@given(st.data())
def test_mutated_messages(data: st.DataObject) -> None:
    body, length = bytearray(VALID[0]), VALID[1]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert", "delete"])):
            case "set":
                body[at] = data.draw(st.integers(0, 255))
            case "cut" if at:
                del body[at:]
            case "insert":
                body[at:at] = data.draw(
                    st.sampled_from(
                        [b"0", b'"', b"[", b"-", b"9" * 30, b"\\ud800", b"NaN", b"\xff"]
                    )
                )
            case _:
                del body[at : at + 1]
        if not body:
            return
    only_wire_errors(bytes(body), data.draw(st.sampled_from([length, None, length - 1, len(body)])))


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["FP32", "BYTES", "a"]),
)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3)
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("a") | VALUES,
        "datatype": st.sampled_from([*DATATYPES, "BYTES"]) | VALUES,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | VALUES,
        "data": st.lists(st.integers(-1, 300) | st.floats() | st.text(max_size=2), max_size=4)
        | VALUES,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-1, 9) | VALUES}
        )
        | VALUES,
    },
)
MESSAGES = st.fixed_dictionaries(
    {"inputs": st.lists(ENTRIES | VALUES, max_size=3) | VALUES},
    optional={
        "outputs": st.lists(ENTRIES | VALUES, max_size=3) | VALUES,
        "id": VALUES,
        "parameters": VALUES,
    },
)


@given(MESSAGES, st.binary(max_size=12), st.booleans())
def test_messages_of_arbitrary_json(raw: dict[str, Any], tail: bytes, parsed: bool) -> None:
    if parsed:
        only_wire_errors(raw, None)
    else:
        head = json.dumps(raw).encode()
        only_wire_errors(head + tail, len(head))
