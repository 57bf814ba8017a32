"""The file of a profile, ``<model>.profile.safetensors``.

The arrays are safetensors. Everything else is JSON in the metadata, with a SHA-256 over both.
Reading the file runs no code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import ArtifactError, ProfileError, QueryError
from ..hashed_arrays import Arrays, pack_arrays, unpack_arrays
from ..schema import Cut, Preprocessing, Refinement, SplitPoint
from .measurement import CutMeasurement

if TYPE_CHECKING:
    from .profile import Profile

FORMAT: Final = 1
MAX_BYTES: Final = 512 * 1024 * 1024

_KEY: Final = "isplit_profile"
_ARRAYS: Final = ("class_ids", "count", "mean0", "sum1", "sum2", "comoment")
_MEASUREMENT_ARRAYS: Final = ("images", "agreeing")

Description = dict[str, Any]
"""The JSON part of a profile."""


def pack(description: Description, arrays: Arrays) -> bytes:
    """The file with these parts. Equal parts give equal bytes."""
    return pack_arrays(_KEY, description, arrays)


def unpack(data: bytes) -> tuple[Description, Arrays]:
    """The inverse of :func:`pack`. Raises ArtifactError, or other errors for other content."""
    return unpack_arrays(data, _KEY, newest=FORMAT, max_bytes=MAX_BYTES)


def parts_of(profile: Profile) -> tuple[Description, Arrays]:
    """The JSON part of a profile and its arrays."""
    measurements = profile.measurements
    description = {
        "format": FORMAT,
        "model": profile.model,
        "network_hash": profile.network_hash,
        "classes": list(profile.classes),
        "split_points": [asdict(point) for point in profile.split_points],
        "preprocessing": asdict(profile.preprocessing),
        "target": profile.target,
        "comoment_dof": profile.comoment_dof,
        "head_ms": dict(profile.head_ms),
        "tail_ms": dict(profile.tail_ms),
        "measurements": [[str(m.cut), m.nbytes, m.encode_ms, m.decode_ms] for m in measurements],
        "accuracy": profile.accuracy,
        "provenance": dict(profile.provenance),
    }
    if any(m.under_loss for m in measurements):
        description["under_loss"] = [
            {str(loss): agreement for loss, agreement in m.under_loss.items()} for m in measurements
        ]
    if profile.predictions:
        description["predictions"] = {
            predictor: [None if math.isnan(value) else value for value in values]
            for predictor, values in profile.predictions.items()
        }
    if profile.correctors:
        description["correctors"] = dict(profile.correctors)
    if profile.int8_heads:
        description["int8_heads"] = dict(profile.int8_heads)
    if profile.refinements:
        description["refinements"] = [each.to_json() for each in profile.refinements]
    arrays = {name: getattr(profile, name) for name in _ARRAYS}
    shape = (len(measurements), len(profile.class_ids))
    for name in _MEASUREMENT_ARRAYS:
        rows = [getattr(measurement, name) for measurement in measurements]
        arrays[name] = np.asarray(rows, dtype=np.int64).reshape(shape)
    return description, {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def fields_of(description: Description, arrays: Arrays) -> dict[str, Any]:
    """The arguments of ``Profile``, the inverse of :func:`parts_of`. Raises ProfileError."""
    missing = sorted({*_ARRAYS, *_MEASUREMENT_ARRAYS} - set(arrays))
    if missing:
        raise ProfileError(f"arrays {', '.join(missing)} are missing")
    class_ids = arrays["class_ids"]
    shape = (len(description["measurements"]), len(class_ids) if class_ids.ndim else 0)
    for name in _MEASUREMENT_ARRAYS:
        if arrays[name].shape != shape:
            raise ProfileError(f"{name}: expected shape {shape}, got {arrays[name].shape}")
    accuracy = description["accuracy"]
    under_loss = description.get("under_loss", [{}] * len(description["measurements"]))
    if len(under_loss) != len(description["measurements"]):
        raise ProfileError("under_loss: expected an entry for each measurement")
    return {
        "model": str(description["model"]),
        "network_hash": str(description["network_hash"]),
        "classes": tuple(str(name) for name in description["classes"]),
        "split_points": tuple(SplitPoint.from_json(p) for p in description["split_points"]),
        "preprocessing": Preprocessing.from_json(description["preprocessing"]),
        "target": str(description["target"]),
        **{name: arrays[name] for name in _ARRAYS},
        "comoment_dof": int(description["comoment_dof"]),
        "head_ms": {str(name): float(ms) for name, ms in description["head_ms"].items()},
        "tail_ms": {str(name): float(ms) for name, ms in description["tail_ms"].items()},
        "measurements": tuple(
            CutMeasurement(
                Cut.parse(str(cut)),
                float(nbytes),
                float(encode_ms),
                float(decode_ms),
                arrays["images"][row],
                arrays["agreeing"][row],
                {float(loss): float(agreement) for loss, agreement in under_loss[row].items()},
            )
            for row, (cut, nbytes, encode_ms, decode_ms) in enumerate(description["measurements"])
        ),
        "accuracy": None if accuracy is None else float(accuracy),
        "provenance": {str(key): str(value) for key, value in description["provenance"].items()},
        "predictions": {
            str(predictor): tuple(math.nan if value is None else float(value) for value in values)
            for predictor, values in description.get("predictions", {}).items()
        },
        **{
            part: {str(name): str(sha256) for name, sha256 in description.get(part, {}).items()}
            for part in ("correctors", "int8_heads")
        },
        "refinements": tuple(
            Refinement.from_json(raw) for raw in description.get("refinements", ())
        ),
    }


@contextmanager
def errors_as_profile_errors(where: str) -> Iterator[None]:
    """Turn what reading a damaged file raises into a ProfileError that begins with ``where``."""
    try:
        yield
    except ArtifactError as error:
        raise ProfileError(f"{where}: {error.message}") from error
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        QueryError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ProfileError(
            f"{where}: expected a profile ({type(error).__name__}: {error})"
        ) from error
