"""The demo before the server runs: network, JPEG sizes, profile and archive."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from .. import image
from ..advice import best_photo
from ..network import CapturedNetwork, LoadedNetwork, capture, load_network, profile
from ..profile import Profile
from ..serving.packaging import Built, package
from .photos import Photo, view

MODEL: Final = "efficientnet_lite0"
SPEC: Final = "isplit_plugin.network.zoo:efficientnet_lite0"
CALIBRATION_VIEWS: Final = 3
"""Views of each photo in the calibration set. Traffic gets other views."""
CODECS: Final = ("fp16", "uint8", "uint8+zstd")

_LARGEST_UINT8: Final = 32_000
"""Codecs are measured where one byte per value stays below this: about twice the JPEG."""


def captured_network() -> tuple[LoadedNetwork, CapturedNetwork]:
    """EfficientNet-Lite0 with its ImageNet weights, loaded and captured."""
    loaded = load_network(SPEC)
    return loaded, capture(loaded.model, loaded.example_input)


def photo_sizes(photos: Sequence[Photo], loaded: LoadedNetwork) -> dict[str, float]:
    """Mean bytes of a photo by its form: what is sent without splitting."""
    crops = [image.crop(photo.path, loaded.preprocessing) for photo in photos]
    files = [photo.path.stat().st_size for photo in photos]
    sizes = {"the file as it is": float(np.mean(files))}
    for quality in (90, 75):
        name = f"{crops[0].width} x {crops[0].height} crop, JPEG quality {quality}"
        sizes[name] = float(np.mean([len(image.to_jpeg(crop, quality)) for crop in crops]))
    return sizes


def measured_profile(
    net: CapturedNetwork, loaded: LoadedNetwork, photos: Sequence[Photo], *, seed: int
) -> Profile:
    """The network's profile, from views of the photos that the traffic does not use."""
    rng = np.random.default_rng([seed, 1])
    images = [
        (view(photo, rng), photo.class_id) for photo in photos for _ in range(CALIBRATION_VIEWS)
    ]
    # Larger activations cannot win against the JPEG. The curve has them all the same.
    small = [p.name for p in net.split_points if p.is_block and p.nbytes // 4 <= _LARGEST_UINT8]
    return profile(
        net,
        images,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=MODEL,
        split_points=small,
        codecs=CODECS,
        progress=sys.stderr.isatty(),
    )


def packaged_model(
    net: CapturedNetwork, loaded: LoadedNetwork, measured: Profile, folder: Path
) -> Built:
    """Archive and head bundle in ``folder``, deployed at :func:`split_points_to_deploy`."""
    return package(
        net,
        profile=measured,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=MODEL,
        deployed=split_points_to_deploy(measured),
        # The demo's traffic is short, so all of it is sampled. The defaults are far lower.
        config={
            "isplit": {
                "sampling": 1.0,
                "cpu_budget": 0.5,
                "probes": {"enabled": True, "cpu_budget": 0.5},
            }
        },
        pt2=True,
        out_dir=folder,
    )


def split_points_to_deploy(measured: Profile, limit: int = 3) -> list[str]:
    """At most ``limit`` split points whose uint8+zstd activation is smaller than the best photo.

    Of more, the first, the last and evenly spaced ones between them; of none, the last split
    points of the network.
    """
    photo = best_photo(measured)
    photo_bytes = photo.measurement.nbytes if photo else float("inf")
    smaller = {
        m.split_point
        for m in measured.measurements
        if m.codec == "uint8+zstd" and m.nbytes < photo_bytes
    }
    names = [p.name for p in measured.split_points if p.name in smaller]
    if not names:
        return [p.name for p in measured.split_points[-limit:]]
    if len(names) <= limit:
        return names
    return [names[round(i * (len(names) - 1) / (limit - 1))] for i in range(limit)]
