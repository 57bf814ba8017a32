"""Traffic for the benchmarks of exits: what networks say of the photos of a folder.

``--data FOLDER`` names the photos, one subfolder for each class; ``--resnet50 FILE`` adds ResNet-50
to EfficientNet-Lite0. Photos are 128 x 128, to save time. ``ISPLIT_EXIT_CLASSES`` and
``ISPLIT_EXIT_PHOTOS`` bound how many are read. Features come from what the codec ``uint8`` decodes.
``ISPLIT_EXIT_CACHE`` names a folder for what was computed of the photos.

**Its own domain**: the network's last layer is fitted to the folder's classes on a quarter of the
photos, in closed form. **Mixed**: the network keeps its 1000 ImageNet classes, whatever the photos
show, and is unsure.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from isplit_plugin import image
from isplit_plugin.exits import ExitSums, discriminants, pool, usual_pooling
from isplit_plugin.network import LoadedNetwork, activations, capture, efficientnet_lite0
from isplit_plugin.schema import Cut, Preprocessing
from isplit_plugin.wire import decode_activation, encode_activation

from . import photos as photo_forms
from . import resnet50

SIZE: Final = 128
SPLIT_POINTS: Final = {
    "efficientnet-lite0": ("_blocks.4", "_blocks.10", "_blocks.14"),
    "resnet50": ("layer2", "layer3"),
}
PHOTOS: Final = {"efficientnet-lite0": 8000, "resnet50": 3000}
"""The most photos that are read, the same number of each class."""
CODEC: Final = "uint8"
CLASSES_VARIABLE: Final = "ISPLIT_EXIT_CLASSES"
PHOTOS_VARIABLE: Final = "ISPLIT_EXIT_PHOTOS"
"""The environment variables with the most classes and photos that are read."""
CACHE_VARIABLE: Final = "ISPLIT_EXIT_CACHE"
"""The environment variable with the folder of what was computed."""

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Photos = list[tuple[Path, int]]


@dataclass(frozen=True)
class Traffic:
    """What was computed of N photos, in random order.

    Attributes:
        label: (N,) the folder. scores: (N, classes). features: (N, F) by split point.
        pooling_ms: of one photo at each split point.
    """

    label: I64
    scores: F64
    features: dict[str, F64]
    pooling_ms: dict[str, float]

    @property
    def rest(self) -> int:
        """From which photo on none had a part in the last layer: a quarter of them."""
        return len(self.label) // 4

    def own_answers(self) -> I64:
        """(N,): the answers of the network with a last layer for the folder's classes.

        The layer is linear in the scores, so that both are one linear layer.
        """
        bound = np.full(self.scores.shape[1], 1e4)
        sums = ExitSums.empty("", Cut("output", "none"), -bound, bound)
        sums.add(self.scores[: self.rest], self.label[: self.rest])
        fit = discriminants(sums, 0.3, 1)
        scores = ((self.scores - fit.center) * fit.scale) @ fit.coef.T + fit.intercept
        return fit.class_ids[scores.argmax(axis=1)]


def networks() -> Iterator[tuple[str, LoadedNetwork]]:
    """The networks by name; ResNet-50 where there is a file of weights."""
    for name in SPLIT_POINTS:
        loaded = efficientnet_lite0() if name != "resnet50" else resnet50.with_weights()
        if loaded is not None:
            yield name, loaded


def small(preprocessing: Preprocessing) -> Preprocessing:
    """The same for photos of 128 x 128."""
    return replace(preprocessing, crop=(SIZE, SIZE), resize=SIZE)


def chosen_photos(name: str, *, quick: bool) -> Photos:
    """Photos of ``--data`` for a network; none, and a word on stderr, without a folder."""
    folder = os.environ.get(photo_forms.VARIABLE)
    if not folder:
        print("no photos: --data FOLDER, with one subfolder for each class", file=sys.stderr)
        return []
    budget = 300 if quick else int(os.environ.get(PHOTOS_VARIABLE, PHOTOS[name]))
    return photos_of(Path(folder), budget)


def photos_of(folder: Path, budget: int) -> Photos:
    """Photos and numbers of their folders, in random order, about the same number of each."""
    suffixes = (".jpg", ".jpeg", ".png")
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    random = np.random.default_rng(0)
    order = random.permutation(len(folders))[: int(os.environ.get(CLASSES_VARIABLE, "1000000"))]
    chosen = []
    for number, index in enumerate(order):
        files = sorted(p for p in folders[index].rglob("*") if p.suffix.lower() in suffixes)
        some = random.permutation(len(files))[: max(1, budget // len(order))]
        chosen += [(files[file], number) for file in some]
    return [chosen[index] for index in random.permutation(len(chosen))]


def traffic(name: str, loaded: LoadedNetwork, photos: Photos) -> Traffic:
    """What a network says of the photos, from the cache where it is there."""
    points = SPLIT_POINTS[name]
    folder = os.environ.get(CACHE_VARIABLE)
    if not folder:
        return compute(name, loaded, points, photos)
    file = cache_file(Path(folder), name, photos)
    if not file.exists():
        computed = compute(name, loaded, points, photos)
        arrays: dict[str, Any] = {"label": computed.label, "scores": computed.scores}
        arrays |= {f"features/{point}": each for point, each in computed.features.items()}
        arrays |= {f"ms/{point}": np.array(ms) for point, ms in computed.pooling_ms.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **arrays)
    with np.load(file) as stored:
        return Traffic(
            stored["label"],
            stored["scores"].astype(np.float64),
            {point: stored[f"features/{point}"].astype(np.float64) for point in points},
            {point: float(stored[f"ms/{point}"]) for point in points},
        )


def cache_file(folder: Path, name: str, photos: Photos) -> Path:
    """Where the cache keeps what was computed of these photos."""
    key = hashlib.sha256(repr((name, SIZE, list(SPLIT_POINTS[name]), photos)).encode()).hexdigest()
    return folder / f"{name}-{key[:16]}.npz"


def compute(name: str, loaded: LoadedNetwork, points: Sequence[str], photos: Photos) -> Traffic:
    """What a network says of the photos."""
    pre = small(loaded.preprocessing)
    net = capture(loaded.model, torch.zeros(1, *pre.shape))
    axes = {point: net.split_point(point).channel_axis for point in points}
    scores = []
    features: dict[str, list[npt.NDArray[np.float32]]] = {point: [] for point in points}
    seconds = dict.fromkeys(points, 0.0)
    for start in range(0, len(photos), 16):
        files = [file for file, _ in photos[start : start + 16]]
        x = np.stack([image.normalize(image.crop(file, pre), pre) for file in files])
        tensors, part_scores = activations(net, points, torch.from_numpy(x))
        scores.append(part_scores.numpy())
        for point in points:
            decoded = _decoded(tensors[point].numpy(), axes[point])
            started = time.perf_counter()
            pooling = usual_pooling(decoded.shape[1:], axes[point])
            features[point] += [pool(item, axes[point], pooling) for item in decoded]
            seconds[point] += time.perf_counter() - started
        if start % 1600 == 0:
            print(f"{name}: {start} of {len(photos)} photos", file=sys.stderr, flush=True)
    return Traffic(
        np.array([label for _, label in photos]),
        np.concatenate(scores).astype(np.float64),
        {point: np.stack(each).astype(np.float64) for point, each in features.items()},
        {point: 1e3 * total / len(photos) for point, total in seconds.items()},
    )


def _decoded(values: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """What the tail gets: each photo by itself through the codec."""
    items = [
        decode_activation(encode_activation(item[None], CODEC, channel_axis=axis), shape=item.shape)
        for item in values
    ]
    return np.concatenate(items)
