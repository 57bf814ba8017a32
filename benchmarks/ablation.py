"""What each part of the codec ``dct`` is worth: bytes without it, by those with all of it.

``python -m benchmarks ablation --data FOLDER`` fits the transform of a cut with all parts, and again
with one part left out, on the photos and cuts that ``transform`` takes (``--photo-counts``,
``--cuts``, ``--resnet50``, ``--study``). Every fit has steps of its own. Bytes are those of an ideal
coder with the tables of that fit, at the same mean divergence from the full network's answer, on
photos that no fit has seen; intervals are of a paired bootstrap over these photos. A last row
compares the real coder, and zstd, with the ideal one on the same coefficients.

The parts:
    gradient metric: with exponent 0 the channel transform is that of the plain squared error, with
        1/2 it lies between. ``fit_transforms`` keeps the best of the three.
    steps by band: the power of the gradients in a band narrows its steps.
    channel transform: without it, channels keep their identity and their own steps.
    cosine transform: without it, positions do, and there is one band.
    counted tables: without them, each class has the table of a Laplace distribution.
    centroids: without them, a coefficient is decoded as the whole number that was sent.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import torch

from isplit_plugin import image
from isplit_plugin.network import CapturedNetwork, LoadedNetwork, PointStatistics, capture
from isplit_plugin.network.transforms.choosing import Sample, choose, scales
from isplit_plugin.network.transforms.closed_form import Basis, BasisFamily, Metric
from isplit_plugin.network.transforms.finishing import finished_transform
from isplit_plugin.network.transforms.tables import fitted_tables
from isplit_plugin.schema import SplitPoint
from isplit_plugin.wire import ALPHABET, QUALITIES, Grid, Transform, ideal_bits

from .harness import Row, row, table
from .subjects import drawn_photos, networks, one_thread
from .transform import COUNTS, DEFAULT_COUNTS, DEFAULT_CUTS, TARGETS, Judge, Measured, bytes_at

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_SAMPLE: Final = 64
"""Photos for steps and tables, as in the product."""
DRAWS: Final = 2
"""Classes drawn for each photo, for the gradient metric, as in the product."""
BATCH: Final = 8
RESAMPLES: Final = 500
ZSTD_LEVEL: Final = 10

Array = np.ndarray[Any, Any]


class PlainGrid(Grid):
    """Positions without a cosine transform, all in one band."""

    @property
    def band_count(self) -> int:
        return 1

    @cached_property
    def bands(self) -> Array:
        return np.zeros(self.positions, np.intp)

    def transform(self, values: Array) -> Array:
        return values

    def inverse(self, coefficients: Array) -> Array:
        return coefficients


class ChannelFamily(BasisFamily):
    """Channels as components, weighed by their own entry of the metric."""

    def __init__(self, covariance: torch.Tensor, metric: torch.Tensor) -> None:
        self._weights = metric.diagonal().clamp_min(1e-9 * float(metric.diagonal().max())).numpy()
        self._variances = covariance.diagonal().numpy()

    def basis(self, exponent: float) -> Basis:
        weights = self._weights**exponent
        roots = np.sqrt(weights * len(weights) / weights.sum())
        variances = roots**2 * self._variances
        order = np.argsort(-variances)
        identity = np.eye(len(roots))[order]
        return Basis(identity * roots, (identity / roots).T, variances[order])


@dataclass(frozen=True)
class Material:
    """Of one cut: the statistics and the sample to fit on, and others to measure on.

    Attributes:
        exact: (N, C, P), to measure on. divergence: of decoded activations of half of the sample.
    """

    net: CapturedNetwork
    point: SplitPoint
    statistics: PointStatistics
    values: Array
    gradients: Array
    exact: Array
    judge: Judge

    @property
    def grid(self) -> Grid:
        return Grid.of(self.point.shape, self.point.channel_axis)

    def sample(self, grid: Grid, part: slice = slice(None)) -> Sample:
        mean = self.statistics.mean.numpy().astype(np.float32).T
        return Sample(self.values[part], self.gradients[part], mean, grid)

    def answers(self, values: Array) -> torch.Tensor:
        """Log probabilities of the tail for activations (N, C, P)."""
        tail = self.net.bisect(self.point.name)[1]
        parts = torch.from_numpy(np.ascontiguousarray(values, np.float32)).split(BATCH)
        with torch.inference_mode():
            scores = [tail(part.reshape(-1, *self.point.shape)) for part in parts]
        return torch.log_softmax(torch.cat(scores).float(), dim=1)


def run(quick: bool = False) -> list[Row]:
    """Rows for each network and cut with channels in front."""
    counts = "24,8" if quick else os.environ.get(COUNTS, DEFAULT_COUNTS)
    fitted, measured = (int(word) for word in counts.split(","))
    files = drawn_photos(fitted + measured)
    rows: list[Row] = []
    if files:
        with one_thread():
            for name, loaded, cuts in networks(DEFAULT_CUTS):
                for cut in cuts:
                    if not cut.startswith("input"):
                        material = material_of(loaded, cut, files[:fitted], files[fitted:])
                        rows += _cut_rows(f"{name} {cut}", material)
                        print(table(rows), file=sys.stderr, flush=True)
    return rows


def material_of(
    loaded: LoadedNetwork, cut: str, fitted: Sequence[Path], measured: Sequence[Path]
) -> Material:
    net = capture(loaded.model, loaded.example_input)
    point = net.split_point(cut)
    head, tail = net.bisect(cut)
    grid = Grid.of(point.shape, point.channel_axis)
    if point.channel_axis != 1 or grid.prefix:
        raise SystemExit(f"{cut}: expected a map with channels in front")
    statistics = None
    kept: list[tuple[Array, Array]] = []
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(fitted), BATCH):
        values = head(_inputs(loaded, fitted[start : start + BATCH])).detach()
        gradients = [_gradients(tail, values, generator) for _ in range(DRAWS)]
        flat = values.flatten(2)
        if statistics is None:
            unit = float(gradients[0].abs().max())
            statistics = PointStatistics.about(flat.mean(dim=(0, 2))[None].double())
        scaled = [gradient.flatten(2) / unit for gradient in gradients]
        statistics.add(flat, torch.cat(scaled), 0)
        kept += zip(flat.numpy(), scaled[0].numpy(), strict=True)
    assert statistics is not None
    some = [kept[i] for i in np.linspace(0, len(kept) - 1, min(MAX_SAMPLE, len(kept))).astype(int)]
    with torch.inference_mode():
        exact = torch.cat([head(_inputs(loaded, [file])) for file in measured])
        scores = torch.cat([tail(part) for part in exact.split(BATCH)])
    return Material(
        net,
        point,
        statistics,
        np.stack([values for values, _ in some]),
        np.stack([gradient for _, gradient in some]),
        exact.flatten(2).numpy(),
        Judge(torch.log_softmax(scores.float(), dim=1)),
    )


def _inputs(loaded: LoadedNetwork, files: Sequence[Path]) -> torch.Tensor:
    pre = loaded.preprocessing
    return torch.from_numpy(
        np.stack([image.normalize(image.crop(file, pre), pre) for file in files])
    )


def _gradients(
    tail: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Of the log probability of a class drawn from each answer."""
    with torch.enable_grad():
        leaf = values.clone().requires_grad_()
        answers = torch.log_softmax(tail(leaf), dim=1)
        drawn = torch.multinomial(answers.detach().exp(), 1, generator=generator)
        (gradient,) = torch.autograd.grad(answers.gather(1, drawn).sum(), leaf)
    return gradient


