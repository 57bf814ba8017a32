"""The codec ``dct``: transform coding with a transform that was fitted for the split point.

The payload of N items, little-endian::

    version u8 = 1 | length of each item but the last, u32 | items (:mod:`.coefficients`)
"""

from __future__ import annotations

import math
import struct
from typing import Final

import numpy as np

from ...errors import WireError
from ...schema import FloatArray
from ..reader import Reader
from . import coefficients
from .transform import QUALITIES, Transform

NAME: Final = "dct"
VERSION: Final = 1


def encode_items(activation: FloatArray, transform: Transform | None, quality: int | None) -> bytes:
    """Write a finite activation (N, *shape).

    Raises WireError for another shape, without a transform, or for an unknown quality.
    """
    fitted, known_quality = _checked(transform, quality, activation.shape)
    items = [fitted.encode(item, known_quality) for item in activation]
    lengths = struct.pack(f"<{len(items) - 1}I", *map(len, items[:-1]))
    return b"".join([bytes([VERSION]), lengths, *items])


def decode_items(
    data: bytes | bytearray | memoryview,
    shape: tuple[int, ...],
    transform: Transform | None,
    quality: int | None,
) -> FloatArray:
    """Read an activation of ``shape`` (N, ...). Raises WireError."""
    fitted, known_quality = _checked(transform, quality, shape)
    reader = Reader(data, f"codec {NAME!r}")
    (version,) = reader.take(1)
    if version != VERSION:
        raise WireError(f"codec {NAME!r}: expected version {VERSION}, got {version}")
    lengths = reader.unpack(struct.Struct(f"<{shape[0] - 1}I"))
    activation = np.empty(shape, np.float32)
    for number, length in enumerate([*lengths, None]):
        size = reader.remaining if length is None else length
        item = Reader(reader.take(size), f"codec {NAME!r}, item {number}")
        activation[number] = fitted.decode(item, known_quality)
        item.finish()
    return activation


def max_size(shape: tuple[int, ...]) -> int:
    """An upper bound of the payload's bytes for an activation of ``shape`` (N, ...)."""
    return 1 + shape[0] * (4 + coefficients.max_size(math.prod(shape[1:])))


def _checked(
    transform: Transform | None, quality: int | None, shape: tuple[int, ...]
) -> tuple[Transform, int]:
    if transform is None:
        raise WireError(
            f"codec {NAME!r} needs a transform that was fitted for the split point: "
            "isplit profile fits it, isplit package ships it"
        )
    if shape[1:] != transform.shape:
        raise WireError(
            f"codec {NAME!r}: the transform of {transform.split_point!r} takes items of shape "
            f"{transform.shape}, got {shape[1:]}"
        )
    if quality not in QUALITIES:
        raise WireError(
            f"codec {NAME!r}: expected a quality from {QUALITIES[0]} to {QUALITIES[-1]}, "
            f"got {quality}"
        )
    return transform, quality
