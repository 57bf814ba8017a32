"""Requests and responses of the Open Inference Protocol v2 with the binary tensor extension.

A body is JSON, followed by the binary tensors in order: little-endian, row-major, without padding
between them. The HTTP header ``Inference-Header-Content-Length`` states the length of the JSON.
Without it the whole body is JSON. Specification: kserve/open-inference-protocol (v2, REST) and
Triton's binary data extension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import WireError, WireSizeError
from .parameters import Scalar, read_parameters, read_text
from .reader import Buffer, Reader
from .tensor import BYTES, DATATYPES, Tensor, read_binary, read_json, read_shape

HEADER: Final = "Inference-Header-Content-Length"
"""The HTTP header with the length of the JSON in front of binary tensors."""
BINARY_TYPE: Final = "application/octet-stream"
JSON_TYPE: Final = "application/json"

MAX_HEADER_BYTES: Final = 64 * 1024
"""The longest JSON in front of binary tensors."""
MAX_JSON_BYTES: Final = 16 * 1024 * 1024
"""The longest body that is all JSON. Parsed, JSON numbers take up to 16 times their bytes."""
MAX_TENSORS: Final = 16


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the client asks for, with its parameters (``binary_data``)."""

    name: str
    parameters: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A request.

    Attributes:
        inputs: The input tensors in wire order.
        outputs: The outputs asked for; empty means the server's usual ones.
        id: The client's id.
        parameters: Scalars by name.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str = ""
    parameters: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class InferResponse:
    """A response.

    Attributes:
        outputs: The output tensors in wire order.
        model_name: The model that answers.
        model_version: Its version.
        id: The client's id, as the request has it.
        parameters: Scalars by name.
    """

    outputs: tuple[Tensor, ...]
    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: Mapping[str, Scalar] = field(default_factory=dict)


def encode_infer_request(request: InferRequest, *, binary: bool = True) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON; ``None``: all of it is JSON.

    Raises WireError for what the form cannot carry.
    """
    raw: dict[str, Any] = {"id": request.id} if request.id else {}
    if request.parameters:
        raw["parameters"] = dict(request.parameters)
    if request.outputs:
        raw["outputs"] = [
            _with_parameters({"name": output.name}, output.parameters) for output in request.outputs
        ]
    return _encode(raw, "inputs", request.inputs, [binary] * len(request.inputs))


def encode_infer_response(
    response: InferResponse, *, binary: Sequence[bool] | bool = True
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON; ``None``: all of it is JSON.

    Parameters:
        binary: Whether the outputs are binary, for all of them or one flag for each.

    Raises WireError for what the form cannot carry.
    """
    raw: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id:
        raw["id"] = response.id
    if response.parameters:
        raw["parameters"] = dict(response.parameters)
    flags = [binary] * len(response.outputs) if isinstance(binary, bool) else list(binary)
    return _encode(raw, "outputs", response.outputs, flags)


def decode_infer_request(
    body: Buffer | Mapping[str, Any], json_length: int | None = None
) -> InferRequest:
    """Read a request.

    Parameters:
        body: Any buffer, or the object that a server has already parsed from a JSON body.
        json_length: The length of the JSON; ``None``: all of the body is JSON.

    Raises WireError, WireSizeError above a limit, and nothing else.
    """
    raw, rest = _open(body, json_length)
    return InferRequest(
        inputs=_read_tensors(raw.get("inputs"), "inputs", rest),
        outputs=_read_requested_outputs(raw.get("outputs", [])),
        id=read_text(raw.get("id", ""), "id"),
        parameters=read_parameters(raw.get("parameters"), "request"),
    )


def decode_infer_response(body: Buffer, json_length: int | None = None) -> InferResponse:
    """Read a response. Raises WireError, and nothing else."""
    raw, rest = _open(body, json_length)
    return InferResponse(
        outputs=_read_tensors(raw.get("outputs"), "outputs", rest),
        model_name=read_text(raw.get("model_name", ""), "model_name"),
        model_version=read_text(raw.get("model_version", ""), "model_version"),
        id=read_text(raw.get("id", ""), "id"),
        parameters=read_parameters(raw.get("parameters"), "response"),
    )


