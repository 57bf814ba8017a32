"""Bounds of the features that enter the sums of exits, from the first photos of a cut."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

MARGIN: Final = 3.0
"""How many times the spread of the middle 90 % the bounds lie beyond them."""


def bounds_of(
    features: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Bounds (F,) and (F,) from features (N, F).

    They lie ``MARGIN`` times the spread of the middle 90 % beyond it, so that a few photos of one
    device among them move little. A feature that does not vary gets the largest spread.
    """
    low, high = np.quantile(features.astype(np.float64), (0.05, 0.95), axis=0)
    spread = high - low
    spread[spread <= 0] = max(float(spread.max()), 1e-6)
    bounds = low - MARGIN * spread, high + MARGIN * spread
    return bounds[0].astype(np.float32), bounds[1].astype(np.float32)
