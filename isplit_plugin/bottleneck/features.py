"""Activations and training targets, computed once and shared by several trainings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..network import CapturedNetwork, activations
from .photos import Photos, input_batches

__all__ = ["Features", "Targets", "compute_features", "compute_targets"]

_BATCH_SIZE: Final = 64
_FLOAT16_MAX: Final = 65504.0
_MIN_VARIANCE: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What a bottleneck is trained towards, for M photos.

    Attributes:
        rows: the photos, as rows of a :class:`Photos`, shape (M,).
        scores: the full network's scores, shape (M, classes).
        labels: class ids, shape (M,); -1 for a photo without label.
    """

    rows: npt.NDArray[np.int64]
    scores: Tensor
    labels: Tensor

    @property
    def top1(self) -> npt.NDArray[np.int64]:
        """The full network's top-1 classes, shape (M,)."""
        return np.asarray(self.scores.argmax(dim=1).numpy(), dtype=np.int64)

    def first(self, count: int) -> Targets:
        """The targets of the first ``count`` photos."""
        return Targets(self.rows[:count], self.scores[:count], self.labels[:count])


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The activations of M photos at one split point.

    Attributes:
        split_point: name of the split point.
        targets: the photos and their targets.
        photos: where the photos come from.
        head: input (N, C, H, W) -> activation (N, ...).
        activations: (M, ...) float16, or float32 if a value exceeds float16. ``None`` if they
            exceed the memory bound; then the head runs again for each batch.
        variance: variance of the activation's values over all photos (over the first batch if the
            activations are not kept).
    """

    split_point: str
    targets: Targets
    photos: Photos
    head: nn.Module
    activations: Tensor | None
    variance: float

    def __len__(self) -> int:
        return len(self.targets.rows)

    def batch(self, indices: Tensor, device: torch.device) -> Tensor:
        """Activations (n, ...) float32 at these indices, each from 0 to M - 1."""
        if self.activations is not None:
            return self.activations[indices].to(device, torch.float32)
        with torch.no_grad():
            activation: Tensor = self.head(self.inputs(indices, device))
        return activation

    def inputs(self, indices: Tensor, device: torch.device) -> Tensor:
        """Network inputs (n, C, H, W) float32 at these indices, each from 0 to M - 1."""
        return self.photos.tensor(self.targets.rows[indices.numpy()], device=device)


def compute_targets(net: CapturedNetwork, photos: Photos, rows: npt.NDArray[np.int64]) -> Targets:
    """Run the full network on these photos."""
    with torch.inference_mode():
        scores = [net.model(x).float().cpu() for x in input_batches(net, photos, rows, _BATCH_SIZE)]
    # A copy outside of inference mode, because an inference tensor cannot enter a loss.
    return Targets(rows, torch.cat(scores).clone(), torch.from_numpy(photos.labels[rows]))


def compute_features(
    net: CapturedNetwork,
    photos: Photos,
    split_points: Sequence[str],
    targets: Targets,
    *,
    max_bytes: int = 2 << 30,
) -> Iterator[list[Features]]:
    """The features at several split points, computed in as few passes over the photos as possible.

    Yields one group of split points after another. The activations of one group take at most
    ``max_bytes``, so a caller should be done with a group before it asks for the next one. A split
    point that exceeds ``max_bytes`` on its own gets a group without activations.
    """
    names = [net.split_point(name).name for name in split_points]
    count = len(targets.rows)
    nbytes = {name: count * int(np.prod(net.split_point(name).shape)) * 2 for name in names}
    while names:
        group = [names.pop(0)]
        if nbytes[group[0]] > max_bytes:
            yield [_without_activations(net, photos, group[0], targets)]
            continue
        while names and sum(nbytes[n] for n in (*group, names[0])) <= max_bytes:
            group.append(names.pop(0))
        yield _with_activations(net, photos, group, targets)


def _with_activations(
    net: CapturedNetwork, photos: Photos, split_points: Sequence[str], targets: Targets
) -> list[Features]:
    count = len(targets.rows)
    kept = {
        name: torch.empty(count, *net.split_point(name).shape, dtype=torch.float16)
        for name in split_points
    }
    # Number of values, their sum and their sum of squares.
    moments = {name: np.zeros(3) for name in split_points}
    start = 0
    for x in input_batches(net, photos, targets.rows, _BATCH_SIZE):
        batch, _ = activations(net, split_points, x)
        for name, activation in batch.items():
            values = activation.float()
            precise = values.double()
            moments[name] += (
                values.numel(),
                float(precise.sum()),
                float(precise.square().sum()),
            )
            if kept[name].dtype == torch.float16 and float(values.abs().max()) > _FLOAT16_MAX:
                kept[name] = kept[name].float()
            kept[name][start : start + len(x)] = values.cpu()
        start += len(x)
    return [
        Features(name, targets, photos, net.bisect(name)[0], kept[name], _variance(*moments[name]))
        for name in split_points
    ]


def _without_activations(
    net: CapturedNetwork, photos: Photos, split_point: str, targets: Targets
) -> Features:
    head, _ = net.bisect(split_point)
    first = next(input_batches(net, photos, targets.rows, _BATCH_SIZE))
    with torch.no_grad():
        values: Tensor = head(first).double()
    variance = max(float(values.var(correction=0)), _MIN_VARIANCE)
    return Features(split_point, targets, photos, head, None, variance)


def _variance(count: float, total: float, squares: float) -> float:
    return max(float(squares / count - (total / count) ** 2), _MIN_VARIANCE)