def http_headers(json_length: int | None) -> dict[str, str]:
    """The HTTP headers of an encoded body."""
    if json_length is None:
        return {"Content-Type": JSON_TYPE}
    return {"Content-Type": BINARY_TYPE, HEADER: str(json_length)}


def find_header(headers: Mapping[str, str], name: str) -> str | None:
    """The value of a header in any spelling of its name: a proxy may change the case."""
    lower_name = name.lower()
    for key, value in headers.items():
        if isinstance(key, str) and key.lower() == lower_name:
            return value
    return None


def header_length(headers: Mapping[str, str]) -> int | None:
    """The length of the JSON from the HTTP headers; ``None`` without the header.

    Raises WireError.
    """
    value = find_header(headers, HEADER)
    if value is None:
        return None
    digits = str(value).strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise WireError(f"{HEADER}: expected a number of bytes, got {str(value)[:40]!a}")
    return int(digits)


def load_json(body: Buffer, subject: str = "JSON", *, max_values: int | None = None) -> Any:
    """Parse strict JSON: UTF-8, no NaN or Infinity, no duplicate keys.

    Parameters:
        max_values: the most values, estimated before parsing by the signs between them. A parsed
            value takes 50 to 150 bytes, however short it was.

    Raises WireError; WireSizeError for too many values.
    """
    text = bytes(body)
    if (
        max_values is not None
        and text.count(b",") + text.count(b"[") + text.count(b"{") > max_values
    ):
        raise WireSizeError(f"{subject}: more than {max_values} values", limit=max_values)
    try:
        return json.loads(
            text.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    # Not UTF-8, not JSON, an integer of thousands of digits; or too deep.
    except (ValueError, RecursionError) as error:
        raise WireError(f"{subject}: not valid JSON ({type(error).__name__})") from error


def as_view(body: object) -> memoryview:
    """A body as bytes, without a copy. Raises WireError for what is not a contiguous buffer."""
    try:
        return memoryview(body).cast("B")  # type: ignore[arg-type]
    except TypeError:
        raise WireError(
            "message: expected a contiguous body of bytes or a JSON object, "
            f"got {type(body).__name__}"
        ) from None


def _with_parameters(entry: dict[str, Any], parameters: Mapping[str, Scalar]) -> dict[str, Any]:
    return {**entry, "parameters": dict(parameters)} if parameters else entry


def _encode(
    raw: dict[str, Any], key: str, tensors: Sequence[Tensor], binary: Sequence[bool]
) -> tuple[bytes, int | None]:
    """Body and length of JSON, with the tensors under ``key``; one flag of ``binary`` for each."""
    chunks: list[Buffer] = []
    raw[key] = entries = []
    for tensor, is_binary in zip(tensors, binary, strict=True):
        parameters = dict(tensor.parameters)
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if is_binary:
            parameters["binary_data_size"] = tensor.nbytes
            chunks += tensor.chunks()
        else:
            entry["data"] = tensor.json_data()
        entries.append(_with_parameters(entry, parameters))
    try:
        head = json.dumps(raw, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise WireError(f"a parameter that JSON cannot carry ({error})") from error
    if not any(binary):
        return head, None
    head += b" " * (-len(head) % _alignment(tensors, binary))
    if len(head) > MAX_HEADER_BYTES:
        raise WireSizeError(f"the JSON takes {len(head)} bytes, at most {MAX_HEADER_BYTES}")
    return b"".join([head, *chunks]), len(head)


def _alignment(tensors: Sequence[Tensor], binary: Sequence[bool]) -> int:
    """The size of an item of the first binary tensor.

    Spaces after the JSON put the tensor on this boundary. A view into the body is then aligned and
    needs no copy. Byte strings need no boundary.
    """
    for tensor, is_binary in zip(tensors, binary, strict=True):
        if is_binary:
            return 1 if tensor.datatype == BYTES else DATATYPES[tensor.datatype].itemsize
    return 1


def _open(
    body: Buffer | Mapping[str, Any], json_length: int | None
) -> tuple[Mapping[str, Any], memoryview]:
    """The parsed JSON, and the bytes after it."""
    if isinstance(body, Mapping):
        if json_length is not None:
            raise WireError(f"{HEADER} belongs to {BINARY_TYPE}, this body came as {JSON_TYPE}")
        return body, memoryview(b"")
    view = as_view(body)
    limit = MAX_JSON_BYTES if json_length is None else MAX_HEADER_BYTES
    size = len(view) if json_length is None else json_length
    if not 0 <= size <= len(view):
        raise WireError(f"{HEADER} is {size}, the body has {len(view)} bytes")
    if size > limit:
        raise WireSizeError(f"{size} bytes of JSON, at most {limit}", limit=limit)
    raw = load_json(view[:size], "message")
    if not isinstance(raw, dict):
        raise WireError(f"message: expected a JSON object, got {type(raw).__name__}")
    return raw, view[size:]


def _read_requested_outputs(raw: object) -> tuple[RequestedOutput, ...]:
    if not isinstance(raw, list) or len(raw) > MAX_TENSORS:
        raise WireError(f"outputs: expected a list of at most {MAX_TENSORS}")
    outputs: dict[str, RequestedOutput] = {}
    for entry in raw:
        if not isinstance(entry, Mapping):
            raise WireError("outputs: expected objects with a name")
        name = read_text(entry.get("name"), "output name")
        if name in outputs:
            raise WireError(f"outputs: {name!r} comes twice")
        parameters = read_parameters(entry.get("parameters"), f"output {name!r}")
        outputs[name] = RequestedOutput(name, parameters)
    return tuple(outputs.values())


def _read_tensors(raw: object, subject: str, rest: memoryview) -> tuple[Tensor, ...]:
    """The tensors of a list of JSON entries; ``rest`` holds the binary ones, and nothing else."""
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_TENSORS:
        raise WireError(f"{subject}: expected a list of 1 to {MAX_TENSORS} tensors")
    reader = Reader(rest, f"{subject}: binary tensors")
    tensors: dict[str, Tensor] = {}
    for entry in raw:
        if not isinstance(entry, Mapping):
            raise WireError(f"{subject}: expected objects, got {type(entry).__name__}")
        name = read_text(entry.get("name"), f"{subject}: tensor name")
        if name in tensors:
            raise WireError(f"{subject}: tensor {name!r} comes twice")
        tensors[name] = _read_tensor(name, entry, reader)
    reader.finish()
    return tuple(tensors.values())


def _read_tensor(name: str, entry: Mapping[str, Any], reader: Reader) -> Tensor:
    datatype = entry.get("datatype")
    if not isinstance(datatype, str) or (datatype != BYTES and datatype not in DATATYPES):
        shown = datatype[:20] if isinstance(datatype, str) else type(datatype).__name__
        raise WireError(
            f"tensor {name!r}: unknown datatype {shown!a}; known: {', '.join(DATATYPES)}, {BYTES}"
        )
    shape = read_shape(entry.get("shape"), f"tensor {name!r}")
    parameters = read_parameters(entry.get("parameters"), f"tensor {name!r}")
    size = parameters.pop("binary_data_size", None)
    if (size is None) == ("data" not in entry):
        raise WireError(f"tensor {name!r}: needs either binary_data_size or data")
    if size is None:
        tensor = read_json(name, datatype, shape, entry["data"])
    elif type(size) is not int or not 0 <= size <= reader.remaining:
        raise WireError(
            f"tensor {name!r}: binary_data_size {size!a}, {reader.remaining} bytes are left"
        )
    else:
        tensor = read_binary(name, datatype, shape, reader.take(size))
    return Tensor(name, datatype, shape, tensor.data, parameters)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise WireError("a JSON object with the same key twice")
    return unique


def _refuse_constant(literal: str) -> Any:
    raise WireError(f"{literal} is not JSON")
