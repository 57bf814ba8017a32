"""Checks of the arrays in a file of exits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ExitError
from ..hashed_arrays import Arrays


def malformed(message: str) -> ExitError:
    """The error of a file that cannot be read."""
    return ExitError(message, reason="malformed")


def require_array(
    arrays: Arrays, name: str, dtype: type[np.generic], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The array, checked: its type, its shape, and that all values are finite. Raises ValueError."""
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"expected an array {name!r}")
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values")
    return array
