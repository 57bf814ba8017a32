"""A network, a profile and live rows small enough to work out by hand: 5 split points, 3 classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isplit_plugin.advice import ImportanceRows, Source, Target
from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.schema import Cut, Macs, Manifest, Preprocessing, SplitPoint

NAMES = ("a", "b", "c", "d", "e")
NBYTES = (4000, 2000, 1000, 400, 400)
LABELS = ("cat", "dog", "owl")
HASH = "sha256:toy"
PREPROCESSING = Preprocessing(crop=(8, 8))


def split_points(
    names: Sequence[str] = NAMES, blocks: Sequence[bool] | None = None
) -> tuple[SplitPoint, ...]:
    blocks = blocks or [True] * len(names)
    return tuple(
        SplitPoint(
            name=name,
            aliases=(f"{name}.alias",),
            shape=(NBYTES[i] // 4,),
            dtype="float32",
            nbytes=NBYTES[i],
            macs=Macs(100 * (i + 1), 1000 - 100 * (i + 1)),
            channel_axis=1,
            stride_order=(0, 1),
            is_block=blocks[i],
        )
        for i, name in enumerate(names)
    )


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "model": "toy",
        "version": "1.0",
        "network_hash": HASH,
        "input_shape": (3, 8, 8),
        "preprocessing": PREPROCESSING,
        "classes": LABELS,
        "split_points": split_points(),
        "deployed": ("b", "d"),
        "codecs": ("fp32", "uint8"),
        "default": Cut("b", "uint8"),
    }
    return Manifest(**{**values, **changes})


def measure(
    split_point: str, codec: str, nbytes: float, agreeing: Sequence[int], images: Sequence[int]
) -> CutMeasurement:
    """The measurement of a cut: ``agreeing`` of the ``images`` of each class."""
    return CutMeasurement(
        cut=Cut.of(split_point, codec),
        nbytes=nbytes,
        encode_ms=0.5,
        decode_ms=0.25,
        images=np.asarray(images, np.int64),
        agreeing=np.asarray(agreeing, np.int64),
    )


MEASUREMENTS = (
    measure("input", "jpeg@90", 300, (99, 99, 100), (100, 100, 100)),
    measure("b", "fp32", 2000, (100, 100, 100), (100, 100, 100)),
    measure("b", "uint8", 500, (100, 99, 80), (100, 100, 100)),
    measure("d", "fp32", 400, (100, 100, 100), (100, 100, 100)),
    measure("d", "uint8", 100, (100, 100, 100), (100, 100, 100)),
    measure("output", "none", 0, (100, 100, 100), (100, 100, 100)),
)
HEAD_MS = {"input": 0.0, "a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 9.0, "output": 10.0}
TAIL_MS = {name: 10.0 - ms for name, ms in HEAD_MS.items()}


def samples(images: Mapping[int, np.ndarray], **changes: Any) -> Profile:
    """A profile from per-class samples (n_c, P); the shift is the mean over all of them."""
    ids = sorted(images)
    every = np.concatenate([images[c] for c in ids])
    mean0 = every.mean(axis=0)
    points = every.shape[1]
    shifted = [images[c] - mean0 for c in ids]
    centred = [images[c] - images[c].mean(axis=0) for c in ids]
    rows = len(ids)
    measurements = tuple(
        replace(measurement, images=measurement.images[:rows], agreeing=measurement.agreeing[:rows])
        for measurement in (MEASUREMENTS if rows <= 3 else ())
    )
    values: dict[str, Any] = {
        "model": "toy",
        "network_hash": HASH,
        "classes": LABELS if max(ids) < 3 else tuple(f"class {c}" for c in range(max(ids) + 1)),
        "split_points": split_points() if points == 5 else split_points(NAMES[:points]),
        "preprocessing": PREPROCESSING,
        "target": "predicted",
        "class_ids": np.asarray(ids, np.int64),
        "count": np.asarray([len(images[c]) for c in ids], np.int64),
        "mean0": mean0,
        "sum1": np.asarray([s.sum(axis=0) for s in shifted]),
        "sum2": np.asarray([(s * s).sum(axis=0) for s in shifted]),
        "comoment": sum((c.T @ c for c in centred), np.zeros((points, points))),
        "comoment_dof": len(every) - rows,
        "head_ms": HEAD_MS if points == 5 else {},
        "tail_ms": TAIL_MS if points == 5 else {},
        "measurements": measurements if points == 5 else (),
        "accuracy": None,
        "provenance": {},
    }
    return Profile(**{**values, **changes})


LEVEL = np.asarray([1.0, 4.0, 2.0, 6.0, 5.0])
"""Mean curve of the toy: local maxima at b and d."""


def profile(**changes: Any) -> Profile:
    """Two images of each class, mean curve LEVEL times 0.5, 1 and 1.5, one tenth up and down."""
    images = {
        c: np.stack([0.9 * f * LEVEL, 1.1 * f * LEVEL]) for c, f in enumerate((0.5, 1.0, 1.5))
    }
    return samples(images, **changes)


def rows(
    values: Mapping[int, np.ndarray],
    mean0: np.ndarray,
    source: Source = "tail",
    target: Target = "predicted",
) -> ImportanceRows:
    """Undecayed live rows from per-class samples (n, P); NaN = not known (before the cut)."""
    ids = sorted(values)
    known = [np.isfinite(values[c]) for c in ids]
    shifted = [np.where(k, values[c] - mean0, 0.0) for c, k in zip(ids, known, strict=True)]
    count = np.asarray([k.sum(axis=0) for k in known], np.float64)
    return ImportanceRows(
        source,
        target,
        np.asarray(ids, np.int64),
        count,
        count.copy(),
        count.copy(),
        np.asarray([s.sum(axis=0) for s in shifted]),
        np.asarray([(s * s).sum(axis=0) for s in shifted]),
    )
