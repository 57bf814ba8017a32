"""The spatial positions of an activation, and the discrete cosine transform over them.

The positions of an item are ``prefix`` tokens that stand alone, such as a class token, and then a
grid of rows and columns. An activation without spatial axes has a grid of 1 x 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ...schema import FloatArray


@dataclass(frozen=True)
class Grid:
    """``prefix`` positions that stand alone, then ``height`` x ``width``.

    Attributes:
        positions: their number, P.
        bands: (P,), the band of each coefficient: 0 to height + width - 2 for the diagonals of the
            transform, and one for each position of the prefix behind them.
    """

    prefix: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: tuple[int, ...], channel_axis: int) -> Grid:
        """The grid of an activation of ``shape``, without the batch.

        Two spatial axes are rows and columns; of more, all but the last are rows. Of one axis with
        n * n or n * n + 1 positions, n > 1, the last n * n are the tokens of a square picture. Any
        other single axis is one row.
        """
        sizes = [size for axis, size in enumerate(shape, start=1) if axis != channel_axis]
        if len(sizes) != 1:
            return cls(0, math.prod(sizes[:-1]), sizes[-1] if sizes else 1)
        (tokens,) = sizes
        side = math.isqrt(tokens)
        if side > 1 and tokens - side * side <= 1:
            return cls(tokens - side * side, side, side)
        return cls(0, 1, tokens)

    @property
    def positions(self) -> int:
        return self.prefix + self.height * self.width

    @property
    def band_count(self) -> int:
        """The number of bands."""
        return self.height + self.width - 1 + self.prefix

    @cached_property
    def bands(self) -> npt.NDArray[np.intp]:
        diagonals = np.add.outer(np.arange(self.height), np.arange(self.width)).ravel()
        alone = self.height + self.width - 1 + np.arange(self.prefix)
        return np.concatenate([alone, diagonals])

    def transform(self, values: FloatArray) -> FloatArray:
        """DCT-II, orthonormal, over the grid: (..., P) -> (..., P)."""
        return self._both_axes(values, dct_matrix(self.height), dct_matrix(self.width))

    def inverse(self, coefficients: FloatArray) -> FloatArray:
        """The inverse of :meth:`transform`."""
        return self._both_axes(coefficients, dct_matrix(self.height).T, dct_matrix(self.width).T)

    def _both_axes(self, values: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
        pixels = values[..., self.prefix :]
        picture = pixels.reshape(*values.shape[:-1], self.height, self.width)
        changed: FloatArray = np.matmul(np.matmul(rows, picture), columns.T).reshape(pixels.shape)
        if not self.prefix:
            return changed
        return np.concatenate([values[..., : self.prefix], changed], axis=-1)


def channels_first(item: npt.NDArray[Any], channel_axis: int) -> npt.NDArray[Any]:
    """One item (...) as (C, P). ``channel_axis`` counts the batch."""
    moved = np.moveaxis(item, channel_axis - 1, 0)
    return moved.reshape(len(moved), -1)


def channels_back(
    values: npt.NDArray[Any], shape: tuple[int, ...], channel_axis: int
) -> npt.NDArray[Any]:
    """The inverse of :func:`channels_first`: (C, P) as ``shape``, without the batch."""
    axis = channel_axis - 1
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.moveaxis(values.reshape(moved), 0, axis)


@lru_cache(maxsize=32)
def dct_matrix(size: int) -> FloatArray:
    """The orthonormal DCT-II (Ahmed, Natarajan & Rao 1974) as a matrix (size, size)."""
    order = np.arange(size)
    angles = np.outer(order, 2 * order + 1) * (np.pi / (2 * size))
    matrix = np.cos(angles) * np.sqrt(2 / size)
    matrix[0] = np.sqrt(1 / size)
    result: FloatArray = matrix.astype(np.float32)
    return result
