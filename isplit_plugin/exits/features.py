"""The features of an exit: what a device and a tail both compute from an activation.

Both compute them from the decoded activation, the same numbers, or their margins would differ.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ..errors import DataError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

Pooling = Literal["mean", "mean+max"]
"""How positions are pooled: C features, or the C means and then the C maxima."""

POOLINGS: Final[tuple[Pooling, ...]] = ("mean", "mean+max")
"""All poolings."""
MAX_FEATURES: Final = 2048
"""The most features that sums and exits have: the matrix of the sums has their square."""


def pool(activation: npt.ArrayLike, channel_axis: int = 1, pooling: Pooling = "mean") -> F32:
    """The features of one activation, as float32 of shape (C,) or, for "mean+max", (2 C,).

    The sums are made in float64, so the layout in memory does not matter.

    Parameters:
        activation: without batch: (C, H, W), (tokens, C) or (C,), numbers of any type.
        channel_axis: counted with the batch, as :attr:`SplitPoint.channel_axis`: 1 for (C, H, W)
            and (C,), 2 for (tokens, C).
        pooling: one of ``POOLINGS``.

    Raises:
        DataError: no such axis or pooling, no values, or values that are not finite.
    """
    values = np.asarray(activation)
    axis = channel_axis - 1
    if not 0 <= axis < values.ndim or not values.size:
        raise DataError(
            f"activation: expected values with a channel axis {channel_axis} (counted with the "
            f"batch), got shape {values.shape}"
        )
    check_pooling(pooling)
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    features = rows.mean(axis=1, dtype=np.float64)
    if pooling == "mean+max":
        features = np.concatenate((features, rows.max(axis=1).astype(np.float64)))
    with np.errstate(over="ignore"):
        pooled: F32 = features.astype(np.float32)
    if not np.isfinite(pooled).all():
        raise DataError("activation: expected finite values, got infinite ones or NaN")
    return pooled


def check_pooling(pooling: str) -> Pooling:
    """``pooling``, if it is one of ``POOLINGS``. Raises DataError."""
    if pooling not in POOLINGS:
        raise DataError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r:.80}")
    return pooling
