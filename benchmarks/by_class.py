"""Class-conditional codes: a transform of a few classes against one of all.

``python -m benchmarks by_class --data FOLDER`` asks whether traffic of few classes is worth a
transform of its own. The folder has one subfolder for each class. Some classes are drawn (2, 5 and
20 of them, as far as there are twice as many). One transform is fitted on photos of these classes,
one on as many photos of all classes, and both are measured on the same other photos of the drawn
classes. The rows have the bytes of ``dct`` at equal divergence of the answer from the full
network's, those of the own transform by those of the common one: the mean over several drawings of
classes, with a 95 % interval of a bootstrap over drawings, and over the photos in each.

``--cuts`` picks network and cuts, deep ones among them, such as ``resnet20_notmnist:block3b`` with
``--study``; ``--photo-counts`` how many photos a transform is fitted and measured on. A network of
other classes than the folder's gets a last layer for the folder's, in closed form. Photos of
EfficientNet-Lite0 are scaled to 128 x 128, to save time.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from isplit_plugin.exits import ExitSums, discriminants
from isplit_plugin.network import (
    CapturedNetwork,
    LoadedNetwork,
    activations,
    capture,
    fit_transforms,
)
from isplit_plugin.schema import Cut
from isplit_plugin.wire import Transform

from . import photos, transform
from .harness import Row, row, table
from .subjects import inputs, networks, one_thread
from .transform import Judge, Measured, bytes_at, coded

DEFAULT_CUTS: Final = {"efficientnet-lite0": ("_blocks.5", "_blocks.10", "_blocks.14")}
DEFAULT_COUNTS: Final = "160,80"
CLASSES: Final = (2, 5, 20)
DRAWINGS: Final = 3
TARGETS: Final = (0.005, 0.02)
"""Divergences at which bytes are compared. Late cuts hardly reach larger ones."""
SIZE: Final = 128
LAYER_PHOTOS: Final = 30
ACCURACY_PHOTOS: Final = 8
"""Photos of each class that a last layer is fitted on, and that accuracy is measured on."""

Array = np.ndarray
ByClass = dict[str, list[Path]]


def run(quick: bool = False) -> list[Row]:
    """Rows for each network, cut and number of classes."""
    folder = os.environ.get(photos.VARIABLE)
    if not folder:
        print("no photos: --data FOLDER", file=sys.stderr)
        return []
    counts = "24,8" if quick else os.environ.get(transform.COUNTS, DEFAULT_COUNTS)
    fitted, measured = (int(word) for word in counts.split(","))
    files = _files(Path(folder))
    rows: list[Row] = []
    with one_thread():
        for network, loaded, cuts in networks(DEFAULT_CUTS):
            small = _smaller(loaded)
            rows.append(_own_classes(network, small, files))
            subject = _Subject(small, cuts, fitted, measured)
            for count in CLASSES[: 1 if quick else None]:
                if 2 * count > len(files):
                    continue
                drawings = [
                    subject.measured(files, count, seed) for seed in range(1 if quick else DRAWINGS)
                ]
                for cut in cuts:
                    pairs = [drawing[cut] for drawing in drawings]
                    rows += _rows(f"{network} {cut}, {count} of {len(files)} classes", pairs)
                print(table(rows), file=sys.stderr, flush=True)
    return rows


def _files(folder: Path) -> ByClass:
    """The photos of each class, in random order."""
    rng = np.random.default_rng(0)
    suffixes = (".jpg", ".jpeg", ".png")
    files: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes):
        files.setdefault(path.relative_to(folder).parts[0], []).append(path)
    return {name: [own[i] for i in rng.permutation(len(own))] for name, own in files.items()}


Pair = tuple[list[Measured], list[Measured]]
"""The codes of the own transform and of the common one, on the same photos."""


class _Subject:
    """A network, its cuts, and how many photos transforms are fitted and measured on."""

    def __init__(
        self, loaded: LoadedNetwork, cuts: Sequence[str], fitted: int, measured: int
    ) -> None:
        self.loaded = loaded
        self.net: CapturedNetwork = capture(loaded.model, loaded.example_input)
        self.cuts = cuts
        self._fitted = fitted
        self._measured = measured

    def measured(self, files: ByClass, count: int, seed: int) -> dict[str, Pair]:
        """Both codes at every cut, for one drawing of classes."""
        rng = np.random.default_rng(seed)
        drawn = rng.permutation(sorted(files))[:count].tolist()
        share, rest = -(-self._measured // count), -(-self._fitted // count)
        test = [file for name in drawn for file in files[name][:share]]
        own = [file for name in drawn for file in files[name][share : share + rest]]
        others = [file for name in sorted(files) for file in files[name][share:]]
        common = [others[i] for i in rng.permutation(len(others))[: len(own)]]
        transforms = [self._fit(own), self._fit(common)]
        tensors, scores = activations(self.net, self.cuts, inputs(self.loaded, test))
        judge = Judge(torch.log_softmax(scores, dim=1))
        print(f"{count} classes, drawing {seed + 1}: {len(own)} photos fit, {len(test)} measure",
              file=sys.stderr, flush=True)  # fmt: skip
        pairs = {}
        for cut in self.cuts:
            exact = tensors[cut].numpy()
            first, second = (
                list(coded(cut, self.net, cut, exact, judge, transform=fit[cut]))
                for fit in transforms
            )
            pairs[cut] = first, second
        return pairs

    def _fit(self, files: Sequence[Path]) -> dict[str, Transform]:
        pre = self.loaded.preprocessing
        labelled = [(file, None) for file in files]
        fits = fit_transforms(
            self.net, labelled, preprocessing=pre, split_points=self.cuts, threads=1
        )
        return dict(fits.transforms)


def _smaller(loaded: LoadedNetwork) -> LoadedNetwork:
    """The network for photos of at most ``SIZE`` pixels."""
    if loaded.preprocessing.crop[0] <= SIZE:
        return loaded
    pre = replace(loaded.preprocessing, crop=(SIZE, SIZE), resize=SIZE)
    return replace(loaded, preprocessing=pre, example_input=torch.zeros(1, *pre.shape))


def _own_classes(label: str, loaded: LoadedNetwork, files: ByClass) -> Row:
    """Give the network a last layer for the folder's classes, unless it has them; its accuracy.

    The new layer is linear in the scores, so that both are one linear layer. It is fitted on one
    part of the photos, the last of each class, and judged on another.
    """
    names = sorted(files)
    if len(loaded.classes) != len(names):
        scores, labels = _scores(loaded, [files[name][-LAYER_PHOTOS:] for name in names])
        bound = np.full(scores.shape[1], 1e4)
        sums = ExitSums.empty("", Cut("output", "none"), -bound, bound)
        sums.add(scores, labels)
        fit = discriminants(sums, 0.3, 1)
        matrix = torch.from_numpy(fit.coef * fit.scale).float()
        offset = torch.from_numpy(fit.intercept - (fit.coef * fit.scale) @ fit.center).float()
        last = [module for module in loaded.model.modules() if isinstance(module, nn.Linear)][-1]
        with torch.no_grad():
            last.bias = nn.Parameter(matrix @ last.bias + offset)
            last.weight = nn.Parameter(matrix @ last.weight)
    scores, labels = _scores(loaded, [files[name][:ACCURACY_PHOTOS] for name in names])
    accuracy = float((scores.argmax(axis=1) == labels).mean())
    return row(f"{label}: accuracy on {len(names)} classes", accuracy, "share")


def _scores(loaded: LoadedNetwork, groups: Sequence[Sequence[Path]]) -> tuple[Array, Array]:
    """Scores (N, classes) of the photos, and the numbers of their groups (N,)."""
    files = [file for group in groups for file in group]
    with torch.inference_mode():
        parts = [
            loaded.model(inputs(loaded, files[start : start + 16]))
            for start in range(0, len(files), 16)
        ]
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return torch.cat(parts).double().numpy(), labels


def _rows(label: str, pairs: Sequence[Pair]) -> list[Row]:
    """Bytes of the own transforms by those of the common ones, at equal divergence."""
    rng = np.random.default_rng(0)
    count = len(pairs[0][0][0].nbytes)
    rows = []
    for target in TARGETS:
        ratios = [_ratio(pairs, [np.arange(count)] * len(pairs), target)]
        for _ in range(500):
            chosen = [pairs[i] for i in rng.integers(0, len(pairs), len(pairs))]
            photo_rows = [rng.integers(0, count, count) for _ in pairs]
            ratios.append(_ratio(chosen, photo_rows, target))
        low, high = np.nanquantile(ratios[1:], [0.025, 0.975])
        alone = [_ratio([pair], [np.arange(count)], target) for pair in pairs]
        each = ", ".join(f"{ratio:.2f}" for ratio in alone)
        common = [bytes_at(pair[1], np.arange(count), target) for pair in pairs]
        sizes = ", ".join(f"{size:.0f}" for size in common)
        rows.append(
            row(
                f"{label}: bytes at {target} nats by those of one for all, 95 % of {low:.2f} to "
                f"{high:.2f}",
                ratios[0],
                "",
                expected=f"at most 0.80; drawings {each}; common {sizes} bytes",
                low=float(low),
                high=float(high),
                common_bytes=common,
            )
        )
    return rows


def _ratio(pairs: Sequence[Pair], photo_rows: Sequence[Array], target: float) -> float:
    """The geometric mean over the drawings where both codes reach the divergence; else NaN."""
    logs = [
        np.log(bytes_at(own, rows, target) / bytes_at(common, rows, target))
        for (own, common), rows in zip(pairs, photo_rows, strict=True)
    ]
    reached = [each for each in logs if np.isfinite(each)]
    return float(np.exp(np.mean(reached))) if reached else math.nan
