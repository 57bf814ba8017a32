"""Open Inference Protocol v2 requests and responses with the binary tensor extension.

Body = JSON, then the binary tensors in order, little-endian, row-major, without padding between them. The HTTP header
``Inference-Header-Content-Length`` gives the length of the JSON; without it the whole body is JSON.
Specification: kserve/open-inference-protocol (v2, REST) and Triton's binary data extension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import WireError, WireSizeError
from .tensor import (
    BYTES,
    DATATYPES,
    Buffer,
    Scalar,
    Tensor,
    read_binary,
    read_json,
    read_parameters,
    read_shape,
    text,
)

HEADER: Final = "Inference-Header-Content-Length"
"""The HTTP header that holds the length of the JSON in a binary body."""
BINARY_TYPE: Final = "application/octet-stream"
JSON_TYPE: Final = "application/json"

MAX_HEADER_BYTES: Final = 64 * 1024
"""Longest JSON in front of binary tensors."""
MAX_JSON_BYTES: Final = 16 * 1024 * 1024
"""Longest body that is all JSON. Parsed, JSON numbers take up to 16 times their bytes."""
MAX_TENSORS: Final = 16

# Spaces behind the JSON put the first tensor on this boundary: a view into the body is then aligned, and needs no copy.
_ALIGN: Final = 16


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output the client asks for, and its parameters (``binary_data``)."""

    name: str
    parameters: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """``inputs`` in wire order; ``outputs`` empty = the server's usual ones."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str = ""
    parameters: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class InferResponse:
    """``outputs`` in wire order."""

    outputs: tuple[Tensor, ...]
    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: Mapping[str, Scalar] = field(default_factory=dict)


def encode_request(request: InferRequest, *, binary: bool = True) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON (``None``: all of it is JSON). Raises WireError for what does not fit."""
    raw: dict[str, Any] = {"id": request.id} if request.id else {}
    if request.parameters:
        raw["parameters"] = dict(request.parameters)
    if request.outputs:
        raw["outputs"] = [
            {
                "name": output.name,
                **({"parameters": dict(output.parameters)} if output.parameters else {}),
            }
            for output in request.outputs
        ]
    return _encode(raw, "inputs", request.inputs, [binary] * len(request.inputs))


