"""A codec with several qualities: so many bits of each value, between fixed ends."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from isplit_plugin.errors import WireError
from isplit_plugin.wire import Codec, EncodeOptions, Payload

END = 8.0
QUALITIES = (1, 3, 12)


class Rated(Codec):
    """``rated@3`` keeps 3 bits of each value from -8 to 8, in one byte or in two."""

    name = "rated"
    qualities = QUALITIES

    def encode(self, activation: npt.NDArray[np.float32], options: EncodeOptions) -> Payload:
        assert options.quality in QUALITIES
        top = 2**options.quality - 1
        codes = np.rint((np.clip(activation, -END, END) + END) / (2 * END) * top)
        return Payload(codes.astype(self._dtype(options.quality)).tobytes())

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        assert payload.quality in QUALITIES
        dtype = self._dtype(payload.quality)
        if len(payload.data) != math.prod(shape) * dtype.itemsize:
            raise WireError(f"rated@{payload.quality}: got {len(payload.data)} bytes")
        codes = np.frombuffer(payload.data, dtype).reshape(shape).astype(np.float32)
        decoded: npt.NDArray[np.float32] = codes / (2**payload.quality - 1) * 2 * END - END
        return decoded.astype(np.float32)

    def max_size(self, shape: tuple[int, ...]) -> int:
        return 2 * math.prod(shape)

    @staticmethod
    def _dtype(quality: int) -> np.dtype[np.uint16] | np.dtype[np.uint8]:
        return np.dtype(np.uint8) if quality <= 8 else np.dtype("<u2")
