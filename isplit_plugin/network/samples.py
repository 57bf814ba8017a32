"""What was measured of one cut, image by image."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from ..schema import FloatArray

COLUMNS: Final = 5


@dataclass(slots=True)
class Samples:
    """One value for each image so far; NaN for an image that was not measured.

    Attributes:
        nbytes: of the body of its requests.
        encode_ms, decode_ms: NaN too for an image of another process.
        agrees: 1 where its top-1 class is the full network's, else 0.
        margins: the probability of its first class less that of its second; NaN for photos.
    """

    nbytes: array[float] = field(default_factory=lambda: array("d"))
    encode_ms: array[float] = field(default_factory=lambda: array("d"))
    decode_ms: array[float] = field(default_factory=lambda: array("d"))
    agrees: array[float] = field(default_factory=lambda: array("d"))
    margins: array[float] = field(default_factory=lambda: array("d"))

    def add(self, nbytes: float, encode_s: float, decode_s: float) -> None:
        self.nbytes.append(nbytes)
        self.encode_ms.append(1e3 * encode_s)
        self.decode_ms.append(1e3 * decode_s)

    def skip(self) -> None:
        """One image that cannot be measured."""
        for values in self._columns:
            values.append(math.nan)

    def to_array(self) -> FloatArray:
        """Bytes, encode and decode times, agreement and margins, as rows (COLUMNS, N)."""
        return np.stack([np.array(values) for values in self._columns])

    @classmethod
    def of(cls, rows: npt.NDArray[np.float64]) -> Self:
        """The inverse of :meth:`to_array`."""
        return cls(*(array("d", row.tolist()) for row in rows))

    @property
    def _columns(self) -> tuple[array[float], ...]:
        return self.nbytes, self.encode_ms, self.decode_ms, self.agrees, self.margins
