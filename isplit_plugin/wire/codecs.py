"""Activation codecs: how an array of float32 becomes a tensor on the wire, and back.

A codec is one class: a name, the datatype that it sends, ``encode`` and ``decode``. ``register`` adds it, and with it
``<name>+zstd``, the same codes behind a general entropy coder. On the wire a plain code names itself by its datatype
(any peer can read it); everything else is BYTES of shape [1] with ``isplit_codec``, ``isplit_datatype`` and
``isplit_shape``, the batch first in the shape.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ..errors import UnknownCodecError, WireError, WireSizeError
from ..schema import FloatArray
from . import entropy
from .tensor import BYTES, DATATYPES, Buffer, Scalar, Tensor, parse_shape, raw_bytes, text

Codes = npt.NDArray[Any]

IMAGE_CODECS: Final = ("jpeg", "file")
"""At split point `input`: "jpeg", the photo cropped on the device; "file", the photo as it is."""
DEFAULT_MAX_BATCH: Final = 64

P_CODEC: Final = "isplit_codec"
P_DATATYPE: Final = "isplit_datatype"
P_SHAPE: Final = "isplit_shape"

_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_FLOAT32_TINY: Final = float(np.finfo(np.float32).tiny)
_UINT8_LIMIT: Final = _FLOAT32_MAX / 256 * 127
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
    def decode(self, codes: Codes, parameters: Mapping[str, Scalar], shape: tuple[int, ...]) -> FloatArray:
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

    def decode(self, codes: Codes, parameters: Mapping[str, Scalar], shape: tuple[int, ...]) -> FloatArray:
        return codes


class Fp16(ActivationCodec):
    """IEEE half precision, round to nearest even. Values beyond +-65504 are clipped to it: an activation that large
    keeps its rank, where an infinity would break the tail."""

    name = "fp16"
    datatype = "FP16"

    def encode(self, array: FloatArray) -> tuple[Codes, dict[str, Scalar]]:
        return np.clip(array, -65504.0, 65504.0).astype(np.float16), {}

    def decode(self, codes: Codes, parameters: Mapping[str, Scalar], shape: tuple[int, ...]) -> FloatArray:
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
        low = rows.min(axis=1).clip(-_UINT8_LIMIT, 0).astype(np.float64)
        high = rows.max(axis=1).clip(0, _UINT8_LIMIT).astype(np.float64)
        # Never below the smallest normal float32: its reciprocal is finite, and so is every quotient.
        scale = np.maximum((high - low) / 255, _FLOAT32_TINY).astype(np.float32)
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
        return codes, {"scale": ",".join(map(repr, scales)), "zero_point": ",".join(map(repr, zeros))}

    def decode(self, codes: Codes, parameters: Mapping[str, Scalar], shape: tuple[int, ...]) -> FloatArray:
        items = shape[0]
        scale = per_item(parameters, "scale", items, low=_FLOAT32_TINY, high=_FLOAT32_MAX / 256)
        zero = per_item(parameters, "zero_point", items, low=0, high=255)
        if any(z != int(z) for z in zero):
            raise WireError("zero_point must be an integer from 0 to 255")
        column = (items,) + (1,) * (len(shape) - 1)
        array = codes.astype(np.float32)
        array -= np.array(zero, np.float32).reshape(column)
        array *= np.array(scale, np.float32).reshape(column)
        return array


def per_item(parameters: Mapping[str, Scalar], key: str, items: int, *, low: float, high: float) -> list[float]:
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


_CODECS: Final[dict[str, ActivationCodec]] = {}
_BY_DATATYPE: Final[dict[str, str]] = {}
_ZSTD: Final = "+zstd"


def register(codec: ActivationCodec) -> None:
    """Add a codec. The first of a datatype is the one that a tensor without ``isplit_codec`` means."""
    _CODECS[codec.name] = codec
    _BY_DATATYPE.setdefault(codec.datatype, codec.name)


def codec_names() -> tuple[str, ...]:
    """The activation codecs known in this process, each also with "+zstd"."""
    return tuple(name + suffix for name in _CODECS for suffix in ("", _ZSTD))


for _codec in (Fp32(), Fp16(), Uint8()):
    register(_codec)
CODECS: Final = codec_names()


def _get(name: str) -> tuple[ActivationCodec, bool]:
    codec = _CODECS.get(name.removesuffix(_ZSTD))
    if codec is None:
        raise UnknownCodecError.of(name, (*codec_names(), *IMAGE_CODECS))
    return codec, name.endswith(_ZSTD)


def encode_activation(array: npt.NDArray[Any], codec: str, name: str = "activation") -> Tensor:
    """Code an activation (N, ...) of floating point numbers.

    Raises UnknownCodecError; WireError for an empty array, and for NaN or infinite values, which no codec carries.
    """
    coder, entropy_coded = _get(codec)
    if array.ndim < 2 or array.size == 0:
        raise WireError(f"expected an activation of shape (N, ...), got {array.shape}")
    plain = np.ascontiguousarray(array, np.float32)
    if not _finite(plain):
        raise WireError("the activation holds NaN or infinite values")
    codes, parameters = coder.encode(plain)
    if not entropy_coded and _BY_DATATYPE[coder.datatype] == coder.name:
        return Tensor.of(name, codes, parameters)
    shape = ",".join(map(str, plain.shape))
    described = {P_CODEC: codec, P_DATATYPE: coder.datatype, P_SHAPE: shape, **parameters}
    data = raw_bytes(codes)
    return Tensor.of_bytes(name, [entropy.compress(data) if entropy_coded else data], described)


def activation_layout(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """(codec, shape with batch) that a tensor announces, without looking at its data. Raises WireError, and
    UnknownCodecError for a name nobody registered."""
    if tensor.datatype != BYTES:
        named = tensor.parameters.get(P_CODEC, _BY_DATATYPE.get(tensor.datatype))
        if named is None or named != _BY_DATATYPE.get(tensor.datatype):
            raise WireError(
                f"tensor {tensor.name!r}: {tensor.datatype} with codec {named!a}; "
                f"activations travel as {', '.join(_BY_DATATYPE)}, or as BYTES with {P_CODEC}"
            )
        return str(named), tensor.shape
    if tensor.shape != (1,):
        raise WireError(f"tensor {tensor.name!r}: a coded activation is BYTES of shape [1], got {list(tensor.shape)}")
    name = text(tensor.parameters.get(P_CODEC), P_CODEC)
    codec, _ = _get(name)
    if tensor.parameters.get(P_DATATYPE) != codec.datatype:
        raise WireError(f"tensor {tensor.name!r}: {P_DATATYPE} of codec {name!r} is {codec.datatype}")
    return name, parse_shape(tensor.parameters.get(P_SHAPE), P_SHAPE)


def decode_activation(tensor: Tensor, *, shape: Sequence[int], max_batch: int = DEFAULT_MAX_BATCH) -> FloatArray:
    """The activation (N, *shape) as finite, writable, row-major float32, 1 <= N <= max_batch.

    ``shape``: the split point's, without batch. A plain fp32 tensor is not copied where its body is writable and
    aligned. Raises WireError alone (an unknown codec included).
    """
    try:
        name, whole = activation_layout(tensor)
    except UnknownCodecError as error:
        raise WireError(error.message) from error
    check_batch(whole, shape, max_batch, tensor.name)
    codec, entropy_coded = _get(name)
    codes = _unpack(tensor, codec, whole, entropy_coded) if tensor.datatype == BYTES else tensor.array
    array = codec.decode(codes, tensor.parameters, whole)
    if not _finite(array):
        raise WireError(f"tensor {tensor.name!r}: NaN or infinite values")
    return np.require(array, np.float32, ["C", "A", "W"])


def check_batch(whole: Sequence[int], shape: Sequence[int], max_batch: int, name: str) -> None:
    """Refuse a shape that is not (1 to max_batch, *shape). Raises WireError, WireSizeError for a batch too large."""
    if len(whole) != len(shape) + 1 or list(whole[1:]) != list(shape):
        raise WireError(f"tensor {name!r}: expected shape [N, {', '.join(map(str, shape))}], got {list(whole)}")
    if not 1 <= whole[0] <= max_batch:
        raise WireSizeError(f"tensor {name!r}: a batch of {whole[0]}, at most {max_batch}", limit=max_batch)


def encode_images(images: Sequence[Buffer], codec: str, name: str = "input") -> Tensor:
    """Image files for split point `input`: BYTES of shape [N]. Raises UnknownCodecError, WireError."""
    if codec not in IMAGE_CODECS:
        raise UnknownCodecError.of(codec, IMAGE_CODECS)
    if not images:
        raise WireError("expected at least one image")
    return Tensor.of_bytes(name, images, {P_CODEC: codec})


def _unpack(tensor: Tensor, codec: ActivationCodec, whole: tuple[int, ...], entropy_coded: bool) -> Codes:
    dtype, code_shape = DATATYPES[codec.datatype], codec.code_shape(whole)
    expected = math.prod(code_shape) * dtype.itemsize
    data: Buffer = tensor.items[0]
    if entropy_coded:
        data = entropy.decompress(data, expected)
    if len(data) != expected:
        raise WireError(f"tensor {tensor.name!r}: {len(data)} bytes of codes, expected {expected}")
    return np.frombuffer(data, dtype).reshape(code_shape)


def _finite(array: FloatArray) -> bool:
    # NaN runs through minimum and maximum: two reductions, no temporary array.
    return math.isfinite(array.min()) and math.isfinite(array.max())


def _shortest(value: np.float32) -> float:
    """The double with the fewest digits that rounds to this float32."""
    return float(str(value))
