"""The parts of a profile: the measurement of a cut, and a curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..schema import Cut

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """CUI at every split point.

    Attributes:
        mean: (P,), the mean over the images.
        standard_error: (P,), of the mean.
        n: the number of images.
    """

    mean: Float64Array
    standard_error: Float64Array
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class CutMeasurement:
    """What was measured of one cut on the calibration set.

    Attributes:
        nbytes: mean bytes of the body of a request with one image, as a client sends it.
        encode_ms, decode_ms: milliseconds for one image on one thread.
        images: images of each class row, shape (K,) int64.
        agreeing: those of them whose top-1 class equals the full network's, shape (K,) int64.
        under_loss: share of packets that are lost and not sent again -> agreement that is left.
    """

    cut: Cut
    nbytes: float
    encode_ms: float
    decode_ms: float
    images: Int64Array
    agreeing: Int64Array
    under_loss: Mapping[float, float] = field(default_factory=dict)

    @property
    def split_point(self) -> str:
        """The cut's split point."""
        return self.cut.split_point

    @property
    def codec(self) -> str:
        """The cut's codec."""
        return self.cut.codec

    @property
    def agreement(self) -> float:
        """Share of all images whose top-1 class equals the full network's; NaN without images."""
        total = int(self.images.sum())
        return float(self.agreeing.sum()) / total if total else math.nan
