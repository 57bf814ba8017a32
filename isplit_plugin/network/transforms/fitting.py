"""Fitting transforms: the photos, the statistics of every split point, and the closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ... import image as im
from ...errors import DataError, ImageError
from ...schema import Preprocessing, SplitPoint
from ...wire import Transform
from ..captured_network import CapturedNetwork
from ..execution import cpu_threads, full_precision, on_best_device, on_device
from ..int8.heads import Int8Heads
from ..processes import ONE_PROCESS, Processes, blocks
from ..progress import Progress, reporter
from .choosing import Float32Array, Sample, Steps, choose, scales
from .closed_form import BasisFamily, Metric
from .collection import Collection, Kept
from .finishing import finished_transform
from .fitted import FOLD_LENGTH, FOLDS, FittedTransforms
from .gains import PHOTOS, Trial, chosen_gains, gain_curves
from .sharing import PointFit, share_counts, share_fits, share_statistics
from .statistics import PointStatistics, centres

MAX_CHANNELS: Final = 1024
"""Split points with more channels get no transform by default: their matrices are too large."""
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
    processes: Processes = ONE_PROCESS,
    int8_heads: Int8Heads | None = None,
) -> FittedTransforms:
    """Fit a transform for the codec ``dct`` at each split point.

    One forward pass and ``draws`` backward passes over all photos give the statistics of all split
    points at once. Scales and steps are found on a sample of at most ``MAX_SAMPLE`` photos.
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
        processes: those that share the photos, and then the split points. Each is given all photos;
            all return the same transforms.
        int8_heads: from :func:`quantise_heads`. The transforms are then fitted on what they put out.

    Raises:
        DataError: fewer than :data:`MIN_PHOTOS` usable photos.
        SplitPointError, UnknownSplitPointError: for ``split_points``.
        IsplitError: another process ended.
    """
    points = _points(net, split_points)
    runner = on_best_device(net) if device is None else on_device(net, device)
    own_points = [point for number, point in enumerate(points) if processes.owns(number)]
    own_photos = processes.own_photos(len(images), batch_size)
    total = own_photos + len(own_points)
    with (
        cpu_threads(threads),
        full_precision(),
        reporter(progress, total, "fitting transforms") as report,
    ):
        collection = Collection(runner, points, len(images), draws, seed, int8_heads=int8_heads)
        _collect(
            collection,
            images,
            preprocessing,
            batch_size=batch_size,
            processes=processes,
            report=report,
        )
        share_counts(collection, processes)
        if collection.photos < MIN_PHOTOS or not all(collection.fold_photos):
            raise DataError(
                f"fitting transforms takes at least {MIN_PHOTOS} photos, got {collection.photos}"
            )
        share_statistics(collection, processes)
        network_hash = net.network_hash(preprocessing)
        fits = {}
        for done, point in enumerate(own_points, start=own_photos):
            report(done)
            fits[point.name] = _fit_point(collection, point, network_hash)
        fits = share_fits(fits, processes)
    names = [point.name for point in points]
    return FittedTransforms(
        {name: fits[name][0] for name in names},
        tuple({name: fits[name][1][fold] for name in names} for fold in range(FOLDS)),
        {name: fits[name][2] for name in names},
        collection.photos,
    )


def _collect(
    collection: Collection,
    images: Sequence[tuple[im.Image, int | None]],
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    processes: Processes,
    report: Callable[[int], None],
) -> None:
    """Add the photos that this process owns; those that cannot be read are left out."""
    done = 0
    for number, block in enumerate(blocks(images, batch_size)):
        owned = processes.owns(number)
        if not owned and collection.is_primed:
            continue
        inputs = {}
        for photo, image, _ in block:
            with suppress(ImageError):
                inputs[photo] = im.preprocess(image, preprocessing)
        if inputs:
            collection.add(list(inputs), np.stack(list(inputs.values())), counted=owned)
        if owned:
            done += len(block)
            report(done)


def _fit_point(collection: Collection, point: SplitPoint, network_hash: str) -> PointFit:
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
    gains, gains_without = _gains(collection, point, kept, everything, without)
    return (
        replace(transform, gains=gains),
        tuple(replace(one, gains=own) for one, own in zip(without, gains_without, strict=True)),
        metric,
    )


def _gains(
    collection: Collection,
    point: SplitPoint,
    kept: Kept,
    statistics: PointStatistics,
    without: Sequence[Transform],
) -> tuple[Float32Array, list[Float32Array]]:
    """The gains of the transform for all photos, and of those without each fold.

    Each fold's photos try them on the transform that has not seen them. The gains of a fold's
    transform are chosen by the other folds' photos, for it measures its own.
    """
    trials = []
    for fold, transform in enumerate(without):
        rows = [row for row, own in enumerate(kept.folds) if own == fold][:PHOTOS]
        chosen = [row in rows for row in range(len(kept.folds))]
        sample = _sample(collection, point.name, kept, statistics, chosen)
        trials.append(Trial(transform, sample.values, _divergence(collection.net, point, sample)))
    curves = gain_curves(trials)
    others = [[*curves[:fold], *curves[fold + 1 :]] for fold in range(len(curves))]
    return chosen_gains(curves), [chosen_gains(rest) for rest in others]


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
    collection: Collection,
    name: str,
    kept: Kept,
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


def _points(net: CapturedNetwork, names: Sequence[str] | None) -> tuple[SplitPoint, ...]:
    """The split points to fit, in execution order."""
    if names is None:
        blocks = [p for p in net.split_points if p.is_block] or list(net.split_points)
        return tuple(p for p in blocks if p.shape[p.channel_axis - 1] <= MAX_CHANNELS)
    wanted = {net.split_point(name).name for name in names}
    return tuple(point for point in net.split_points if point.name in wanted)
