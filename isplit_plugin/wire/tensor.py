"""One tensor as the Open Inference Protocol v2 carries it: name, datatype, shape, data, scalar parameters.

Everything that comes in is hostile: sizes are checked against each other before anything is allocated, and nothing
but :class:`WireError` comes out of a decoding function.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError, WireSizeError

Scalar = str | int | float | bool
Buffer = bytes | bytearray | memoryview

DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's datatypes with a fixed size, little-endian. BYTES is the one besides; BOOL and BF16 are not spoken."""
BYTES: Final = "BYTES"

MAX_DIMS: Final = 8
MAX_ELEMENTS: Final = 2**40
MAX_NAME: Final = 128
MAX_PARAMETERS: Final = 64
MAX_PARAMETER: Final = 32 * 1024
"""Longest string value of a parameter, in characters: a batch writes its scales as one string."""

_DATATYPE_OF: Final = {dtype: name for name, dtype in DATATYPES.items()}
_LENGTH: Final = struct.Struct("<I")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}\Z")


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named tensor.

    ``data``: for BYTES a tuple of byte strings (or views) in row-major order, otherwise an array of ``shape`` with
    the datatype's dtype. A decoded tensor's data are views into the body: no copy, and the body stays alive with it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any] | tuple[Buffer, ...]
    parameters: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, array: npt.NDArray[Any], parameters: Mapping[str, Scalar] | None = None
    ) -> Tensor:
        """A tensor of a numeric array. Raises WireError for a dtype the protocol has no name for."""
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        datatype = _DATATYPE_OF.get(little.dtype)
        if datatype is None:
            raise WireError(
                f"no datatype for arrays of {array.dtype}; known: {', '.join(DATATYPES)}"
            )
        return cls(
            name, datatype, tuple(array.shape), np.ascontiguousarray(little), dict(parameters or {})
        )

    @classmethod
    def of_bytes(
        cls,
        name: str,
        items: Sequence[Buffer],
        parameters: Mapping[str, Scalar] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """A BYTES tensor of byte strings, of shape (len(items),) unless told."""
        return cls(
            name,
            BYTES,
            (len(items),) if shape is None else shape,
            tuple(items),
            dict(parameters or {}),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the data on the wire in the binary form (``binary_data_size``)."""
        if isinstance(self.data, tuple):
            return sum(_LENGTH.size + len(item) for item in self.data)
        return int(self.data.nbytes)

    @property
    def array(self) -> npt.NDArray[Any]:
        """The data of a numeric tensor. Raises WireError for BYTES."""
        if isinstance(self.data, tuple):
            raise WireError(f"tensor {self.name!r} is BYTES, expected numbers")
        return self.data

    @property
    def items(self) -> tuple[Buffer, ...]:
        """The elements of a BYTES tensor. Raises WireError for numbers."""
        if not isinstance(self.data, tuple):
            raise WireError(f"tensor {self.name!r} is {self.datatype}, expected BYTES")
        return self.data

    def chunks(self) -> list[Buffer]:
        """The data as buffers whose concatenation is the binary form. Raises WireError where it does not fit."""
        if isinstance(self.data, tuple):
            if self.datatype != BYTES or len(self.data) != math.prod(self.shape):
                raise WireError(
                    f"tensor {self.name!r}: {len(self.data)} byte strings for {self.datatype} {self.shape}"
                )
            chunks: list[Buffer] = []
            for item in self.data:
                chunks += [_LENGTH.pack(len(item)), item]
            return chunks
        self._check_array(self.data)
        return [raw_bytes(self.data)]

    def json_data(self) -> list[Any]:
        """The data as one flat list for the JSON form. Raises WireError for what JSON cannot carry."""
        if isinstance(self.data, tuple):
            try:
                return [bytes(item).decode() for item in self.data]
            except UnicodeDecodeError:
                raise WireError(
                    f"tensor {self.name!r}: bytes that are not UTF-8 need the binary form"
                ) from None
        self._check_array(self.data)
        if self.data.dtype.kind != "f":
            return list(self.data.reshape(-1).tolist())
        if not np.isfinite(self.data).all():
            raise WireError(f"tensor {self.name!r}: JSON carries finite numbers only")
        # str() of a numpy float is its shortest form: half the characters of the double's.
        return [float(str(v)) for v in self.data.reshape(-1)]

    def _check_array(self, array: npt.NDArray[Any]) -> None:
        if DATATYPES.get(self.datatype) != array.dtype or tuple(array.shape) != tuple(self.shape):
            raise WireError(
                f"tensor {self.name!r}: announced {self.datatype} {self.shape}, got {array.dtype} {array.shape}"
            )


def raw_bytes(array: npt.NDArray[Any]) -> memoryview:
    """An array's bytes in row-major order, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def text(value: object, what: str, *, limit: int = MAX_NAME) -> str:
    """A printable string of bounded length, or WireError. Keeps control characters and lone surrogates out of logs."""
    if not isinstance(value, str):
        raise WireError(f"{what}: expected a string, got {_kind(value)}")
    if len(value) > limit:
        raise WireError(f"{what}: {len(value)} characters, at most {limit}")
    if not value.isprintable():
        raise WireError(f"{what}: {value[:80]!a} holds characters that cannot be printed")
    return value


def read_parameters(raw: object, what: str) -> dict[str, Scalar]:
    """The ``parameters`` object: bounded, scalars only, finite. Raises WireError."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise WireError(f"{what}: expected an object of parameters, got {_kind(raw)}")
    if len(raw) > MAX_PARAMETERS:
        raise WireError(f"{what}: {len(raw)} parameters, at most {MAX_PARAMETERS}")
    found: dict[str, Scalar] = {}
    for key, value in raw.items():
        name = text(key, f"{what}: parameter name")
        if isinstance(value, str):
            text(value, f"{what}: parameter {name!r}", limit=MAX_PARAMETER)
        elif isinstance(value, bool):
            pass
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**64:
                raise WireError(f"{what}: parameter {name!r} is an integer of more than 64 bits")
        elif not (isinstance(value, float) and math.isfinite(value)):
            raise WireError(
                f"{what}: parameter {name!r} must be a finite scalar, got {_kind(value)}"
            )
        found[name] = value
    return found


def read_shape(raw: object, what: str) -> tuple[int, ...]:
    """A shape of 1 to 8 positive dimensions with a bounded product. Raises WireError."""
    if not isinstance(raw, list | tuple) or not 1 <= len(raw) <= MAX_DIMS:
        raise WireError(f"{what}: shape must be a list of 1 to {MAX_DIMS} dimensions")
    for dim in raw:
        if type(dim) is not int or not 1 <= dim <= MAX_ELEMENTS:
            raise WireError(f"{what}: dimensions must be positive integers, got {_show(dim)}")
    if math.prod(raw) > MAX_ELEMENTS:
        raise WireSizeError(f"{what}: shape of more than {MAX_ELEMENTS} elements")
    return tuple(raw)


def parse_shape(raw: object, what: str) -> tuple[int, ...]:
    """A shape written as a string, "1,512,28,28". Raises WireError."""
    parts = text(raw, what).split(",")
    if not all(_INTEGER.match(part) for part in parts):
        raise WireError(f"{what}: expected a shape like '1,512,28,28', got {raw!r}")
    return read_shape([int(part) for part in parts], what)


def read_binary(name: str, datatype: str, shape: tuple[int, ...], view: memoryview) -> Tensor:
    """The tensor whose binary form is exactly ``view``, without a copy. Raises WireError."""
    count = math.prod(shape)
    if datatype == BYTES:
        return Tensor(name, BYTES, shape, _split(view, count, f"tensor {name!r}"))
    dtype = DATATYPES[datatype]
    if count * dtype.itemsize != len(view):
        raise WireError(
            f"tensor {name!r}: {datatype} {list(shape)} takes {count * dtype.itemsize} bytes, {len(view)} announced"
        )
    return Tensor(name, datatype, shape, np.frombuffer(view, dtype).reshape(shape))


def read_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Tensor:
    """The tensor of a JSON list, flat or nested. Raises WireError."""
    what = f"tensor {name!r}"
    if datatype == "FP16":
        raise WireError(f"{what}: FP16 travels in the binary form only")
    flat = _flatten(data, math.prod(shape), what)
    if datatype == BYTES:
        if not all(type(v) is str for v in flat):
            raise WireError(f"{what}: BYTES in JSON are strings")
        try:
            return Tensor(name, BYTES, shape, tuple(v.encode() for v in flat))
        except UnicodeEncodeError:
            raise WireError(f"{what}: a string with lone surrogates") from None
    dtype = DATATYPES[datatype]
    kinds = {type(v) for v in flat}
    if not kinds <= ({int, float} if dtype.kind == "f" else {int}):
        raise WireError(
            f"{what}: {datatype} in JSON takes numbers, got {', '.join(sorted(k.__name__ for k in kinds))}"
        )
    if dtype.kind == "f":
        try:
            wide = np.array(flat, np.float64)
        except OverflowError:
            raise WireError(f"{what}: a number too large for {datatype}") from None
        with np.errstate(over="ignore"):
            array = wide.astype(dtype)
        if not np.isfinite(array).all():
            raise WireError(f"{what}: a number too large for {datatype}, or not finite")
    else:
        bounds = np.iinfo(dtype)
        if min(flat) < bounds.min or max(flat) > bounds.max:
            raise WireError(f"{what}: a number outside {datatype}")
        array = np.array(flat, dtype)
    return Tensor(name, datatype, shape, array.reshape(shape))


def _flatten(data: object, count: int, what: str) -> list[Any]:
    """Row-major leaves of a nested list: exactly ``count`` of them, at most MAX_DIMS deep."""
    if not isinstance(data, list):
        raise WireError(f"{what}: data must be a list, got {_kind(data)}")
    level: list[Any] = data
    for _ in range(MAX_DIMS):
        if len(level) > count:
            break
        if not any(isinstance(v, list) for v in level):
            if len(level) != count:
                break
            return level
        if not all(isinstance(v, list) for v in level) or not all(level):
            raise WireError(f"{what}: data mixes lists and values")
        if sum(map(len, level)) > count:
            break
        level = [leaf for row in level for leaf in row]
    raise WireError(
        f"{what}: data does not hold the {count} elements of its shape, at most {MAX_DIMS} lists deep"
    )


def _split(view: memoryview, count: int, what: str) -> tuple[memoryview, ...]:
    """BYTES elements, each behind its length in 4 bytes."""
    if count * _LENGTH.size > len(view):
        raise WireError(f"{what}: {count} BYTES elements do not fit into {len(view)} bytes")
    items: list[memoryview] = []
    at = 0
    for _ in range(count):
        if at + _LENGTH.size > len(view):
            raise WireError(f"{what}: BYTES data ends within a length")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if length > len(view) - at:
            raise WireError(f"{what}: a BYTES element of {length} bytes, {len(view) - at} left")
        items.append(view[at : at + length])
        at += length
    if at != len(view):
        raise WireError(f"{what}: {len(view) - at} bytes behind the last BYTES element")
    return tuple(items)


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _show(value: object) -> str:
    # repr() of an integer of many digits raises: a number is shown only where it is short.
    short = isinstance(value, int) and -(2**64) < value < 2**64
    return repr(value) if short else _kind(value)
