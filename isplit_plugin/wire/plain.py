"""Codecs that any peer can read: the plain datatypes of the protocol, float32, float16 and uint8."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from ..schema import FloatArray
from .quantize import FLOAT32_MAX, FLOAT32_TINY, RANGE_LIMIT
from .tensor import Scalar

Codes = npt.NDArray[Any]

_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?\Z")


class ActivationCodec(ABC):
    """One way to code an activation. The codes have one item per item of the batch, coded on its own: a neighbour in
    the batch never changes a result."""

    name: ClassVar[str]
    datatype: ClassVar[str]

    @abstractmethod
    def encode(self, array: FloatArray) -> tuple[Codes, dict[str, Scalar]]:
        """Codes and tensor parameters of a finite, C-contiguous float32 array (N, ...)."""

    @abstractmethod
    def decode(
        self, codes: Codes, parameters: Mapping[str, Scalar], shape: tuple[int, ...]
    ) -> FloatArray:
        """float32 of ``shape`` (N, ...). The parameters are hostile: raises WireError."""

    def code_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the codes for an activation of ``shape`` (N, ...); other than it where codes are packed."""
        return shape


class Fp32(ActivationCodec):
    """As it is: bit for bit, the sign of zero and subnormal numbers included."""

    name = "fp32"
    datatype = "FP32"

    def encode(self, array: FloatArray) -> tuple[Codes, dict[str, Scalar]]:
        return array, {}

    def decode(
        self, codes: Codes, parameters: Mapping[str, Scalar], shape: tuple[int, ...]
    ) -> FloatArray:
        return codes


class Fp16(ActivationCodec):
    """IEEE half precision, round to nearest even. Values beyond +-65504 are clipped to it: an activation that large
    keeps its rank, where an infinity would break the tail."""

    name = "fp16"
    datatype = "FP16"

    def encode(self, array: FloatArray) -> tuple[Codes, dict[str, Scalar]]:
        return np.clip(array, -65504.0, 65504.0).astype(np.float16), {}

    def decode(
        self, codes: Codes, parameters: Mapping[str, Scalar], shape: tuple[int, ...]
    ) -> FloatArray:
        return codes.astype(np.float32)


class Uint8(ActivationCodec):
    """Affine, per item: ``x = scale * (code - zero_point)``, the range of an item's values, zero included, over 256
    steps. Zero is exact (a ReLU's zeros stay zeros); any other value is off by at most ``scale / 2``, but for values
    beyond +-1.68e38, which are clipped: 255 steps must fit into float32.

    The parameters of one item are plain scalars ``scale`` and ``zero_point``, as any peer writes them; of several
    items, strings with commas, one entry for each item. A plain scalar with several items belongs to all of them.
    """

    name = "uint8"
    datatype = "UINT8"

    def encode(self, array: FloatArray) -> tuple[Codes, dict[str, Scalar]]:
        rows = array.reshape(len(array), -1)
        low = rows.min(axis=1).clip(-RANGE_LIMIT, 0).astype(np.float64)
        high = rows.max(axis=1).clip(0, RANGE_LIMIT).astype(np.float64)
        # Never below the smallest normal float32: its reciprocal is finite, and so is every quotient.
        scale = np.maximum((high - low) / 255, FLOAT32_TINY).astype(np.float32)
        scale[high == low] = 1
        zero = np.rint(-low / scale).clip(0, 255).astype(np.float32)
        work = rows / scale[:, None]
        work += zero[:, None]
        np.rint(work, out=work)
        np.clip(work, 0, 255, out=work)
        codes = work.astype(np.uint8).reshape(array.shape)
        scales, zeros = [_shortest(v) for v in scale], [int(v) for v in zero]
        if len(scales) == 1:
            return codes, {"scale": scales[0], "zero_point": zeros[0]}
        return codes, {
            "scale": ",".join(map(repr, scales)),
            "zero_point": ",".join(map(repr, zeros)),
        }

    def decode(
        self, codes: Codes, parameters: Mapping[str, Scalar], shape: tuple[int, ...]
    ) -> FloatArray:
        items = shape[0]
        scale = per_item(parameters, "scale", items, low=FLOAT32_TINY, high=FLOAT32_MAX / 256)
        zero = per_item(parameters, "zero_point", items, low=0, high=255)
        if any(z != int(z) for z in zero):
            raise WireError("zero_point must be an integer from 0 to 255")
        column = (items,) + (1,) * (len(shape) - 1)
        array = codes.astype(np.float32)
        array -= np.array(zero, np.float32).reshape(column)
        array *= np.array(scale, np.float32).reshape(column)
        return array


def per_item(
    parameters: Mapping[str, Scalar], key: str, items: int, *, low: float, high: float
) -> list[float]:
    """One number per item of the batch from a parameter, each within [low, high]. Raises WireError."""
    value = parameters.get(key)
    if isinstance(value, bool) or value is None:
        raise WireError(f"parameter {key!r}: expected a number, got {value}")
    if isinstance(value, str):
        parts = value.split(",")
        if len(parts) != items:
            raise WireError(f"parameter {key!r}: {len(parts)} entries for {items} items")
        if not all(len(part) <= 40 and _NUMBER.match(part) for part in parts):
            raise WireError(f"parameter {key!r}: expected numbers with commas, got {value[:60]!a}")
        numbers = [float(part) for part in parts]
    else:
        numbers = [float(value)] * items
    for number in numbers:
        if not low <= number <= high:
            raise WireError(f"parameter {key!r}: {number} is not within [{low:g}, {high:g}]")
    return numbers


def _shortest(value: np.float32) -> float:
    """The double with the fewest digits that rounds to this float32."""
    return float(str(value))
