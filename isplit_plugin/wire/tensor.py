"""One tensor of the Open Inference Protocol v2: name, datatype, shape, data, parameters.

Everything that is read is hostile. Sizes are compared with each other before memory is allocated,
and the readers raise :class:`WireError`, and nothing else.
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
from .parameters import Scalar, read_text, type_name
from .reader import Buffer

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
"""The protocol's datatypes of fixed size, little-endian. BOOL and BF16 are not supported."""
BYTES: Final = "BYTES"
"""The protocol's datatype of byte strings."""

MAX_DIMS: Final = 8
MAX_ELEMENTS: Final = 2**40

_DATATYPE_OF: Final = {dtype: name for name, dtype in DATATYPES.items()}
_LENGTH: Final = struct.Struct("<I")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}\Z")


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named tensor.

    Attributes:
        name: The name.
        datatype: A key of ``DATATYPES``, or ``BYTES``.
        shape: The shape.
        data: For BYTES the byte strings in row-major order, otherwise an array of ``shape``. The
            data of a decoded tensor are views into the body: no copy, and the body stays alive.
        parameters: Scalars by name.
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
        """The tensor of a numeric array. Raises WireError for a dtype without a datatype."""
        little_endian = array
        if array.dtype not in _DATATYPE_OF:
            little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        datatype = _DATATYPE_OF.get(little_endian.dtype)
        if datatype is None:
            raise WireError(
                f"no datatype for arrays of {array.dtype}; known: {', '.join(DATATYPES)}"
            )
        data = np.ascontiguousarray(little_endian)
        return cls(name, datatype, tuple(array.shape), data, dict(parameters or {}))

    @classmethod
    def of_bytes(
        cls,
        name: str,
        items: Sequence[Buffer],
        parameters: Mapping[str, Scalar] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """The BYTES tensor of byte strings; without a ``shape`` it is (len(items),)."""
        whole_shape = (len(items),) if shape is None else shape
        return cls(name, BYTES, whole_shape, tuple(items), dict(parameters or {}))

    @property
    def nbytes(self) -> int:
        """The bytes of the data on the wire in the binary form (``binary_data_size``)."""
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
        """The byte strings of a BYTES tensor. Raises WireError for numbers."""
        if not isinstance(self.data, tuple):
            raise WireError(f"tensor {self.name!r} is {self.datatype}, expected BYTES")
        return self.data

    def chunks(self) -> list[Buffer]:
        """Buffers whose concatenation is the binary form of the data.

        Raises WireError where data, datatype and shape do not fit together.
        """
        if isinstance(self.data, tuple):
            if self.datatype != BYTES or len(self.data) != math.prod(self.shape):
                raise WireError(
                    f"tensor {self.name!r}: {len(self.data)} byte strings "
                    f"for {self.datatype} {self.shape}"
                )
            chunks: list[Buffer] = []
            for item in self.data:
                chunks += [_LENGTH.pack(len(item)), item]
            return chunks
        self._check_array(self.data)
        return [raw_bytes(self.data)]

    def json_data(self) -> list[Any]:
        """The data as a flat list for the JSON form.

        Raises WireError for what JSON cannot carry.
        """
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
        # str() of a numpy float is its shortest form: half the characters of the double's.
        values = [float(str(value)) for value in self.data.reshape(-1)]
        if not all(map(math.isfinite, values)):
            raise WireError(f"tensor {self.name!r}: JSON carries finite numbers only")
        return values

    def _check_array(self, array: npt.NDArray[Any]) -> None:
        if DATATYPES.get(self.datatype) != array.dtype or tuple(array.shape) != tuple(self.shape):
            raise WireError(
                f"tensor {self.name!r}: expected {self.datatype} {self.shape}, "
                f"got {array.dtype} {array.shape}"
            )


def raw_bytes(array: npt.NDArray[Any]) -> memoryview:
    """An array's bytes in row-major order, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_shape(raw: object, subject: str) -> tuple[int, ...]:
    """A shape of 1 to 8 positive dimensions with a bounded product."""
    if not isinstance(raw, list | tuple) or not 1 <= len(raw) <= MAX_DIMS:
        raise WireError(f"{subject}: shape must be a list of 1 to {MAX_DIMS} dimensions")
    for dim in raw:
        if type(dim) is not int or not 1 <= dim <= MAX_ELEMENTS:
            raise WireError(f"{subject}: dimensions must be positive integers, got {_show(dim)}")
    if math.prod(raw) > MAX_ELEMENTS:
        raise WireSizeError(f"{subject}: shape of more than {MAX_ELEMENTS} elements")
    return tuple(raw)


def parse_shape(raw: object, subject: str) -> tuple[int, ...]:
    """A shape that is written as a string, ``1,512,28,28``."""
    dims = read_text(raw, subject).split(",")
    if not all(_INTEGER.match(dim) for dim in dims):
        raise WireError(f"{subject}: expected a shape like '1,512,28,28', got {raw!r}")
    return read_shape([int(dim) for dim in dims], subject)


def read_binary(name: str, datatype: str, shape: tuple[int, ...], view: memoryview) -> Tensor:
    """The tensor whose binary form is exactly ``view``, without a copy."""
    count = math.prod(shape)
    if datatype == BYTES:
        return Tensor(name, BYTES, shape, _read_items(view, count, f"tensor {name!r}"))
    dtype = DATATYPES[datatype]
    size = count * dtype.itemsize
    if size != len(view):
        raise WireError(
            f"tensor {name!r}: {datatype} {list(shape)} takes {size} bytes, {len(view)} announced"
        )
    return Tensor(name, datatype, shape, np.frombuffer(view, dtype).reshape(shape))


def read_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Tensor:
    """The tensor of a JSON list, flat or nested."""
    subject = f"tensor {name!r}"
    if datatype == "FP16":
        raise WireError(f"{subject}: FP16 travels in the binary form only")
    values = _flatten(data, math.prod(shape), subject)
    if datatype == BYTES:
        return Tensor(name, BYTES, shape, _encode_strings(values, subject))
    dtype = DATATYPES[datatype]
    allowed = {int, float} if dtype.kind == "f" else {int}
    types = {type(value) for value in values}
    if not types <= allowed:
        names = ", ".join(sorted(kind.__name__ for kind in types))
        raise WireError(f"{subject}: {datatype} in JSON takes numbers, got {names}")
    make = _float_array if dtype.kind == "f" else _integer_array
    return Tensor(name, datatype, shape, make(values, datatype, subject).reshape(shape))


def _encode_strings(values: list[Any], subject: str) -> tuple[bytes, ...]:
    if not all(type(value) is str for value in values):
        raise WireError(f"{subject}: BYTES in JSON are strings")
    try:
        return tuple(value.encode() for value in values)
    except UnicodeEncodeError:
        raise WireError(f"{subject}: a string with lone surrogates") from None


def _float_array(values: list[Any], datatype: str, subject: str) -> npt.NDArray[Any]:
    try:
        wide = np.array(values, np.float64)
    except OverflowError:
        raise WireError(f"{subject}: a number too large for {datatype}") from None
    with np.errstate(over="ignore"):
        array = wide.astype(DATATYPES[datatype])
    if not np.isfinite(array).all():
        raise WireError(f"{subject}: a number too large for {datatype}, or not finite")
    return array


def _integer_array(values: list[Any], datatype: str, subject: str) -> npt.NDArray[Any]:
    dtype = DATATYPES[datatype]
    bounds = np.iinfo(dtype)
    if min(values) < bounds.min or max(values) > bounds.max:
        raise WireError(f"{subject}: a number outside {datatype}")
    return np.array(values, dtype)


def _flatten(data: object, count: int, subject: str) -> list[Any]:
    """The leaves of a nested list in row-major order: exactly ``count``, at most MAX_DIMS deep."""
    if not isinstance(data, list):
        raise WireError(f"{subject}: data must be a list, got {type_name(data)}")
    level: list[Any] = data
    for _ in range(MAX_DIMS):
        if len(level) > count:
            break
        if not any(isinstance(value, list) for value in level):
            if len(level) != count:
                break
            return level
        if not all(isinstance(value, list) for value in level) or not all(level):
            raise WireError(f"{subject}: data mixes lists and values")
        if sum(map(len, level)) > count:
            break
        level = [leaf for row in level for leaf in row]
    raise WireError(
        f"{subject}: data does not hold the {count} elements of its shape, "
        f"at most {MAX_DIMS} lists deep"
    )


def _read_items(view: memoryview, count: int, subject: str) -> tuple[memoryview, ...]:
    """The elements of BYTES, each after its length in 4 bytes."""
    if count * _LENGTH.size > len(view):
        raise WireError(f"{subject}: {count} BYTES elements do not fit into {len(view)} bytes")
    items: list[memoryview] = []
    position = 0
    for _ in range(count):
        if position + _LENGTH.size > len(view):
            raise WireError(f"{subject}: BYTES data ends within a length")
        (length,) = _LENGTH.unpack_from(view, position)
        position += _LENGTH.size
        if length > len(view) - position:
            raise WireError(
                f"{subject}: a BYTES element of {length} bytes, {len(view) - position} left"
            )
        items.append(view[position : position + length])
        position += length
    if position != len(view):
        raise WireError(f"{subject}: {len(view) - position} bytes after the last BYTES element")
    return tuple(items)


def _show(value: object) -> str:
    # repr() of an integer of many digits raises: a number is shown only where it is short.
    is_short = isinstance(value, int) and -(2**64) < value < 2**64
    return repr(value) if is_short else type_name(value)