def encode_response(
    response: InferResponse, *, binary: Sequence[bool] | bool = True
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON. ``binary``: for all outputs, or one flag for each."""
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


def decode_request(
    body: Buffer | Mapping[str, Any], json_length: int | None = None
) -> InferRequest:
    """Read a request. ``body``: any buffer, or the object a server has already parsed from a JSON body.

    Raises WireError (WireSizeError where a limit is passed), and nothing else.
    """
    raw, rest = _open(body, json_length)
    outputs = raw.get("outputs", [])
    if not isinstance(outputs, list) or len(outputs) > MAX_TENSORS:
        raise WireError(f"outputs: expected a list of at most {MAX_TENSORS}")
    requested = []
    for output in outputs:
        if not isinstance(output, Mapping):
            raise WireError("outputs: expected objects with a name")
        name = text(output.get("name"), "output name")
        requested.append(
            RequestedOutput(name, read_parameters(output.get("parameters"), f"output {name!r}"))
        )
    if len({output.name for output in requested}) != len(requested):
        raise WireError("outputs: a name comes twice")
    return InferRequest(
        inputs=_tensors(raw.get("inputs"), "inputs", rest),
        outputs=tuple(requested),
        id=text(raw.get("id", ""), "id"),
        parameters=read_parameters(raw.get("parameters"), "request"),
    )


def decode_response(body: Buffer, json_length: int | None = None) -> InferResponse:
    """Read a response. Raises WireError, and nothing else."""
    raw, rest = _open(body, json_length)
    return InferResponse(
        outputs=_tensors(raw.get("outputs"), "outputs", rest),
        model_name=text(raw.get("model_name", ""), "model_name"),
        model_version=text(raw.get("model_version", ""), "model_version"),
        id=text(raw.get("id", ""), "id"),
        parameters=read_parameters(raw.get("parameters"), "response"),
    )


def http_headers(json_length: int | None) -> dict[str, str]:
    """The HTTP headers that belong to an encoded body."""
    if json_length is None:
        return {"Content-Type": JSON_TYPE}
    return {"Content-Type": BINARY_TYPE, HEADER: str(json_length)}


def find_header(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value whatever the spelling of its name: a proxy may lower-case it."""
    wanted = name.lower()
    for key, value in headers.items():
        if isinstance(key, str) and key.lower() == wanted:
            return value
    return None


def header_length(headers: Mapping[str, str]) -> int | None:
    """The length of the JSON from the HTTP headers; ``None`` where the header is absent. Raises WireError."""
    value = find_header(headers, HEADER)
    if value is None:
        return None
    digits = str(value).strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise WireError(f"{HEADER}: expected a number of bytes, got {str(value)[:40]!a}")
    return int(digits)


def load_json(body: Buffer, what: str = "JSON") -> Any:
    """Parse strict JSON: UTF-8, no NaN or Infinity, no duplicate keys. Raises WireError."""
    try:
        return json.loads(bytes(body).decode(), object_pairs_hook=_object, parse_constant=_constant)
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, not JSON, integers of thousands of digits, too deep
        raise WireError(f"{what}: not valid JSON ({type(error).__name__})") from error


def _encode(
    raw: dict[str, Any], key: str, tensors: Sequence[Tensor], binary: Sequence[bool]
) -> tuple[bytes, int | None]:
    chunks: list[Buffer] = []
    raw[key] = entries = []
    for tensor, as_binary in zip(tensors, binary, strict=True):
        parameters = dict(tensor.parameters)
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if as_binary:
            parameters["binary_data_size"] = tensor.nbytes
            chunks += tensor.chunks()
        else:
            entry["data"] = tensor.json_data()
        entries.append(entry | ({"parameters": parameters} if parameters else {}))
    try:
        head = json.dumps(raw, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise WireError(f"a parameter that JSON cannot carry ({error})") from error
    if not any(binary):
        return head, None
    head += b" " * (-len(head) % _ALIGN)
    if len(head) > MAX_HEADER_BYTES:
        raise WireSizeError(f"the JSON takes {len(head)} bytes, at most {MAX_HEADER_BYTES}")
    return b"".join([head, *chunks]), len(head)


def _open(
    body: Buffer | Mapping[str, Any], json_length: int | None
) -> tuple[Mapping[str, Any], memoryview]:
    """The parsed JSON, and a view of the bytes behind it."""
    if isinstance(body, Mapping):
        if json_length is not None:
            raise WireError(f"{HEADER} belongs to {BINARY_TYPE}, this body came as {JSON_TYPE}")
        return body, memoryview(b"")
    try:
        view = memoryview(body).cast("B")
    except TypeError:
        raise WireError(f"expected a contiguous body of bytes, got {type(body).__name__}") from None
    if json_length is None:
        limit, json_length = MAX_JSON_BYTES, len(view)
    else:
        limit = MAX_HEADER_BYTES
    if not 0 <= json_length <= len(view):
        raise WireError(f"{HEADER} is {json_length}, the body has {len(view)} bytes")
    if json_length > limit:
        raise WireSizeError(f"{json_length} bytes of JSON, at most {limit}", limit=limit)
    raw = load_json(view[:json_length], "message")
    if not isinstance(raw, dict):
        raise WireError(f"message: expected a JSON object, got {type(raw).__name__}")
    return raw, view[json_length:]


def _tensors(raw: object, what: str, rest: memoryview) -> tuple[Tensor, ...]:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_TENSORS:
        raise WireError(f"{what}: expected a list of 1 to {MAX_TENSORS} tensors")
    found: dict[str, Tensor] = {}
    at = 0
    for entry in raw:
        if not isinstance(entry, Mapping):
            raise WireError(f"{what}: expected objects, got {type(entry).__name__}")
        name = text(entry.get("name"), f"{what}: tensor name")
        if name in found:
            raise WireError(f"{what}: tensor {name!r} comes twice")
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
        else:
            if type(size) is not int or not 0 <= size <= len(rest) - at:
                raise WireError(
                    f"tensor {name!r}: binary_data_size {size!a}, {len(rest) - at} bytes are left"
                )
            tensor = read_binary(name, datatype, shape, rest[at : at + size])
            at += size
        found[name] = Tensor(name, datatype, shape, tensor.data, parameters)
    if at != len(rest):
        raise WireError(f"{len(rest) - at} bytes behind the last tensor")
    return tuple(found.values())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WireError("a JSON object with the same key twice")
    return found


def _constant(literal: str) -> Any:
    raise WireError(f"{literal} is no JSON")
