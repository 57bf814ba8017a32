"""The features of an exit: what a device and a tail both compute from an activation.

Both compute them from the decoded activation, the same numbers, or their margins would differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ..errors import DataError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

Pooling = Literal["mean", "grid"]
"""How positions are pooled: to one mean for each channel; or, with each axis of positions halved, to
a mean for each channel in each cell, 4 C features of (C, H, W)."""

POOLINGS: Final[tuple[Pooling, ...]] = ("mean", "grid")
"""All poolings."""
GRID_FEATURES: Final = 768
"""The most features for which the grid is usual."""
MAX_FEATURES: Final = 2048
"""The most features that sums and exits have: the matrix of the sums has their square."""


def usual_pooling(shape: Sequence[int], channel_axis: int = 1) -> Pooling:
    """The grid where it has at most ``GRID_FEATURES`` features, else the mean.

    A grid is much better where objects are aligned, as letters and X-rays are, and about as good
    elsewhere. Raises DataError, as :func:`feature_count`.
    """
    return "grid" if feature_count(shape, channel_axis, "grid") <= GRID_FEATURES else "mean"


def feature_count(shape: Sequence[int], channel_axis: int = 1, pooling: Pooling = "mean") -> int:
    """How many features :func:`pool` makes of an activation of this shape (without batch).

    Raises DataError for no such axis or pooling.
    """
    axis = _axis(tuple(shape), channel_axis)
    return int(shape[axis]) * len(_cells(tuple(shape), axis, check_pooling(pooling)))


def pool(activation: npt.ArrayLike, channel_axis: int = 1, pooling: Pooling = "mean") -> F32:
    """The features of one activation, float32 of shape (:func:`feature_count`,).

    The features of a grid come cell by cell, the last axis of positions first.

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
    axis = _axis(values.shape, channel_axis)
    cells = _cells(values.shape, axis, check_pooling(pooling))
    channels_first = np.moveaxis(values, axis, 0)
    features = np.concatenate(
        [
            channels_first[(slice(None), *cell)]
            .reshape(values.shape[axis], -1)
            .mean(axis=1, dtype=np.float64)
            for cell in cells
        ]
    )
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


def _axis(shape: tuple[int, ...], channel_axis: int) -> int:
    axis = channel_axis - 1
    if not 0 <= axis < len(shape) or min(shape) < 1:
        raise DataError(
            f"activation: expected values with a channel axis {channel_axis} (counted with the "
            f"batch), got shape {shape}"
        )
    return axis


def _cells(shape: tuple[int, ...], axis: int, pooling: Pooling) -> list[tuple[slice, ...]]:
    """The cells of the positions, which are all axes but the channels'.

    The middle of an odd axis belongs to both halves, as in adaptive pooling.
    """
    positions = [size for index, size in enumerate(shape) if index != axis]
    halves = [
        [slice(None)]
        if pooling == "mean" or size < 2
        else [slice((size + 1) // 2), slice(size // 2, None)]
        for size in positions
    ]
    return list(product(*halves))
