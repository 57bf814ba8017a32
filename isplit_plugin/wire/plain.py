"""Codecs that any peer can read: float32, float16 and uint8, as plain tensors of the protocol."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from ..schema import FloatArray
from .codec import Codec, EncodeOptions, Payload
from .parameters import Scalar
from .quantize import FLOAT32_MAX, FLOAT32_TINY, RANGE_LIMIT
from .tensor import DATATYPES, raw_bytes

FLOAT16_MAX: Final = 65504.0

_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?\Z")


class PlainCodec(Codec):
    """One code of a protocol datatype for each value."""

    datatype: str
    """The protocol's name of the codes' type. ``<name>`` alone travels as a plain tensor of it."""

    def max_size(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * DATATYPES[self.datatype].itemsize

    def codes(self, payload: Payload, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The codes as an array of ``shape``, without a copy. Raises WireError."""
        expected = self.max_size(shape)
        if len(payload.data) != expected:
            raise WireError(
                f"codec {self.name!r}: expected {expected} bytes of codes, got {len(payload.data)}"
            )
        return np.frombuffer(payload.data, DATATYPES[self.datatype]).reshape(shape)


class Fp32(PlainCodec):
    """float32, bit for bit: the sign of zero and subnormal numbers included."""

    name = "fp32"
    datatype = "FP32"

    def encode(self, activation: FloatArray, options: EncodeOptions) -> Payload:
        return Payload(raw_bytes(activation))

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> FloatArray:
        return self.codes(payload, shape)


class Fp16(PlainCodec):
    """IEEE half precision, rounded to the nearest, ties to even.

    Values beyond +-65504 are clipped to it. A clipped value is still the largest; an infinity
    would break the tail.
    """

    name = "fp16"
    datatype = "FP16"

    def encode(self, activation: FloatArray, options: EncodeOptions) -> Payload:
        clipped = np.clip(activation, -FLOAT16_MAX, FLOAT16_MAX)
        return Payload(raw_bytes(clipped.astype(np.float16)))

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> FloatArray:
        return self.codes(payload, shape).astype(np.float32)


class Uint8(PlainCodec):
    """Affine quantisation per item: ``value = scale * (code - zero_point)``.

    The range of an item's values, zero included, is divided into 255 steps. Zero is exact, so a
    ReLU's zeros stay zeros. Any other value is off by at most ``scale / 2``. Values beyond
    +-1.68e38 are clipped, because 255 steps must fit into float32.

    For one item the parameters ``scale`` and ``zero_point`` are numbers, as any peer writes them.
    For several items they are strings with commas, one entry for each item. A number with several
    items applies to all of them.
    """

    name = "uint8"
    datatype = "UINT8"

    def encode(self, activation: FloatArray, options: EncodeOptions) -> Payload:
        rows = activation.reshape(len(activation), -1)
        low = rows.min(axis=1).clip(-RANGE_LIMIT, 0).astype(np.float64)
        high = rows.max(axis=1).clip(0, RANGE_LIMIT).astype(np.float64)
        # At least the smallest normal float32: every quotient below is then finite.
        scale = np.maximum((high - low) / 255, FLOAT32_TINY).astype(np.float32)
        scale[high == low] = 1
        zero = np.rint(-low / scale).clip(0, 255).astype(np.float32)
        levels = rows / scale[:, None]
        levels += zero[:, None]
        np.rint(levels, out=levels)
        np.clip(levels, 0, 255, out=levels)
        parameters = {
            "scale": _join([_shortest(value) for value in scale]),
            "zero_point": _join([int(value) for value in zero]),
        }
        return Payload(raw_bytes(levels.astype(np.uint8)), parameters)

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> FloatArray:
        items = shape[0]
        parameters = payload.parameters
        scale = per_item(parameters, "scale", items, low=FLOAT32_TINY, high=FLOAT32_MAX / 256)
        zero = per_item(parameters, "zero_point", items, low=0, high=255)
        if any(value != int(value) for value in zero):
            raise WireError("zero_point must be an integer from 0 to 255")
        column = (items,) + (1,) * (len(shape) - 1)
        array = self.codes(payload, shape).astype(np.float32)
        array -= np.array(zero, np.float32).reshape(column)
        array *= np.array(scale, np.float32).reshape(column)
        return array


PLAIN_CODECS: Final = (Fp32(), Fp16(), Uint8())


def per_item(
    parameters: Mapping[str, Scalar], key: str, items: int, *, low: float, high: float
) -> list[float]:
    """Read one number for each item of the batch, each within [low, high]. Raises WireError."""
    value = parameters.get(key)
    if isinstance(value, bool) or value is None:
        raise WireError(f"parameter {key!r}: expected a number, got {value}")
    if isinstance(value, str):
        entries = value.split(",")
        if len(entries) != items:
            raise WireError(f"parameter {key!r}: {len(entries)} entries for {items} items")
        if not all(len(entry) <= 40 and _NUMBER.match(entry) for entry in entries):
            raise WireError(f"parameter {key!r}: expected numbers with commas, got {value[:60]!a}")
        numbers = [float(entry) for entry in entries]
    else:
        numbers = [float(value)] * items
    for number in numbers:
        if not low <= number <= high:
            raise WireError(f"parameter {key!r}: {number} is not within [{low:g}, {high:g}]")
    return numbers


def _join(numbers: list[float] | list[int]) -> Scalar:
    """One number as it is, several as a string with commas."""
    return numbers[0] if len(numbers) == 1 else ",".join(map(repr, numbers))


def _shortest(value: np.float32) -> float:
    """The double with the fewest digits that rounds to this float32."""
    return float(str(value))
