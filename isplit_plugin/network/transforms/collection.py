"""One pass over the calibration photos: statistics and samples of every split point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schema import SplitPoint
from ...wire import Grid
from ..captured_network import CapturedNetwork
from ..importance import DetachedRun, recordable
from ..int8.heads import Int8Heads
from .fitted import FOLDS, fold_of
from .statistics import PointStatistics, means

SAMPLE_BYTES: Final = 512 * 1024 * 1024
"""Memory for the photos that scales and steps are found on."""
MAX_SAMPLE: Final = 64

Float16Array = npt.NDArray[np.float16]


@dataclass(slots=True)
class Kept:
    """The sampled photos of one split point, in half precision, and their numbers."""

    numbers: list[int] = field(default_factory=list)
    values: list[Float16Array] = field(default_factory=list)
    gradients: list[Float16Array] = field(default_factory=list)

    @property
    def folds(self) -> list[int]:
        return [fold_of(number) for number in self.numbers]


class Collection:
    """Statistics and samples of every split point, photo by photo.

    Attributes:
        points: the split points. grids: of their positions.
        statistics: of each fold, by split point.
        kept: the sample of each split point.
        fold_photos: how many photos each fold has.

    Parameters:
        images: how many there are, those of other processes included.
        draws: classes drawn for each photo. seed: of the draws.
        int8_heads: whose activations are collected; by default those of the network itself.
            Gradients are always the network's.
    """

    def __init__(
        self,
        net: CapturedNetwork,
        points: Sequence[SplitPoint],
        images: int,
        draws: int,
        seed: int,
        *,
        int8_heads: Int8Heads | None = None,
    ) -> None:
        self.net = net
        self._int8_heads = int8_heads
        self.points = {point.name: point for point in points}
        self.grids = {point.name: Grid.of(point.shape, point.channel_axis) for point in points}
        self.statistics: dict[str, list[PointStatistics]] = {}
        self.kept = {point.name: Kept() for point in points}
        self.fold_photos = [0] * FOLDS
        self._units: dict[str, float] = {}
        self._draws = draws
        self._seed = seed
        self._columns = {net.node(name): column for column, name in enumerate(self.points)}
        item_bytes = sum(4 * int(np.prod(point.shape)) for point in points)
        sample = max(min(MAX_SAMPLE, SAMPLE_BYTES // max(item_bytes, 1), images), 2 * FOLDS)
        self._sampled = set(np.linspace(0, max(images - 1, 0), sample).astype(int).tolist())

    @property
    def photos(self) -> int:
        return sum(self.fold_photos)

    @property
    def is_primed(self) -> bool:
        """Whether the shift and the unit of gradients are set, which the first photos give."""
        return bool(self.statistics)

    def add(
        self, numbers: Sequence[int], inputs: np.ndarray[Any, Any], *, counted: bool = True
    ) -> None:
        """Add inputs (N, ...), the photos with these numbers.

        Not ``counted``, they only prime: processes that share photos need the same shift.
        """
        x = torch.from_numpy(inputs).to(self.net.device, self.net.dtype)
        values, gradients = self._run(x, numbers)
        if self._int8_heads is not None:
            values = self._int8_heads.activations(list(self.points), x)
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
        for fold in range(FOLDS if counted else 0):
            self.fold_photos[fold] += int((folds == fold).sum())
        for name, point in self.points.items():
            item_values = channels_first(values[name], point.channel_axis)
            item_gradients = [channels_first(g, point.channel_axis) for g in gradients[name]]
            self._prime(name, item_values, item_gradients)
            if counted:
                self._add_point(name, numbers, folds, item_values, item_gradients)

    def _prime(self, name: str, values: Tensor, gradients: list[Tensor]) -> None:
        if name in self.statistics:
            return
        shift = means(values, self.grids[name].prefix).mean(dim=0).double().cpu()
        self.statistics[name] = [PointStatistics.about(shift) for _ in range(FOLDS)]
        largest = max((float(g.abs().max()) for g in gradients), default=1.0)
        self._units[name] = largest or 1.0

    def _add_point(
        self,
        name: str,
        numbers: Sequence[int],
        folds: np.ndarray[Any, Any],
        values: Tensor,
        gradients: list[Tensor],
    ) -> None:
        prefix = self.grids[name].prefix
        scaled = [gradient / self._units[name] for gradient in gradients]
        for fold in range(FOLDS):
            rows = torch.from_numpy(np.flatnonzero(folds == fold))
            if len(rows):
                own = torch.cat([g[rows] for g in scaled]) if scaled else values[:0]
                self.statistics[name][fold].add(values[rows], own, prefix)
        kept = self.kept[name]
        for row, number in enumerate(numbers):
            if number in self._sampled:
                kept.numbers.append(number)
                kept.values.append(values[row].cpu().numpy().astype(np.float16))
                if scaled:
                    kept.gradients.append(scaled[0][row].cpu().numpy().astype(np.float16))

    def _run(
        self, x: Tensor, numbers: Sequence[int]
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
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
            all_drawn = self._drawn_classes(probabilities, numbers).to(scores.device)
            for draw in range(self._draws if scores.requires_grad else 0):
                drawn = all_drawn[:, draw, None]
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

    def _drawn_classes(self, probabilities: Tensor, numbers: Sequence[int]) -> Tensor:
        """(N, draws) classes, which depend on a photo's number and not on the photos before it."""
        rows = [
            torch.multinomial(
                row,
                max(self._draws, 1),
                replacement=True,
                generator=torch.Generator().manual_seed((self._seed << 32) + number),
            )
            for row, number in zip(probabilities, numbers, strict=True)
        ]
        return torch.stack(rows)


def channels_first(tensor: Tensor, axis: int) -> Tensor:
    """(N, ...) as (N, C, P), float32."""
    return (
        tensor.detach().movedim(axis, 1).flatten(2).float()
        if tensor.dim() > 2
        else (tensor.detach().float()[:, :, None])
    )
