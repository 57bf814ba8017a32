"""Activation codecs: how an array of float32 becomes a tensor on the wire, and back.

Names, and nothing else is one::

    fp32 | fp16 | uint8 | q<2-8>[c][+rle]        each also with +zstd behind it

A codec is one class: a name, the datatype that it sends, ``encode`` and ``decode``; the ``q`` family, whose payload is
its own (:mod:`.linear`), stands beside them. ``register`` adds a codec, and with it ``<name>+zstd``, the same codes
behind a general entropy coder. On the wire a plain code names itself by its datatype (any peer can read it);
everything else is BYTES of shape [1] with ``isplit_codec``, ``isplit_datatype`` and ``isplit_shape``, the batch first
in the shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import UnknownCodecError, WireError, WireSizeError
from ..schema import FloatArray
from . import entropy, quantize
from .linear import FAMILY, LinearCodec
from .plain import ActivationCodec, Codes, Fp16, Fp32, Uint8
from .quantize import Ranges
from .tensor import BYTES, DATATYPES, Buffer, Scalar, Tensor, parse_shape, raw_bytes, text

IMAGE_CODECS: Final = ("jpeg", "file")
"""At split point `input`: "jpeg", the photo cropped on the device; "file", the photo as it is."""
DEFAULT_MAX_BATCH: Final = 64

P_CODEC: Final = "isplit_codec"
P_DATATYPE: Final = "isplit_datatype"
P_SHAPE: Final = "isplit_shape"


_CODECS: Final[dict[str, ActivationCodec | LinearCodec]] = {}
_BY_DATATYPE: Final[dict[str, str]] = {}
_ZSTD: Final = "+zstd"


def register(codec: ActivationCodec | LinearCodec) -> None:
    """Add a codec. The first of a datatype is the one that a tensor without ``isplit_codec`` means."""
    _CODECS[codec.name] = codec
    _BY_DATATYPE.setdefault(codec.datatype, codec.name)


def codec_names() -> tuple[str, ...]:
    """The activation codecs known in this process, each also with "+zstd"."""
    return tuple(name + suffix for name in _CODECS for suffix in ("", _ZSTD))


_BUILT_IN: Final[tuple[ActivationCodec | LinearCodec, ...]] = (Fp32(), Fp16(), Uint8(), *FAMILY)
for _codec in _BUILT_IN:
    register(_codec)
CODECS: Final = (
    *("fp32", "fp32+zstd", "fp16", "fp16+zstd", "uint8", "uint8+zstd"),
    *("q6+zstd", "q4+zstd", "q4+rle+zstd", "q4c+zstd", "q3c+zstd", "q2c+zstd"),
)
"""What is measured and accepted unless told otherwise: of :func:`codec_names` those that were the smallest within a
percentage point of agreement somewhere (docs/explanation/codecs.md). With "+rle" and without it the result is the same."""


def describe(names: Iterable[str]) -> str:
    """Codec names for people: the members of the ``q`` family that are all there are written as one pattern."""
    found = list(dict.fromkeys(names))
    family = {codec.name + suffix for codec in FAMILY for suffix in ("", _ZSTD)}
    if not family <= set(found):
        return ", ".join(found) or "none"
    rest = [name for name in found if name not in family]
    return ", ".join([*rest, "q<2-8>[c][+rle][+zstd]"])


def unknown_codec(
    name: object, accepted: Iterable[str], known: Iterable[str] | None = None, *, at: str = ""
) -> UnknownCodecError:
    """The error for a codec that one side lacks: it names what the other side accepts (at
    split point ``at``) and what this side knows."""
    theirs, ours = list(accepted), list(codec_names() if known is None else known)
    return UnknownCodecError(
        f"unknown codec {str(name)[:200]!r}{f' at {at!r}' if at else ''}; "
        f"known: {describe(theirs)} (accepted by the tail); this side codes: {describe(ours)}",
        known=theirs,
        here=ours,
    )


def _get(name: str) -> tuple[ActivationCodec | LinearCodec, bool]:
    codec = _CODECS.get(name.removesuffix(_ZSTD))
    if codec is None:
        names = (*codec_names(), *IMAGE_CODECS)
        raise UnknownCodecError(
            f"unknown codec {name[:200]!r}; known: {describe(names)}", known=list(names)
        )
    return codec, name.endswith(_ZSTD)


def encode_activation(
    array: npt.NDArray[Any],
    codec: str,
    name: str = "activation",
    *,
    channel_axis: int = 1,
    ranges: Ranges | None = None,
) -> Tensor:
    """Code an activation (N, ...) of floating point numbers.

    ``channel_axis``, for codecs per channel, counts the batch, as :attr:`SplitPoint.channel_axis` does; it travels in
    the payload. ``ranges``, for the ``q`` family: from :func:`calibrate`, instead of each item's own.

    Raises UnknownCodecError; WireError for an empty array, for NaN or infinite values, which no codec carries, and for
    ranges or a channel axis that do not fit.
    """
    coder, entropy_coded = _get(codec)
    if array.ndim < 2 or array.size == 0:
        raise WireError(f"expected an activation of shape (N, ...), got {array.shape}")
    plain = np.ascontiguousarray(array, np.float32)
    if not _finite(plain):
        raise WireError("the activation holds NaN or infinite values")
    data: Buffer
    parameters: dict[str, Scalar] = {}
    if isinstance(coder, LinearCodec):
        data = coder.encode(
            plain, channel_axis=channel_axis, ranges=ranges, entropy_coded=entropy_coded
        )
    else:
        codes, parameters = coder.encode(plain)
        if not entropy_coded and _BY_DATATYPE[coder.datatype] == coder.name:
            return Tensor.of(name, codes, parameters)
        data = raw_bytes(codes)
    shape = ",".join(map(str, plain.shape))
    described = {P_CODEC: codec, P_DATATYPE: coder.datatype, P_SHAPE: shape, **parameters}
    return Tensor.of_bytes(name, [entropy.compress(data) if entropy_coded else data], described)


def calibrate(
    activations: Iterable[npt.NDArray[Any]], codec: str, *, channel_axis: int = 1
) -> Ranges:
    """Ranges for :func:`encode_activation` from activations (N, ...) of a calibration set.

    Raises UnknownCodecError where the codec is none of the ``q`` family, WireError without finite activations.
    """
    coder, _ = _get(codec)
    if not isinstance(coder, LinearCodec):
        raise UnknownCodecError.of(codec, (c.name for c in FAMILY))
    rows = []
    for array in activations:
        plain = np.ascontiguousarray(array, np.float32)
        if plain.ndim < 2 or plain.size == 0 or not _finite(plain):
            raise WireError(f"expected finite activations of shape (N, ...), got {plain.shape}")
        rows += [coder.rows(item, channel_axis) for item in plain]
    return quantize.calibrate(rows, coder.bits)


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
        raise WireError(
            f"tensor {tensor.name!r}: a coded activation is BYTES of shape [1], got {list(tensor.shape)}"
        )
    name = text(tensor.parameters.get(P_CODEC), P_CODEC)
    codec, _ = _get(name)
    if tensor.parameters.get(P_DATATYPE) != codec.datatype:
        raise WireError(
            f"tensor {tensor.name!r}: {P_DATATYPE} of codec {name!r} is {codec.datatype}"
        )
    return name, parse_shape(tensor.parameters.get(P_SHAPE), P_SHAPE)


def decode_activation(
    tensor: Tensor, *, shape: Sequence[int], max_batch: int = DEFAULT_MAX_BATCH
) -> FloatArray:
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
    if isinstance(codec, LinearCodec):
        payload: Buffer = tensor.items[0]
        if entropy_coded:
            payload = entropy.decompress(
                payload, entropy.content_size(payload, codec.max_size(whole))
            )
        array = codec.decode(memoryview(payload), whole, entropy_coded=entropy_coded)
    else:
        codes = (
            _unpack(tensor, codec, whole, entropy_coded)
            if tensor.datatype == BYTES
            else tensor.array
        )
        array = codec.decode(codes, tensor.parameters, whole)
    if not _finite(array):
        raise WireError(f"tensor {tensor.name!r}: NaN or infinite values")
    return np.require(array, np.float32, ["C", "A", "W"])


def check_batch(whole: Sequence[int], shape: Sequence[int], max_batch: int, name: str) -> None:
    """Refuse a shape that is not (1 to max_batch, *shape). Raises WireError, WireSizeError for a batch too large."""
    if len(whole) != len(shape) + 1 or list(whole[1:]) != list(shape):
        raise WireError(
            f"tensor {name!r}: expected shape [N, {', '.join(map(str, shape))}], got {list(whole)}"
        )
    if not 1 <= whole[0] <= max_batch:
        raise WireSizeError(
            f"tensor {name!r}: a batch of {whole[0]}, at most {max_batch}", limit=max_batch
        )


def encode_images(images: Sequence[Buffer], codec: str, name: str = "input") -> Tensor:
    """Image files for split point `input`: BYTES of shape [N]. Raises UnknownCodecError, WireError."""
    if codec not in IMAGE_CODECS:
        raise UnknownCodecError.of(codec, IMAGE_CODECS)
    if not images:
        raise WireError("expected at least one image")
    return Tensor.of_bytes(name, images, {P_CODEC: codec})


def _unpack(
    tensor: Tensor, codec: ActivationCodec, whole: tuple[int, ...], entropy_coded: bool
) -> Codes:
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
