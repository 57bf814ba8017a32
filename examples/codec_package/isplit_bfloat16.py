"""An activation codec in a package of its own: bfloat16, the upper half of a float32.

pip install ./examples/codec_package
isplit profile ... --codecs bfloat16,bfloat16+zstd,uint8+zstd
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from isplit_plugin.errors import WireError
from isplit_plugin.wire import Codec, EncodeOptions, Payload, WithZstd

FloatArray = npt.NDArray[np.float32]
LARGEST = float(np.array(0x7F7F0000, np.uint32).view(np.float32))


class Bfloat16(Codec):
    """Eight bits of precision in the range of float32, rounded to the nearest, ties to even."""

    name = "bfloat16"

    def encode(self, activation: FloatArray, options: EncodeOptions) -> Payload:
        bits = np.clip(activation, -LARGEST, LARGEST).view(np.uint32)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        return Payload((rounded >> 16).astype("<u2").tobytes())

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> FloatArray:
        expected = self.max_size(shape)
        if len(payload.data) != expected:
            raise WireError(f"bfloat16: expected {expected} bytes, got {len(payload.data)}")
        upper = np.frombuffer(payload.data, "<u2").astype(np.uint32)
        return (upper << 16).view(np.float32).reshape(shape)

    def max_size(self, shape: tuple[int, ...]) -> int:
        return 2 * math.prod(shape)


CODECS = (Bfloat16(), WithZstd(Bfloat16()))
