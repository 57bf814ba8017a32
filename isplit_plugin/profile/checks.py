"""What must hold of a profile."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import ProfileError
from ..schema import BOTTLENECK_MARK, INPUT, OUTPUT

if TYPE_CHECKING:
    from .measurement import CutMeasurement
    from .profile import Profile

# name -> (dtype, shape in letters: P split points, K class rows)
_ARRAYS: Final[dict[str, tuple[type[np.generic], str]]] = {
    "class_ids": (np.int64, "K"),
    "count": (np.int64, "K"),
    "mean0": (np.float64, "P"),
    "sum1": (np.float64, "KP"),
    "sum2": (np.float64, "KP"),
    "comoment": (np.float64, "PP"),
}


def check(profile: Profile, targets: Collection[str]) -> None:
    """Raise ProfileError if the parts of a profile are inconsistent."""
    points = [point.name for point in profile.split_points]
    _require(len(set(points)) == len(points), f"split points: expected unique names, got {points}")
    _require(
        profile.target in targets, f"target: expected one of {targets}, got {profile.target!r}"
    )
    _check_moments(profile)
    places = {INPUT, OUTPUT, *points}
    for label, times in (("head_ms", profile.head_ms), ("tail_ms", profile.tail_ms)):
        unknown = sorted(name for name in times if _split_point(name) not in places)
        _require(not unknown, f"{label}: unknown split points {unknown[:5]}")
        for name, ms in times.items():
            _require_amount(ms, f"{label}[{name}]", "milliseconds")
    for measurement in profile.measurements:
        _check_measurement(measurement, places, len(profile.class_ids))
    refined = [refinement.split_point for refinement in profile.refinements]
    _require(
        len(set(refined)) == len(refined) and places.issuperset(refined),
        f"refinements: expected split points, each once, got {refined[:5]}",
    )
    for name, values in profile.predictions.items():
        _require(
            len(values) == len(points) and not any(math.isinf(value) for value in values),
            f"predictions[{name}]: expected {len(points)} numbers, got {len(values)}",
        )
    for label, parts in (("correctors", profile.correctors), ("int8_heads", profile.int8_heads)):
        unknown = sorted(set(parts) - set(points))
        _require(not unknown, f"{label}: unknown split points {unknown[:5]}")
    accuracy = profile.accuracy
    _require(accuracy is None or 0 <= accuracy <= 1, f"accuracy: expected 0 to 1, got {accuracy}")


def _check_moments(profile: Profile) -> None:
    sizes = {"P": len(profile.split_points), "K": len(profile.class_ids)}
    for name, (dtype, letters) in _ARRAYS.items():
        shape = tuple(sizes[letter] for letter in letters)
        _check_array(name, getattr(profile, name), dtype, shape)
    ids = profile.class_ids
    _require(len(np.unique(ids)) == len(ids), "class_ids: expected every class once")
    if len(ids):
        _require(
            ids.min() >= 0 and ids.max() < len(profile.classes),
            f"class_ids: expected 0 to {len(profile.classes) - 1}, got {ids.min()} to {ids.max()}",
        )
    _require(bool((profile.count >= 0).all()), "count: expected no negative values")
    _require(bool((profile.sum2 >= 0).all()), "sum2: expected no negative values")
    _require(
        bool((np.diag(profile.comoment) >= 0).all()),
        "comoment: expected no negative values on the diagonal",
    )
    dof = profile.comoment_dof
    _require(dof >= 0, f"comoment_dof: expected at least 0, got {dof}")


def _check_measurement(measurement: CutMeasurement, places: Collection[str], rows: int) -> None:
    label = f"measurement {measurement.cut}"
    is_known = _split_point(measurement.split_point) in places
    _require(is_known, f"{label}: unknown split point")
    _require_amount(measurement.nbytes, label, "bytes")
    _require_amount(measurement.encode_ms, label, "milliseconds")
    _require_amount(measurement.decode_ms, label, "milliseconds")
    _check_array(f"{label}: images", measurement.images, np.int64, (rows,))
    _check_array(f"{label}: agreeing", measurement.agreeing, np.int64, (rows,))
    _require(
        bool(((measurement.agreeing >= 0) & (measurement.agreeing <= measurement.images)).all()),
        f"{label}: expected 0 <= agreeing <= images",
    )
    for loss, agreement in measurement.under_loss.items():
        _require(
            0 < loss < 1 and 0 <= agreement <= 1,
            f"{label}: expected shares, got an agreement of {agreement} under a loss of {loss}",
        )


def _split_point(name: str) -> str:
    """The split point of a bottleneck's name; any other name as it is."""
    return name.rpartition(BOTTLENECK_MARK)[0] or name


def _check_array(name: str, array: object, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    expected = f"{name}: expected {np.dtype(dtype)} {shape}"
    if not isinstance(array, np.ndarray):
        raise ProfileError(f"{expected}, got {type(array).__name__}")
    if array.dtype != dtype or array.shape != shape:
        raise ProfileError(f"{expected}, got {array.dtype} {array.shape}")
    _require(bool(np.isfinite(array).all()), f"{name}: expected finite values")


def _require_amount(value: float, name: str, unit: str) -> None:
    _require(math.isfinite(value) and value >= 0, f"{name}: expected {unit}, got {value}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ProfileError(message)
