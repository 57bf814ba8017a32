"""Fitting transforms in several processes: what each collected, and what each fitted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
import safetensors.numpy
import torch

from ...hashed_arrays import Arrays
from ...wire import Transform, pack_transforms, unpack_transforms
from ..processes import Processes
from .closed_form import Metric
from .collection import Collection, Kept
from .fitted import FOLDS
from .statistics import MatrixSum, PointStatistics

PointFit = tuple[Transform, tuple[Transform, ...], Metric]
"""The transform of a split point, those without each fold, and the metric."""

_SUMS: Final = ("activations", "gradients")


def share_counts(collection: Collection, processes: Processes) -> None:
    """Let every process know how many photos there are in each fold."""
    if processes.count == 1:
        return
    counts = processes.gather(json.dumps(collection.fold_photos).encode())
    totals = np.sum([json.loads(data) for data in counts], axis=0, dtype=np.int64)
    everything = processes.broadcast(json.dumps(totals.tolist()).encode())
    collection.fold_photos = json.loads(everything)


def share_statistics(collection: Collection, processes: Processes) -> None:
    """Merge statistics and sample of each split point at the process that fits it."""
    if processes.count == 1:
        return
    for number, name in enumerate(collection.points):
        parts = processes.gather(_packed(collection, name), to=number % processes.count)
        collection.kept[name] = Kept()
        if parts:
            _merge(collection, name, [safetensors.numpy.load(part) for part in parts])


def share_fits(fits: dict[str, PointFit], processes: Processes) -> dict[str, PointFit]:
    """The fits of all processes, at each of them."""
    if processes.count == 1:
        return fits
    own = [each for transform, without, _ in fits.values() for each in (transform, *without)]
    metrics = [[metric.exponent, metric.band_exponent] for _, _, metric in fits.values()]
    files = processes.gather(pack_transforms(own))
    chosen = processes.gather(json.dumps(metrics).encode())
    transforms = [each for data in files for each in unpack_transforms(data)]
    everything = unpack_transforms(processes.broadcast(pack_transforms(transforms)))
    all_metrics = json.loads(
        processes.broadcast(json.dumps([m for data in chosen for m in json.loads(data)]).encode())
    )
    merged = {}
    for number, (exponent, band_exponent) in enumerate(all_metrics):
        transform, *without = everything[number * (1 + FOLDS) : (number + 1) * (1 + FOLDS)]
        metric = Metric(exponent, band_exponent)
        merged[transform.split_point] = transform, tuple(without), metric
    return merged


def _packed(collection: Collection, name: str) -> bytes:
    kept = collection.kept[name]
    arrays: Arrays = {"numbers": np.asarray(kept.numbers, np.int64)}
    for key, items in (("values", kept.values), ("gradients", kept.gradients)):
        if items:
            arrays[f"sample.{key}"] = np.stack(items)
    for fold, statistics in enumerate(collection.statistics[name]):
        arrays[f"{fold}.sums"] = statistics.sums.numpy()
        arrays[f"{fold}.range"] = np.array([statistics.low, statistics.high, statistics.at_high])
        for key in _SUMS:
            matrices: MatrixSum = getattr(statistics, key)
            arrays[f"{fold}.{key}"] = matrices.total.numpy()
            arrays[f"{fold}.{key}.norms"] = np.array([matrices.squared_norms])
            arrays[f"{fold}.{key}.count"] = np.array([matrices.count])
    return bytes(safetensors.numpy.save(arrays))


def _merge(collection: Collection, name: str, parts: Sequence[Arrays]) -> None:
    merged = []
    for fold, before in enumerate(collection.statistics[name]):
        each = [_statistics(part, str(fold), before.shift) for part in parts]
        merged.append(sum(each[1:], each[0]))
    collection.statistics[name] = merged
    kept = [
        (int(number), part["sample.values"][row], part.get("sample.gradients", ())[row : row + 1])
        for part in parts
        for row, number in enumerate(part["numbers"])
    ]
    kept.sort(key=lambda photo: photo[0])
    collection.kept[name] = Kept(
        [number for number, _, _ in kept],
        [values for _, values, _ in kept],
        [gradient for _, _, gradients in kept for gradient in gradients],
    )


def _statistics(part: Arrays, fold: str, shift: torch.Tensor) -> PointStatistics:
    low, high, at_high = part[f"{fold}.range"].tolist()
    activations, gradients = (
        MatrixSum(
            torch.from_numpy(part[f"{fold}.{key}"]),
            float(part[f"{fold}.{key}.norms"][0]),
            int(part[f"{fold}.{key}.count"][0]),
        )
        for key in _SUMS
    )
    sums = torch.from_numpy(part[f"{fold}.sums"])
    return PointStatistics(shift, sums, activations, gradients, low, high, at_high)
