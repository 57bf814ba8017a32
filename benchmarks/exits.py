"""Exits: which share of the photos a device can answer by itself, from the pooled activation.

``python -m benchmarks exits --data FOLDER`` reads photos from FOLDER, one subfolder for each class;
``--resnet50 FILE`` adds ResNet-50 to EfficientNet-Lite0. Photos are 128 x 128, to save time.
``ISPLIT_EXIT_CLASSES`` and ``ISPLIT_EXIT_PHOTOS`` bound how many are read.

**Its own domain**: the network's last layer is fitted to the folder's classes on a quarter of the
photos, in closed form. Traffic is concentrated on 5, 20 or all classes. **Mixed**: the network
keeps its 1000 ImageNet classes, whatever the photos show, and is unsure.

Of the other photos a third goes into the sums, and the exit is fitted from them. Half of them are
the shadow, of which two questions are asked. Which classes does the proof release, with these
photos alone ("proven")? And which bin, one for all classes, keeps the disagreement within the
tolerance on these photos ("if proven": what more traffic of this kind would come close to)? Share
answered and disagreement are measured on the last sixth, which nothing else has seen. All features
come from what the codec ``uint8`` decodes. ``ISPLIT_EXIT_CACHE`` names a folder for what was
computed of the photos.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from isplit_plugin import image
from isplit_plugin.exits import (
    NONE,
    Exit,
    ExitSums,
    ShadowCounts,
    discriminants,
    fit_exit,
    pool,
    released_bin,
    usual_pooling,
)
from isplit_plugin.network import LoadedNetwork, activations, capture, efficientnet_lite0
from isplit_plugin.schema import Cut
from isplit_plugin.wire import decode_activation, encode_activation

from . import photos as photo_forms
from . import resnet50
from .harness import Row, row, table

SIZE: Final = 128
SPLIT_POINTS: Final = {
    "efficientnet-lite0": ("_blocks.4", "_blocks.10", "_blocks.14"),
    "resnet50": ("layer2", "layer3"),
}
PHOTOS: Final = {"efficientnet-lite0": 8000, "resnet50": 3000}
"""The most photos that are read, the same number of each class."""
TRAFFIC: Final = (5, 20)
"""Numbers of classes in the traffic, beside all."""
TOLERANCES: Final = (0.01, 0.02)
CODEC: Final = "uint8"
MIN_PHOTOS: Final = 15
CLASSES_VARIABLE: Final = "ISPLIT_EXIT_CLASSES"
PHOTOS_VARIABLE: Final = "ISPLIT_EXIT_PHOTOS"
"""The environment variables with the most classes and photos that are read."""
CACHE_VARIABLE: Final = "ISPLIT_EXIT_CACHE"
"""The environment variable with the folder of what was computed."""

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Traffic:
    """What was computed of N photos, in random order.

    Attributes:
        label: (N,) the folder. scores: (N, classes). features: (N, F) by split point.
        cost_ms: of one photo at each split point: pooling, and an answer of an exit.
    """

    label: I64
    scores: F64
    features: dict[str, F64]
    pooling_ms: dict[str, float]


def run(quick: bool = False) -> list[Row]:
    """Rows for each network, traffic and split point."""
    folder = os.environ.get(photo_forms.VARIABLE)
    if not folder:
        print("no photos: --data FOLDER, with one subfolder for each class", file=sys.stderr)
        return []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows: list[Row] = []
        for name, points in SPLIT_POINTS.items():
            loaded = efficientnet_lite0() if name != "resnet50" else resnet50.with_weights()
            if loaded is not None:
                budget = 300 if quick else int(os.environ.get(PHOTOS_VARIABLE, PHOTOS[name]))
                rows += _network_rows(name, loaded, points, _photos(Path(folder), budget))
        return rows
    finally:
        torch.set_num_threads(threads)


def _photos(folder: Path, budget: int) -> list[tuple[Path, int]]:
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


def _network_rows(
    name: str, loaded: LoadedNetwork, points: Sequence[str], photos: list[tuple[Path, int]]
) -> list[Row]:
    traffic = _cached(name, loaded, points, photos)
    quarter = len(photos) // 4
    rest = slice(quarter, None)
    own = _own_answers(traffic, quarter)
    mixed = traffic.scores.argmax(axis=1)
    classes = int(traffic.label.max()) + 1
    accuracy = float((own == traffic.label)[rest].mean())
    rows = [row(f"{name}, own domain: accuracy on {classes} classes", accuracy, "share")]
    for number in dict.fromkeys([*(k for k in TRAFFIC if k < classes), classes]):
        within = np.flatnonzero(traffic.label[rest] < number) + quarter
        for point in points:
            label = f"{name} {point}, own domain, {number} classes"
            rows += _exit_rows(label, point, traffic.features[point][within], own[within])
    for point in points:
        label = f"{name} {point}, mixed"
        rows += _exit_rows(label, point, traffic.features[point][rest], mixed[rest])
    rows += [
        row(f"{name} {point}: pooling one photo", ms, "ms")
        for point, ms in traffic.pooling_ms.items()
    ]
    print(table(rows), file=sys.stderr, flush=True)
    return rows


def _cached(
    name: str, loaded: LoadedNetwork, points: Sequence[str], photos: list[tuple[Path, int]]
) -> Traffic:
    """What was computed of the photos, from the cache where it is there."""
    folder = os.environ.get(CACHE_VARIABLE)
    if not folder:
        return _traffic(name, loaded, points, photos)
    key = hashlib.sha256(repr((name, SIZE, list(points), photos)).encode()).hexdigest()[:16]
    file = Path(folder) / f"{name}-{key}.npz"
    if not file.exists():
        computed = _traffic(name, loaded, points, photos)
        arrays: dict[str, Any] = {"label": computed.label, "scores": computed.scores}
        arrays |= {f"features/{point}": each for point, each in computed.features.items()}
        arrays |= {f"ms/{point}": np.array(ms) for point, ms in computed.pooling_ms.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **arrays)
    with np.load(file) as stored:
        return Traffic(
            stored["label"],
            stored["scores"],
            {point: stored[f"features/{point}"] for point in points},
            {point: float(stored[f"ms/{point}"]) for point in points},
        )


def _traffic(
    name: str, loaded: LoadedNetwork, points: Sequence[str], photos: list[tuple[Path, int]]
) -> Traffic:
    pre = replace(loaded.preprocessing, crop=(SIZE, SIZE), resize=SIZE)
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
            shape = decoded.shape[1:]
            pooling = usual_pooling(shape, axes[point])
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


def _own_answers(traffic: Traffic, quarter: int) -> I64:
    """The answers of the network with a last layer for the folder's classes.

    The layer is linear in the scores, so that both are one linear layer.
    """
    bound = np.full(traffic.scores.shape[1], 1e4)
    sums = ExitSums.empty("", Cut("output", "none"), -bound, bound)
    sums.add(traffic.scores[:quarter], traffic.label[:quarter])
    fit = discriminants(sums, 0.3, 1)
    scores = ((traffic.scores - fit.center) * fit.scale) @ fit.coef.T + fit.intercept
    return fit.class_ids[scores.argmax(axis=1)]


def _exit_rows(label: str, point: str, features: F64, answers: I64) -> list[Row]:
    first, last = len(answers) // 3, len(answers) - len(answers) // 6
    sums = ExitSums.empty(
        "network", Cut(point, CODEC), features.min(axis=0) - 1e-3, features.max(axis=0) + 1e-3
    )
    sums.add(features[:first], answers[:first])
    if np.count_nonzero(sums.counts >= MIN_PHOTOS) < 2:
        return [
            row(f"{label}: answered on the device", 0.0, "share", expected="no exit: few photos")
        ]
    exit_ = fit_exit(sums, min_weight=MIN_PHOTOS, created=0.0)
    shadow = _said(exit_, features[first:last], answers[first:last])
    unseen = _said(exit_, features[last:], answers[last:])
    rows = [
        row(f"{label}: classes of the exit", len(exit_.classes), "classes"),
        row(f"{label}: bytes of the exit", len(exit_.to_bytes()), "bytes"),
    ]
    for tolerance in TOLERANCES:
        counts = shadow.counts()
        could: dict[int, int | None] = dict.fromkeys(
            counts, _lowest_within(counts.values(), tolerance)
        )
        proven = {c: released_bin(each, tolerance) for c, each in counts.items()}
        for words, bins in (("if proven", could), ("proven", proven)):
            share, wrong = unseen.answered(bins)
            released = sum(lowest is not None for lowest in bins.values())
            rows.append(
                row(
                    f"{label}, {tolerance:.0%}, {words}: answered on the device", share, "share",
                    disagreement=wrong,
                    released=released,
                    expected=f"{wrong:.1%} disagree, {released} of {len(exit_.classes)} classes",
                )
            )  # fmt: skip
    return rows


@dataclass(frozen=True)
class Said:
    """What an exit said of N photos.

    Attributes:
        class_ids: (N,), ``NONE`` for none. bins: (N,). agrees: (N,).
    """

    class_ids: I64
    bins: I64
    agrees: npt.NDArray[np.bool_]

    def counts(self) -> dict[int, ShadowCounts]:
        """By class."""
        counts = {int(c): ShadowCounts.none() for c in np.unique(self.class_ids) if c != NONE}
        for class_id, bin_index, agrees in zip(
            self.class_ids.tolist(), self.bins.tolist(), self.agrees.tolist(), strict=True
        ):
            if class_id != NONE:
                counts[class_id] = counts[class_id].add(bin_index, agrees)
        return counts

    def answered(self, lowest: dict[int, int | None]) -> tuple[float, float]:
        """The share that is answered from these bins on, and the share of it that disagrees."""
        exits = np.zeros(len(self.bins), bool)
        for class_id, bin_index in lowest.items():
            if bin_index is not None:
                exits |= (self.class_ids == class_id) & (self.bins >= bin_index)
        return float(exits.mean()), float((~self.agrees[exits]).mean()) if exits.any() else 0.0


def _said(exit_: Exit, features: F64, answers: I64) -> Said:
    said = exit_.answers(features)
    class_ids = np.array([each.class_id for each in said])
    return Said(class_ids, np.array([each.bin for each in said]), class_ids == answers)


def _lowest_within(counts: Iterable[ShadowCounts], tolerance: float) -> int | None:
    """The lowest bin from which no more than the tolerated share of all these answers disagrees."""
    total = ShadowCounts.none()
    for each in counts:
        total = total.merge(each)
    trials, misses = total.trials(), total.misses()
    within = np.flatnonzero((trials > 0) & (misses <= tolerance * trials))
    return int(within[0]) if len(within) else None