@dataclass(frozen=True)
class Part:
    """A way to fit: the metrics that may be chosen, and what differs from the codec."""

    label: str
    metrics: Sequence[Metric]
    family: type[BasisFamily] = BasisFamily
    grid: Callable[[Grid], Grid] = lambda grid: grid
    finish: Callable[[Transform], Transform] = lambda transform: transform


def parts(exponent: float) -> Iterator[Part]:
    """The codec with the exponent that was chosen, and all its parts left out one by one."""
    chosen = [Metric(exponent, 1.0)]
    yield Part(f"all of it, exponent {exponent:g}", chosen)
    for other in (1.0, 0.5, 0.0):
        if other != exponent:
            yield Part(f"exponent {other:g}", [Metric(other, 1.0)])
    yield Part("no gradients at all", [Metric(0.0, 0.0)])
    yield Part("no steps by band", [Metric(exponent, 0.0)])
    yield Part("no channel transform", chosen, family=ChannelFamily)
    yield Part("no cosine transform", chosen, grid=_plain)
    laplace = fitted_tables(np.zeros((72, ALPHABET), np.int64))
    yield Part("no counted tables", chosen, finish=lambda t: replace(t, tables=laplace))
    yield Part(
        "no centroids", chosen, finish=lambda t: replace(t, centroids=np.zeros_like(t.centroids))
    )


