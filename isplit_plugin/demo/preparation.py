"""The demo before the server runs: network, sizes of the photo, profile and archive."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL.Image import Image

from .. import image
from ..advice import TOLERANCE
from ..network import (
    FOLDS,
    CapturedNetwork,
    FittedTransforms,
    LoadedNetwork,
    capture,
    fit_transforms,
    fold_of,
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
CALIBRATION_VIEWS: Final = 400
"""Views in the calibration set, by default: from so many on, a tolerance of 1 % leaves no cut undecided. Traffic
gets other views."""
FITTED_VIEWS: Final = 120
"""Those of them on which transforms are fitted."""
CODECS: Final = ("q4c+zstd", "dct")
FORMS: Final = (
    *("jpeg@98", "jpeg@95", "jpeg@90"),
    *("webp@98", "webp@95", "webp@90"),
    *("avif@95", "avif@90", "avif@80"),
)
"""The photos that are measured: the ones around 99 % agreement, to save time."""

DEPLOYED: Final = 3
"""Split points that are deployed at most."""

_LARGEST_UINT8: Final = 32_000
"""Codecs are measured where one byte per value stays below this: about twice the photo."""
_LATEST: Final = 0.5
"""Codecs are measured where the head has at most this share of the MACs."""


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
    net: CapturedNetwork,
    loaded: LoadedNetwork,
    photos: Sequence[Photo],
    *,
    count: int = CALIBRATION_VIEWS,
    seed: int = 0,
) -> tuple[Profile, FittedTransforms]:
    """The network's profile, and the transforms for the codec `dct`.

    Both are made from views of the photos that the traffic does not use. A cut that cannot be
    faithful any more is measured no further.

    ``count``: the views, of which the first ones are fitted on.
    """
    images = calibration_views(photos, count, seed=seed)
    points = [point.name for point in narrowing(net.split_points) if _is_measured(point)]
    transforms = fit_transforms(
        net,
        images[:FITTED_VIEWS],
        preprocessing=loaded.preprocessing,
        split_points=points,
        progress=sys.stderr.isatty(),
    )
    measured = profile(
        net,
        images,
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        model=MODEL,
        split_points=points,
        codecs=CODECS,
        photos=FORMS,
        transforms=transforms,
        curtail=TOLERANCE,
        device_heads=True,
        progress=sys.stderr.isatty(),
    )
    return measured, transforms


def calibration_views(photos: Sequence[Photo], count: int, *, seed: int) -> list[tuple[Image, int]]:
    """Views of all photos in turn, with their class ids.

    Views of one photo are all in one fold: so they are never measured with a transform that has
    seen another view of the same photo.
    """
    rng = np.random.default_rng([seed, 1])
    of_fold = [photos[fold::FOLDS] for fold in range(FOLDS)]
    taken = [0] * FOLDS
    views = []
    for number in range(count):
        fold = fold_of(number)
        photo = of_fold[fold][taken[fold] % len(of_fold[fold])]
        taken[fold] += 1
        views.append((view(photo, rng), photo.class_id))
    return views


def _is_measured(point: SplitPoint) -> bool:
    """Whether codecs are measured at a split point: larger activations or later heads cannot win.

    The curve has all split points all the same.
    """
    share = point.macs.head / (point.macs.head + point.macs.tail)
    return point.nbytes // 4 <= _LARGEST_UINT8 and share <= _LATEST


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
    """The block outputs whose activation is smaller than that of every block output before them.

    A later one that is as large takes more of the device's time to send about as much.
    """
    chosen: list[SplitPoint] = []
    for point in points:
        if point.is_block and (not chosen or point.nbytes < chosen[-1].nbytes):
            chosen.append(point)
    return chosen
