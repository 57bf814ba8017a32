"""A small network to keep statistics of: its manifest, its profile, its observations."""

from __future__ import annotations

from typing import Any

import numpy as np

from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Macs, Manifest, Observation, Preprocessing, SplitPoint

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
    given: dict[str, Any] = {
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
    return Manifest(**(given | changes))


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


def observation(number: int = 0, **changes: Any) -> Observation:
    given: dict[str, Any] = {
        "request_id": f"r{number}",
        "cut": Cut("layer1", "uint8"),
        "class_id": number % CLASSES,
        "confidence": 0.9,
        "bytes_received": 100,
        "decode_ms": 1.0,
        "tail_ms": 2.0,
        "at": 1e9 + number,
    }
    return Observation(**(given | changes))