def _plain(grid: Grid) -> Grid:
    return PlainGrid(grid.prefix, grid.height, grid.width)


def fit(material: Material, part: Part) -> tuple[Transform, Metric]:
    """The transform of a part, as the product fits it."""
    statistics = material.statistics
    family = part.family(statistics.covariance(), statistics.metric())
    grid = part.grid(material.grid)
    first, second = (
        material.sample(grid, slice(0, None, 2)),
        material.sample(grid, slice(1, None, 2)),
    )
    full = material.answers(second.values)

    def divergence(values: Array) -> float:
        return float((full.exp() * (full - material.answers(values))).sum(dim=1).mean())

    metric, steps = choose(family, first, second, divergence, part.metrics)
    sample = material.sample(grid)
    with using(grid):
        transform = finished_transform(
            material.point,
            "",
            statistics,
            scales=scales(family.basis(metric.exponent), metric, sample),
            steps=steps,
            sample=sample,
        )
    return part.finish(transform), metric


def using(grid: Grid) -> AbstractContextManager[Any]:
    """Transforms have this grid meanwhile."""
    if not isinstance(grid, PlainGrid):
        return nullcontext()
    return mock.patch.object(Transform, "grid", grid)


def curve(material: Material, transform: Transform) -> list[Measured]:
    """Ideal bytes and divergence of each quality on the photos to measure on."""
    tail = material.net.bisect(material.point.name)[1]
    shape = material.point.shape
    points = []
    for quality in QUALITIES:
        plan = transform.plan(quality)
        items = [item.reshape(shape) for item in material.exact]
        decoded = np.stack([plan.reconstruct(plan.quantise(item)) for item in items])
        sizes = np.array([ideal_bits(transform, item, quality) / 8 for item in items])
        divergence, agrees = material.judge(tail, decoded)
        points.append(Measured(f"dct@{quality}", sizes, divergence, agrees, 0.0, 0.0))
    return points


def _cut_rows(label: str, material: Material) -> Iterator[Row]:
    everything = Part("", (Metric(1.0, 1.0), Metric(0.5, 1.0), Metric(0.0, 1.0)))
    _, metric = fit(material, everything)
    whole: list[Measured] = []
    for part in parts(metric.exponent):
        with using(part.grid(material.grid)):
            transform, _ = fit(material, part)
            points = curve(material, transform)
        if not whole:
            whole = points
            yield from _coder_rows(label, material, transform)
        yield from compared(f"{label}, {part.label}", points, whole)


def compared(label: str, points: Sequence[Measured], whole: Sequence[Measured]) -> Iterator[Row]:
    """Bytes at equal divergence, by those of the whole codec, in a paired bootstrap over photos."""
    count = len(whole[0].nbytes)
    rng = np.random.default_rng(0)
    draws = [np.arange(count), *rng.integers(0, count, (RESAMPLES, count))]
    for target in TARGETS:
        pairs = [(bytes_at(points, rows, target), bytes_at(whole, rows, target)) for rows in draws]
        ratios = [own / other for own, other in pairs]
        if math.isnan(ratios[0]):
            continue  # one of them does not reach the divergence
        low, high = np.quantile([r for r in ratios[1:] if not math.isnan(r)], [0.025, 0.975])
        yield row(
            f"{label}: bytes at {target} nats",
            pairs[0][0],
            "bytes",
            ratio=ratios[0],
            rival="all of it",
            expected=f"{low:.2f} to {high:.2f}",
            low=float(low),
            high=float(high),
        )


def _coder_rows(label: str, material: Material, transform: Transform) -> Iterator[Row]:
    """Bytes of the real coder and of zstd, by those of an ideal one, at a middle quality."""
    quality = QUALITIES[len(QUALITIES) // 2]
    plan = transform.plan(quality)
    order = np.argsort(plan.rows, kind="stable")
    ideal, real, plain = 0.0, 0, 0
    for values in material.exact:
        item = values.reshape(material.point.shape)
        coefficients = plan.quantise(item)[order].astype(np.int16)
        ideal += ideal_bits(transform, item, quality) / 8
        real += len(transform.encode(item, quality))
        plain += len(zstd.compress(coefficients.tobytes(), ZSTD_LEVEL))
    count = len(material.exact)
    for name, total in (("the coder", real), (f"zstd {ZSTD_LEVEL}, sorted by class", plain)):
        yield row(
            f"{label}, {name} at dct@{quality}", total / count, "bytes",
            ratio=total / ideal, rival="ideal",
        )  # fmt: skip
