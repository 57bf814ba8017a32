"""The codec ``dct``: transform coding with a transform that was fitted for the split point.

The payload of N items, little-endian::

    version u8 = 1 | length of each item but the last, u32 | items (:mod:`.transform.coefficients`)
"""

from __future__ import annotations

import math
import struct
from typing import Final

import numpy as np

from ..errors import WireError
from ..schema import TRANSFORM_CODEC, FloatArray
from .codec import Codec, EncodeOptions, Payload
from .reader import Reader
from .transform import coefficients
from .transform.transform import QUALITIES, Transform

VERSION: Final = 1


class Dct(Codec):
    """Components that matter most to the answer, their DCT over the grid, and an rANS coder.

    It needs the transform of the split point, which ``isplit profile`` fits.
    """

    @property
    def name(self) -> str:
        return TRANSFORM_CODEC

    @property
    def qualities(self) -> tuple[int, ...]:
        return QUALITIES

    @property
    def needs_transform(self) -> bool:
        return True

    def encode(self, activation: FloatArray, options: EncodeOptions) -> Payload:
        transform, quality = _checked(options.transform, options.quality, activation.shape)
        items = [transform.encode(item, quality) for item in activation]
        lengths = struct.pack(f"<{len(items) - 1}I", *map(len, items[:-1]))
        return Payload(b"".join([bytes([VERSION]), lengths, *items]))

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> FloatArray:
        transform, quality = _checked(payload.transform, payload.quality, shape)
        reader = Reader(payload.data, f"codec {self.name!r}")
        (version,) = reader.take(1)
        if version != VERSION:
            raise WireError(f"codec {self.name!r}: expected version {VERSION}, got {version}")
        lengths = reader.unpack(struct.Struct(f"<{shape[0] - 1}I"))
        activation = np.empty(shape, np.float32)
        for number, length in enumerate([*lengths, None]):
            size = reader.remaining if length is None else length
            item = Reader(reader.take(size), f"codec {self.name!r}, item {number}")
            activation[number] = transform.decode(item, quality)
            item.finish()
        return activation

    def max_size(self, shape: tuple[int, ...]) -> int:
        return 1 + shape[0] * (4 + coefficients.max_size(math.prod(shape[1:])))


def _checked(
    transform: Transform | None, quality: int | None, shape: tuple[int, ...]
) -> tuple[Transform, int]:
    """Transform and quality. Raises WireError without them, and for another shape."""
    if transform is None:
        raise WireError(
            "codec 'dct' needs a transform that was fitted for the split point: isplit profile "
            "fits it, isplit package ships it"
        )
    if shape[1:] != transform.shape:
        raise WireError(
            f"codec 'dct': the transform of {transform.split_point!r} takes items of shape "
            f"{transform.shape}, got {shape[1:]}"
        )
    if quality not in QUALITIES:
        raise WireError(
            f"codec 'dct': expected a quality from {QUALITIES[0]} to {QUALITIES[-1]}, got {quality}"
        )
    return transform, quality


DCT: Final = Dct()
