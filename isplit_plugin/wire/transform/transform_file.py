"""Files of transforms, ``NAME.transforms.safetensors``.

The arrays are safetensors. Everything else is JSON in the metadata, with a SHA-256 over both.
Reading a file runs no code, and everything in it is checked.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...errors import ArtifactError, NetworkMismatchError
from ...files import write_atomically
from ...hashed_arrays import Arrays, pack_arrays, reading, unpack_arrays
from ...schema import SplitPoint
from .coefficients import ALPHABET
from .grid import Grid
from .rans import PRECISION
from .transform import QUALITIES, Transform

FORMAT: Final = 1
MAX_BYTES: Final = 1024**3
MAX_TABLES: Final = 128
MAX_GAIN: Final = 16
MAX_VALUES: Final = 2**27
"""The most values of an activation."""

KEY: Final = "isplit_transforms"
# name -> (dtype, shape in letters: K components, C channels, M means, B bands, T tables,
# A symbols, Q qualities)
_ARRAYS: Final[dict[str, tuple[type[np.generic], str]]] = {
    "encoder": (np.float16, "KC"),
    "decoder": (np.float16, "CK"),
    "mean": (np.float32, "MC"),
    "widths": (np.float16, "KB"),
    "classes": (np.int8, "KB"),
    "tables": (np.uint16, "TA"),
    "centroids": (np.float16, "T3"),
    "gains": (np.float32, "Q"),
}
_NUMBERS: Final = ("step", "low", "high")


def pack_transforms(transforms: Sequence[Transform]) -> bytes:
    """The file of these transforms. Equal transforms give equal bytes."""
    arrays = {
        f"{number}.{name}": np.ascontiguousarray(getattr(transform, name))
        for number, transform in enumerate(transforms)
        for name in _ARRAYS
    }
    return pack_arrays(KEY, described(transforms), arrays)


def transform_sha256(transform: Transform) -> str:
    """SHA-256 of the file of one transform, in hexadecimal digits."""
    return hashlib.sha256(pack_transforms([transform])).hexdigest()


def unpack_transforms(data: bytes, *, where: str = "transforms") -> tuple[Transform, ...]:
    """The inverse of :func:`pack_transforms`. Raises ArtifactError that begins with ``where``."""
    with reading(where, "a file of transforms"):
        description, arrays = unpack_arrays(data, KEY, newest=FORMAT, max_bytes=MAX_BYTES)
        return tuple(
            _transform(raw, {name: arrays[f"{number}.{name}"] for name in _ARRAYS})
            for number, raw in enumerate(description["transforms"])
        )


def save_transforms(path: str | Path, transforms: Sequence[Transform]) -> None:
    """Write a file atomically. Raises ArtifactError if it cannot be written."""
    try:
        write_atomically(path, pack_transforms(transforms))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error})") from error


def load_transforms(path: str | Path) -> tuple[Transform, ...]:
    """Read a file. Raises ArtifactError if it is missing, damaged, newer or of another kind."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return unpack_transforms(data, where=str(path))


def check_transform(
    transform: Transform, network_hash: str, point: SplitPoint, *, where: str = "transform"
) -> None:
    """Check that a transform belongs to this split point of this network.

    Raises NetworkMismatchError for another network, ArtifactError for another split point.
    """
    if transform.network_hash != network_hash:
        raise NetworkMismatchError(
            f"{where} belongs to network {transform.network_hash[:16]}, this one is "
            f"{network_hash[:16]}",
            expected=network_hash,
            found=transform.network_hash,
        )
    expected = point.name, tuple(point.shape), point.channel_axis
    found = transform.split_point, transform.shape, transform.channel_axis
    if found != expected:
        raise ArtifactError(
            f"{where}: expected split point, shape and channel axis {expected}, got {found}"
        )


def described(transforms: Sequence[Transform]) -> dict[str, Any]:
    """The JSON part of a file."""
    parts = [
        {
            "network_hash": transform.network_hash,
            "split_point": transform.split_point,
            "shape": list(transform.shape),
            "channel_axis": transform.channel_axis,
            "spacing": transform.spacing,
            **{name: getattr(transform, name) for name in _NUMBERS},
        }
        for transform in transforms
    ]
    return {"format": FORMAT, "transforms": parts}


def _transform(raw: Mapping[str, Any], arrays: Arrays) -> Transform:
    """One transform, with everything checked. Raises ArtifactError, LookupError, ValueError."""
    shape = tuple(int(size) for size in raw["shape"])
    axis, spacing = int(raw["channel_axis"]), int(raw["spacing"])
    _require(
        0 < len(shape) <= 8 and min(shape) > 0 and math.prod(shape) <= MAX_VALUES,
        f"shape: got {shape[:8]}",
    )
    _require(1 <= axis <= len(shape), f"channel axis: got {axis}")
    _require(0 <= spacing * QUALITIES[-1] <= MAX_TABLES, f"spacing: got {spacing}")
    grid = Grid.of(shape, axis)
    sizes = {
        "K": arrays["encoder"].shape[0],
        "C": shape[axis - 1],
        "M": 1 + grid.prefix,
        "B": grid.band_count,
        "T": arrays["tables"].shape[0],
        "A": ALPHABET,
        "3": 3,
        "Q": len(QUALITIES),
    }
    _require(sizes["K"] <= sizes["C"], f"encoder: {sizes['K']} components of {sizes['C']} channels")
    _require(1 < sizes["T"] <= MAX_TABLES, f"tables: expected at most {MAX_TABLES}")
    for name, (dtype, letters) in _ARRAYS.items():
        array, expected = arrays[name], tuple(sizes[letter] for letter in letters)
        _require(
            array.dtype == dtype and array.shape == expected,
            f"{name}: expected {np.dtype(dtype)} {expected}, got {array.dtype} {array.shape}",
        )
        _require(bool(np.isfinite(array).all()), f"{name}: expected finite values")
    tables = arrays["tables"]
    _require(
        tables.min() >= 1 and bool((tables.sum(axis=1, dtype=np.int64) == 1 << PRECISION).all()),
        f"tables: expected frequencies from 1 on that add up to {1 << PRECISION}",
    )
    _require(bool((arrays["widths"] > 0).all()), "widths: expected positive values")
    _require(bool((np.abs(arrays["centroids"]) <= 1).all()), "centroids: expected -1 to 1")
    gains = arrays["gains"]
    _require(bool(((gains > 0) & (gains <= MAX_GAIN)).all()), f"gains: expected 0 to {MAX_GAIN}")
    numbers = {name: float(raw[name]) for name in _NUMBERS}
    limit = float(np.finfo(np.float32).max)
    _require(
        -limit <= numbers["low"] <= numbers["high"] <= limit,
        f"range: got {numbers['low']} to {numbers['high']}",
    )
    _require(1e-12 < numbers["step"] < 1e12, f"step: got {numbers['step']}")
    fields: dict[str, Any] = {**numbers, **arrays}
    return Transform(
        network_hash=str(raw["network_hash"]),
        split_point=str(raw["split_point"]),
        shape=shape,
        channel_axis=axis,
        spacing=spacing,
        **fields,
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(message)
