"""The demo before the server runs: network, sizes of the photo, profile and archive."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from .. import image
from ..network import (
    CapturedNetwork,
    FittedTransforms,
    LoadedNetwork,
    capture,
    fit_transforms,
    load_network,
    profile,
)
from ..photo_codecs import PHOTOS, can_write, write_photo
from ..profile import Profile
from ..schema import INPUT, Cut, SplitPoint
from ..serving.packaging import Built, choose_deployed, package
from .photos import Photo, view

MODEL: Final = "efficientnet_lite0"
SPEC: Final = "isplit_plugin.network.zoo:efficientnet_lite0"
CALIBRATION_VIEWS: Final = 3
"""Views of each photo in the calibration set. Traffic gets other views."""
CODECS: Final = ("uint8", "uint8+zstd", "q4c+zstd", "dct")

DEPLOYED: Final = 3
"""Split points that are deployed at most."""

_LARGEST_UINT8: Final = 32_000
"""Codecs are measured where one byte per value stays below this: about twice the photo."""


def captured_network() -> tuple[LoadedNetwork, CapturedNetwork]:
    """EfficientNet-Lite0 with its ImageNet weights, loaded and captured."""
    loaded = load_network(SPEC)
    return loaded, capture(loaded.model, loaded.example_input)


def photo_sizes(photos: Sequence[Photo], loaded: LoadedNetwork) -> dict[str, float]:
    """Mean bytes of a photo by its form: what is sent without splitting."""
    crops = [image.crop(photo.path, loaded.preprocessing) for photo in photos]
    originals = [photo.path.stat().st_size for photo in photos]
    sizes = {"the file as it is": float(np.mean(originals))}
    for coding in PHOTOS:
        cut = Cut.of(INPUT, coding)
        if can_write(cut.codec) and cut.quality is not None:
            files = [len(write_photo(crop, cut.codec, cut.quality)) for crop in crops]
            name = f"{crops[0].width} x {crops[0].height} crop, {coding}"
            sizes[name] = float(np.mean(files))
    return sizes


def measured_profile(
    net: CapturedNetwork, loaded: LoadedNetwork, photos: Sequence[Photo], *, seed: int
) -> tuple[Profile, FittedTransforms]:
    """The network's profile, and the transforms for the codec `dct`.

    Both are made from views of the photos that the traffic does not use.
    """
    rng = np.random.default_rng([seed, 1])
    images = [
        (view(photo, rng), photo.class_id) for photo in photos for _ in range(CALIBRATION_VIEWS)
    ]
    # Larger activations cannot win against the photo. The curve has them all the same.
    blocks = [p for p in net.split_points if p.is_block]
    small = [p.name for p in blocks if p.nbytes // 4 <= _LARGEST_UINT8]
    transforms = fit_transforms(
        net,
        images,
        preprocessing=loaded.preprocessing,
        # Each of the eight qualities of `dct` is measured at each of them, which takes its time.
        split_points=[p.name for p in narrowing(blocks) if p.name in small],
        progress=sys.stderr.isatty(),
    )
    measured = profile(
        net,
        images,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=MODEL,
        split_points=small,
        codecs=CODECS,
        transforms=transforms,
        progress=sys.stderr.isatty(),
    )
    return measured, transforms


def packaged_model(
    net: CapturedNetwork,
    loaded: LoadedNetwork,
    measured: Profile,
    transforms: FittedTransforms,
    folder: Path,
) -> Built:
    """Archive and head bundle in ``folder``, deployed where a split wins."""
    return package(
        net,
        profile=measured,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=MODEL,
        deployed=choose_deployed(measured, DEPLOYED),
        transforms=tuple(transforms.transforms.values()),
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


def narrowing(points: Sequence[SplitPoint]) -> list[SplitPoint]:
    """The points whose activation is smaller than that of every point before them.

    A later point that is as large takes more of the device's time to send about as much.
    """
    chosen: list[SplitPoint] = []
    for point in points:
        if not chosen or point.nbytes < chosen[-1].nbytes:
            chosen.append(point)
    return chosen
