"""Fitting transforms: the photos, the statistics of every split point, and the closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ... import image as im
from ...errors import DataError, ImageError
from ...schema import Preprocessing, SplitPoint
from ...wire import Grid, Transform
from ..captured_network import CapturedNetwork
from ..execution import cpu_threads, full_precision, on_best_device, on_device
from ..importance import DetachedRun, recordable
from ..progress import Progress, reporter
from .choosing import Sample, Steps, choose, scales
from .closed_form import BasisFamily, Metric
from .finishing import finished_transform
from .fitted import FOLD_LENGTH, FOLDS, FittedTransforms, fold_of
from .statistics import PointStatistics, centres, means

MAX_CHANNELS: Final = 1024
"""Split points with more channels get no transform by default: their matrices are too large."""
SAMPLE_BYTES: Final = 512 * 1024 * 1024
"""Memory for the photos that scales and steps are found on."""
MAX_SAMPLE: Final = 64

MIN_PHOTOS: Final = 2 * FOLD_LENGTH
"""The fewest photos that transforms are fitted on."""


def fit_transforms(
    net: CapturedNetwork,
    images: Sequence[tuple[im.Image, int | None]],
    *,
    preprocessing: Preprocessing,
    split_points: Sequence[str] | None = None,
    draws: int = 2,
    batch_size: int = 8,
    threads: int | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> FittedTransforms:
    """Fit a transform for the codec ``dct`` at each split point.

    One forward pass and ``draws`` backward passes over all photos give the statistics of all split
    points at once. Scales and steps are found on a sample of at most :data:`MAX_SAMPLE` photos.
    Images that cannot be read, and those whose activations or gradients are not finite, are left
    out.

    Parameters:
        images: with their class ids, which are not used.
        split_points: by default every block output with at most :data:`MAX_CHANNELS` channels.
        draws: classes drawn for each photo, for the gradient metric.
        device: where the network runs; by default a CUDA device if there is one.
        seed: of the drawn classes.
        progress: ``True`` for a bar on stderr, or a function (:data:`Progress`). A split point whose
            transform is chosen counts as a photo.

    Raises:
        DataError: fewer than :data:`MIN_PHOTOS` usable photos.
        SplitPointError, UnknownSplitPointError: for ``split_points``.
    """
    points = _points(net, split_points)
    runner = on_best_device(net) if device is None else on_device(net, device)
    total = len(images) + len(points)
    with (
        cpu_threads(threads),
        full_precision(),
        reporter(progress, total, "fitting transforms") as report,
    ):
        collection = _Collection(runner, points, len(images), draws, seed)
        for batch in _batches(images, preprocessing, batch_size):
            collection.add([number for number, _ in batch], np.stack([x for _, x in batch]))
            report(batch[-1][0] + 1)
        if collection.photos < MIN_PHOTOS or not all(collection.fold_photos):
            raise DataError(
                f"fitting transforms takes at least {MIN_PHOTOS} photos, got {collection.photos}"
            )
        network_hash = net.network_hash(preprocessing)
        fits = {}
        for done, point in enumerate(points, start=len(images)):
            report(done)
            fits[point.name] = _fit_point(collection, point, network_hash)
    return FittedTransforms(
        {name: fit.transform for name, fit in fits.items()},
        tuple({name: fit.without[fold] for name, fit in fits.items()} for fold in range(FOLDS)),
        {name: fit.metric for name, fit in fits.items()},
        collection.photos,
    )


@dataclass(slots=True)
class _Kept:
    """The sampled photos of one split point, in half precision."""

    values: list[np.ndarray[Any, Any]] = field(default_factory=list)
    gradients: list[np.ndarray[Any, Any]] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)


class _Collection:
    """Statistics and samples of every split point, photo by photo."""

    def __init__(
        self,
        net: CapturedNetwork,
        points: Sequence[SplitPoint],
        images: int,
        draws: int,
        seed: int,
    ) -> None:
        self.net = net
        self.points = {point.name: point for point in points}
        self.grids = {point.name: Grid.of(point.shape, point.channel_axis) for point in points}
        self.statistics: dict[str, list[PointStatistics]] = {}
        self.kept = {point.name: _Kept() for point in points}
        self.fold_photos = [0] * FOLDS
        self._units: dict[str, float] = {}
        self._draws = draws
        self._generator = torch.Generator().manual_seed(seed)
        self._columns = {net.node(name): column for column, name in enumerate(self.points)}
        item_bytes = sum(4 * int(np.prod(point.shape)) for point in points)
        sample = max(min(MAX_SAMPLE, SAMPLE_BYTES // max(item_bytes, 1), images), 2 * FOLDS)
        self._sampled = set(np.linspace(0, max(images - 1, 0), sample).astype(int).tolist())

    @property
    def photos(self) -> int:
        return sum(self.fold_photos)

    def add(self, numbers: Sequence[int], inputs: np.ndarray[Any, Any]) -> None:
        x = torch.from_numpy(inputs).to(self.net.device, self.net.dtype)
        values, gradients = self._run(x)
        tensors = [*values.values(), *(g for own in gradients.values() for g in own)]
        finite = torch.stack([t.flatten(1).isfinite().all(dim=1) for t in tensors]).all(dim=0)
        if not bool(finite.all()):
            values = {name: value[finite] for name, value in values.items()}
            gradients = {name: [g[finite] for g in own] for name, own in gradients.items()}
            numbers = [
                n for n, is_finite in zip(numbers, finite.tolist(), strict=True) if is_finite
            ]
        if not numbers:
            return
        folds = np.array([fold_of(number) for number in numbers])
        for fold in range(FOLDS):
            self.fold_photos[fold] += int((folds == fold).sum())
        for name, point in self.points.items():
            item_values = _channels_first(values[name], point.channel_axis)
            item_gradients = [_channels_first(g, point.channel_axis) for g in gradients[name]]
            self._add_point(name, numbers, folds, item_values, item_gradients)

    def _add_point(
        self,
        name: str,
        numbers: Sequence[int],
        folds: np.ndarray[Any, Any],
        values: Tensor,
        gradients: list[Tensor],
    ) -> None:
        prefix = self.grids[name].prefix
        if name not in self.statistics:
            shift = means(values, prefix).mean(dim=0).double().cpu()
            self.statistics[name] = [PointStatistics.about(shift) for _ in range(FOLDS)]
            largest = max((float(g.abs().max()) for g in gradients), default=1.0)
            self._units[name] = largest or 1.0
        scaled = [gradient / self._units[name] for gradient in gradients]
        for fold in range(FOLDS):
            rows = torch.from_numpy(np.flatnonzero(folds == fold))
            if len(rows):
                own = torch.cat([g[rows] for g in scaled]) if scaled else values[:0]
                self.statistics[name][fold].add(values[rows], own, prefix)
        kept = self.kept[name]
        for row, number in enumerate(numbers):
            if number in self._sampled:
                kept.values.append(values[row].cpu().numpy().astype(np.float16))
                kept.folds.append(int(folds[row]))
                if scaled:
                    kept.gradients.append(scaled[0][row].cpu().numpy().astype(np.float16))

    def _run(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Activations, and gradients of the log probability of each drawn class."""
        names = list(self.points)
        kept: dict[int, Tensor] = {}

        def observe(column: int, tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                tensor = recordable(tensor).requires_grad_()
            kept[column] = tensor
            return tensor

        gradients: dict[str, list[Tensor]] = {name: [] for name in names}
        with torch.inference_mode(False), torch.enable_grad():
            scores = DetachedRun(self.net.model, self._columns, observe).run(x)
            log_probabilities = torch.log_softmax(scores.float(), dim=1)
            # A photo whose scores are not finite is left out later; a class must be drawn anyway.
            probabilities = log_probabilities.detach().exp().cpu().nan_to_num(nan=1.0)
            tensors = [kept[column] for column in range(len(names))]
            for draw in range(self._draws if scores.requires_grad else 0):
                drawn = torch.multinomial(probabilities, 1, generator=self._generator)
                drawn = drawn.to(scores.device)
                found = torch.autograd.grad(
                    log_probabilities.gather(1, drawn).sum(),
                    tensors,
                    retain_graph=draw + 1 < self._draws,
                    allow_unused=True,
                )
                for name, tensor, gradient in zip(names, tensors, found, strict=True):
                    gradients[name].append(
                        (torch.zeros_like(tensor) if gradient is None else gradient).detach()
                    )
        return {name: kept[column].detach() for column, name in enumerate(names)}, gradients


@dataclass(frozen=True, slots=True, eq=False)
class _PointFit:
    transform: Transform
    without: tuple[Transform, ...]
    metric: Metric


def _fit_point(collection: _Collection, point: SplitPoint, network_hash: str) -> _PointFit:
    """The transforms of one split point: for all photos, and without each fold."""
    by_fold = collection.statistics[point.name]
    kept = collection.kept.pop(point.name)
    everything = sum(by_fold[1:], by_fold[0])
    family = BasisFamily(everything.covariance(), everything.metric())
    first = _sample(collection, point.name, kept, everything, [fold == 0 for fold in kept.folds])
    second = _sample(collection, point.name, kept, everything, [fold != 0 for fold in kept.folds])
    metric, steps = choose(family, first, second, _divergence(collection.net, point, second))
    both = _sample(collection, point.name, kept, everything, [True] * len(kept.folds))
    transform = _finish(
        point, network_hash, everything, family=family, metric=metric, steps=steps, sample=both
    )
    without = []
    for fold in range(FOLDS):
        others = [statistics for number, statistics in enumerate(by_fold) if number != fold]
        rest = sum(others[1:], others[0])
        chosen = [own != fold for own in kept.folds]
        sample = _sample(collection, point.name, kept, rest, chosen)
        rest_family = BasisFamily(rest.covariance(), rest.metric())
        without.append(
            _finish(
                point,
                network_hash,
                rest,
                family=rest_family,
                metric=metric,
                steps=steps,
                sample=sample,
            )
        )
    return _PointFit(transform, tuple(without), metric)


def _finish(
    point: SplitPoint,
    network_hash: str,
    statistics: PointStatistics,
    *,
    family: BasisFamily,
    metric: Metric,
    steps: Steps,
    sample: Sample,
) -> Transform:
    fitted = scales(family.basis(metric.exponent), metric, sample)
    return finished_transform(
        point, network_hash, statistics, scales=fitted, steps=steps, sample=sample
    )


def _sample(
    collection: _Collection,
    name: str,
    kept: _Kept,
    statistics: PointStatistics,
    chosen: Sequence[bool],
) -> Sample:
    """The sampled photos that are ``chosen``; all of them where none is."""
    grid = collection.grids[name]
    rows = [row for row, is_chosen in enumerate(chosen) if is_chosen] or list(range(len(chosen)))
    gradients = [kept.gradients[row] for row in rows] if kept.gradients else []
    values = np.stack([kept.values[row] for row in rows]).astype(np.float32)
    mean = centres(statistics.mean, grid.prefix, grid.positions).numpy().astype(np.float32)
    stacked = np.stack(gradients).astype(np.float32) if gradients else values[:0]
    return Sample(values, stacked, mean, grid)


def _divergence(
    net: CapturedNetwork, point: SplitPoint, sample: Sample
) -> Callable[[np.ndarray[Any, Any]], float]:
    """The mean Kullback-Leibler divergence of decoded activations' answers from the full ones."""
    tail = net.bisect(point.name)[1]

    def log_probabilities(values: np.ndarray[Any, Any]) -> Tensor:
        axis = point.channel_axis
        sizes = [size for place, size in enumerate(point.shape, start=1) if place != axis]
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(net.device, net.dtype)
        tensor = tensor.reshape(len(values), -1, *sizes).movedim(1, axis).contiguous()
        with torch.inference_mode():
            parts = [tail(part) for part in torch.split(tensor, 8)]
        return torch.log_softmax(torch.cat(parts).float(), dim=1)

    full = log_probabilities(sample.values)

    def divergence(values: np.ndarray[Any, Any]) -> float:
        answers = log_probabilities(values)
        return float((full.exp() * (full - answers)).sum(dim=1).mean())

    return divergence


def _channels_first(tensor: Tensor, axis: int) -> Tensor:
    """(N, ...) as (N, C, P), float32."""
    return (
        tensor.detach().movedim(axis, 1).flatten(2).float()
        if tensor.dim() > 2
        else (tensor.detach().float()[:, :, None])
    )


def _points(net: CapturedNetwork, names: Sequence[str] | None) -> tuple[SplitPoint, ...]:
    """The split points to fit, in execution order."""
    if names is None:
        blocks = [p for p in net.split_points if p.is_block] or list(net.split_points)
        return tuple(p for p in blocks if p.shape[p.channel_axis - 1] <= MAX_CHANNELS)
    wanted = {net.split_point(name).name for name in names}
    return tuple(point for point in net.split_points if point.name in wanted)


def _batches(
    images: Sequence[tuple[im.Image, int | None]], preprocessing: Preprocessing, size: int
) -> Iterator[list[tuple[int, np.ndarray[Any, Any]]]]:
    """Batches of (number of the photo, network input)."""
    batch: list[tuple[int, np.ndarray[Any, Any]]] = []
    for number, (image, _) in enumerate(images):
        try:
            batch.append((number, im.preprocess(image, preprocessing)))
        except ImageError:
            continue
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
