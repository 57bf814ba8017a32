"""A small network with its manifest, profile, observations and importance samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Macs, Manifest, Observation, Preprocessing, SplitPoint
from isplit_plugin.traffic import ImportanceSample

POINTS = 4
CLASSES = 5
NETWORK = "sha256-toy"
PREPROCESSING = Preprocessing(crop=(8, 8))


def split_points(points: int = POINTS) -> tuple[SplitPoint, ...]:
    return tuple(
        SplitPoint(
            f"layer{i}", (), (4, 2, 2), "float32", 64, Macs(i, points - i), 1, (0, 1, 2, 3), True
        )
        for i in range(points)
    )


def manifest(
    network: str = NETWORK, points: int = POINTS, classes: int = CLASSES, **changes: Any
) -> Manifest:
    values: dict[str, Any] = {
        "model": "toy",
        "version": "1.0",
        "network_hash": network,
        "input_shape": (3, 8, 8),
        "preprocessing": PREPROCESSING,
        "classes": tuple(f"class{i}" for i in range(classes)),
        "split_points": split_points(points),
        "deployed": ("layer1", "layer2"),
        "codecs": ("fp32", "uint8"),
        "default": Cut("layer1", "uint8"),
    }
    return Manifest(**(values | changes))


def profile(
    mean0: list[float] | None = None,
    network: str = NETWORK,
    points: int = POINTS,
    classes: int = CLASSES,
) -> Profile:
    return Profile(
        model="toy",
        network_hash=network,
        classes=tuple(f"class{i}" for i in range(classes)),
        split_points=split_points(points),
        preprocessing=PREPROCESSING,
        target="predicted",
        class_ids=np.zeros(0, np.int64),
        count=np.zeros(0, np.int64),
        mean0=np.array([0.5] * points if mean0 is None else mean0, dtype=np.float64),
        sum1=np.zeros((0, points)),
        sum2=np.zeros((0, points)),
        comoment=np.zeros((points, points)),
        comoment_dof=0,
        head_ms={},
        tail_ms={},
        measurements=(),
        accuracy=None,
        provenance={},
    )


def sample(curve: npt.ArrayLike, **changes: Any) -> ImportanceSample:
    """A curve of class 0 for the predicted class; the source follows from its first value."""
    values: dict[str, Any] = {"class_id": 0, "curve": curve, "at": 1e9}
    if "source" not in changes:
        values["source"] = "tail" if np.isnan(np.asarray(curve, np.float64)[0]) else "input"
    return ImportanceSample(**(values | changes))


def samples(
    class_ids: Iterable[int], curves: npt.NDArray[np.float64], **changes: Any
) -> list[ImportanceSample]:
    """One sample for each class and curve."""
    pairs = zip(class_ids, curves, strict=True)
    return [sample(curve, class_id=int(class_id), **changes) for class_id, curve in pairs]


def observation(number: int = 0, **changes: Any) -> Observation:
    values: dict[str, Any] = {
        "request_id": f"r{number}",
        "cut": Cut("layer1", "uint8"),
        "class_id": number % CLASSES,
        "confidence": 0.9,
        "bytes_received": 100,
        "decode_ms": 1.0,
        "tail_ms": 2.0,
        "at": 1e9 + number,
    }
    return Observation(**(values | changes))
