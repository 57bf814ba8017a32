"""Activations, and photos at split point `input`, as tensors of the protocol.

fp32, fp16 and uint8 travel as plain tensors of that datatype, which any peer reads. Every other
codec's bytes travel as BYTES of shape [1] with the parameters ``isplit_codec``, the coding (the
codec's name and, where it has several qualities, the quality: ``dct@3``), and ``isplit_shape``,
the shape with the batch, such as ``1,512,28,28``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import UnknownCodecError, WireError, WireSizeError
from ..schema import IMAGE_CODECS, FloatArray
from .codec import EncodeOptions, Payload
from .codecs import find_coding
from .parameters import P_CODEC, P_SHAPE, read_text
from .plain import PLAIN_CODECS
from .quantize import Ranges
from .reader import Buffer
from .tensor import BYTES, DATATYPES, Tensor, parse_shape, raw_bytes
from .transform.transform import Transform

DEFAULT_MAX_BATCH: Final = 64
"""The largest batch that a tail accepts by default."""

_DATATYPES: Final = {codec.name: codec.datatype for codec in PLAIN_CODECS}
_BY_DATATYPE: Final = {codec.datatype: codec.name for codec in PLAIN_CODECS}


def encode_activation(
    array: npt.NDArray[Any],
    codec: str,
    name: str = "activation",
    *,
    channel_axis: int = 1,
    ranges: Ranges | None = None,
    transform: Transform | None = None,
) -> Tensor:
    """Code an activation.

    Parameters:
        array: Floating-point numbers (N, ...).
        codec: The coding: a codec's name, with a quality where it has several (``dct@3``).
        name: The tensor's name.
        channel_axis: The axis of the channels, counted with the batch as
            :attr:`SplitPoint.channel_axis` is. Only codecs per channel use it.
        ranges: Ranges from :func:`calibrate`. Without them a codec uses each item's own.
        transform: The transform that was fitted for the split point, for the codec ``dct``.

    Raises:
        UnknownCodecError: No codec has this name, or it has no such quality.
        WireError: The array is empty or has no batch, a value is NaN or infinite, or ranges,
            channel axis or transform do not fit.
    """
    coder, quality = find_coding(codec)
    activation = _finite_activation(array)
    options = EncodeOptions(
        channel_axis=channel_axis, ranges=ranges, quality=quality, transform=transform
    )
    payload = coder.encode(activation, options)
    datatype = _DATATYPES.get(codec)
    if datatype is not None:
        codes = np.frombuffer(payload.data, DATATYPES[datatype]).reshape(activation.shape)
        return Tensor(name, datatype, activation.shape, codes, payload.parameters)
    shape = ",".join(map(str, activation.shape))
    parameters = {P_CODEC: codec, P_SHAPE: shape, **payload.parameters}
    return Tensor.of_bytes(name, [payload.data], parameters)


def decode_activation(
    tensor: Tensor,
    *,
    shape: Sequence[int],
    max_batch: int = DEFAULT_MAX_BATCH,
    transform: Transform | None = None,
) -> FloatArray:
    """Read an activation (N, *shape), 1 <= N <= max_batch, as finite, row-major float32.

    The array is writable. A plain fp32 tensor is not copied where its body is writable and
    aligned.

    Parameters:
        tensor: The tensor from the network.
        shape: The split point's shape, without the batch.
        max_batch: The largest batch that is accepted.
        transform: The transform of the split point, for the codec ``dct``.

    Raises WireError, also for an unknown codec; WireSizeError for a batch that is too large.
    """
    try:
        name, full_shape = activation_layout(tensor)
    except UnknownCodecError as error:
        raise WireError(error.message) from error
    check_batch(full_shape, shape, max_batch, tensor.name)
    data = tensor.items[0] if tensor.datatype == BYTES else raw_bytes(tensor.array)
    codec, quality = find_coding(name)
    activation = codec.decode(Payload(data, tensor.parameters, quality, transform), full_shape)
    if activation.shape != full_shape:
        raise WireError(
            f"tensor {tensor.name!r}: codec {name!r} decoded the shape {list(activation.shape)}, "
            f"expected {list(full_shape)}"
        )
    if not _is_finite(activation):
        raise WireError(f"tensor {tensor.name!r}: NaN or infinite values")
    return np.require(activation, np.float32, ["C", "A", "W"])


def activation_layout(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """The coding and the shape, with the batch, that a tensor states. Its data are not read.

    Raises WireError; UnknownCodecError for a codec that this process does not know.
    """
    if tensor.datatype == BYTES:
        if tensor.shape != (1,):
            raise WireError(
                f"tensor {tensor.name!r}: a coded activation is BYTES of shape [1], "
                f"got {list(tensor.shape)}"
            )
        coding = read_text(tensor.parameters.get(P_CODEC), P_CODEC)
        find_coding(coding)
        return coding, parse_shape(tensor.parameters.get(P_SHAPE), P_SHAPE)
    plain = _BY_DATATYPE.get(tensor.datatype)
    stated = tensor.parameters.get(P_CODEC, plain)
    if plain is None or stated != plain:
        raise WireError(
            f"tensor {tensor.name!r}: {tensor.datatype} with codec {stated!a}; "
            f"activations travel as {', '.join(_BY_DATATYPE)}, or as BYTES with {P_CODEC}"
        )
    return plain, tensor.shape


def check_batch(
    full_shape: Sequence[int], shape: Sequence[int], max_batch: int, tensor_name: str
) -> None:
    """Check that ``full_shape`` is (N, *shape) with 1 <= N <= max_batch.

    Raises WireError; WireSizeError for a batch that is too large.
    """
    if len(full_shape) != len(shape) + 1 or list(full_shape[1:]) != list(shape):
        raise WireError(
            f"tensor {tensor_name!r}: expected shape [N, {', '.join(map(str, shape))}], "
            f"got {list(full_shape)}"
        )
    if not 1 <= full_shape[0] <= max_batch:
        raise WireSizeError(
            f"tensor {tensor_name!r}: a batch of {full_shape[0]}, at most {max_batch}",
            limit=max_batch,
        )


def calibrate(
    activations: Iterable[npt.NDArray[Any]], codec: str, *, channel_axis: int = 1
) -> Ranges:
    """Find ranges for :func:`encode_activation` in the activations (N, ...) of a calibration set.

    Raises:
        UnknownCodecError: No codec has this name.
        WireError: The codec uses no ranges, there are no activations, or a value is not finite.
    """
    return find_coding(codec)[0].calibrate(map(_finite_activation, activations), channel_axis)


def encode_images(images: Sequence[Buffer], codec: str, name: str = "input") -> Tensor:
    """Image files for split point `input`, as BYTES of shape [N].

    ``codec``: the coding, such as ``webp@75`` or ``file``. Raises UnknownCodecError, and WireError
    without images.
    """
    if codec.partition("@")[0] not in IMAGE_CODECS:
        raise UnknownCodecError.of(codec, IMAGE_CODECS)
    if not images:
        raise WireError("expected at least one image")
    return Tensor.of_bytes(name, images, {P_CODEC: codec})


def _finite_activation(array: npt.NDArray[Any]) -> FloatArray:
    """The array as C-contiguous float32. Raises WireError where no codec can carry it."""
    if array.ndim < 2 or array.size == 0:
        raise WireError(f"expected an activation of shape (N, ...), got {array.shape}")
    activation = np.ascontiguousarray(array, np.float32)
    if not _is_finite(activation):
        raise WireError("the activation holds NaN or infinite values")
    return activation


def _is_finite(array: FloatArray) -> bool:
    # NaN passes through minimum and maximum: two reductions, and no temporary array.
    return math.isfinite(array.min()) and math.isfinite(array.max())
