"""Training correctors: distilled from the full network's answers on the calibration photos."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ... import image as im
from ...errors import DataError
from ...schema import Preprocessing
from ...wire import QUALITIES, Transform
from ..captured_network import CapturedNetwork
from ..transforms.fitted import FOLDS, FittedTransforms, fold_of
from .corrector import Corrector
from .fitted import CorrectorFit
from .views import Views, collect_views

CROPS: Final = 2
"""Random crops of each photo, besides the photo itself."""
LEARNING_RATE: Final = 2e-3
WARM_UP: Final = 5
MIN_STEPS: Final = 20
"""The fewest steps, whatever the budget: fewer make nothing better."""
CHECKED: Final = 32
"""The most photos of each fold on which it is checked which qualities gain."""

_TIMED: Final = 3
_FLOOR: Final = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class _Material:
    """What one corrector learns from: some views, behind one transform."""

    views: Views
    rows: npt.NDArray[np.int64]
    transform: Transform


class PointTraining:
    """The trainings of one split point.

    ``report`` gets the share that is done.
    """

    def __init__(
        self,
        net: CapturedNetwork,
        name: str,
        transforms: FittedTransforms,
        *,
        batch_size: int,
        seed: int,
        report: Callable[[float], None],
    ) -> None:
        self._net = net
        self._name = name
        self._whole = transforms.transforms[name]
        self._without = [own[name] for own in transforms.without_fold]
        self._batch_size = batch_size
        self._seed = seed
        self._report = report
        self._tail = net.bisect(name)[1]
        self._channels_last = True
        self._weights = torch.ones(len(QUALITIES))

    def run(
        self,
        images: Sequence[tuple[im.Image, int | None]],
        preprocessing: Preprocessing,
        seconds: float,
        steps: int | None,
    ) -> tuple[Corrector, list[Corrector], CorrectorFit]:
        """The corrector to deploy, those without each fold, and what they bring."""
        started = time.monotonic()
        views = collect_views(
            self._net,
            self._name,
            images,
            preprocessing,
            crops=CROPS,
            batch_size=self._batch_size,
            seed=self._seed,
            report=lambda done: self._report(0.2 * done / len(images)),
        )
        folds = np.array([fold_of(number) for number in views.numbers.tolist()])
        everything = _Material(views, np.arange(len(views)), self._whole)
        others = [
            _Material(views, np.flatnonzero(folds != fold), self._without[fold])
            for fold in range(FOLDS)
        ]
        chosen = [_checked(np.flatnonzero((folds == fold) & views.whole)) for fold in range(FOLDS)]
        if not all(map(len, chosen)):
            raise DataError(f"too few usable photos for the corrector at {self._name!r}")
        check_started = time.monotonic()
        before = self._mean_divergences(views, chosen, ())
        check_s = time.monotonic() - check_started
        self._weigh(before)
        if steps is None:
            seconds -= time.monotonic() - started + check_s
            steps = self._affordable_steps(everything, seconds)
        trained = [
            self._train(material, steps, 0.2 + 0.25 * number)
            for number, material in enumerate((everything, *others))
        ]
        after = self._mean_divergences(views, chosen, trained[1:])
        active = torch.tensor([a < b for a, b in zip(after, before, strict=True)])
        for corrector in trained:
            corrector.active.copy_(active)
        return trained[0], trained[1:], CorrectorFit(steps, before, after)

    def _affordable_steps(self, material: _Material, seconds: float) -> int:
        started = time.monotonic()
        self._train(material, _TIMED)
        step_s = (time.monotonic() - started) / _TIMED
        return max(int(seconds / (1 + FOLDS) / step_s) - 1, MIN_STEPS)

    def _weigh(self, divergences: Sequence[float]) -> None:
        """Let all qualities count alike, except where next to nothing can be gained."""
        floor = max(_FLOOR * max(divergences), 1e-12)
        self._weights = torch.tensor([1 / max(each, floor) for each in divergences])

    def _train(self, material: _Material, steps: int, start: float | None = None) -> Corrector:
        """A corrector after some steps of AdamW (Loshchilov & Hutter, *ICLR* 2019) with a cosine.

        ``start``: the share of the work that was done before; ``None``: not reported.
        """
        rng = np.random.default_rng([self._seed, 2])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            some = material.views.values[material.rows[:: max(len(material.rows) // 64, 1)]]
            scale = max(float(some.float().std()), 1e-6)
            corrector = Corrector(material.transform, scale=scale).to(self._net.device).train()
        parameters = list(corrector.parameters())
        optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=1e-4)
        order: list[int] = []
        with torch.inference_mode(False), torch.enable_grad():
            for step in range(steps):
                while len(order) < self._batch_size:
                    order += rng.permutation(material.rows).tolist()
                rows, order = order[: self._batch_size], order[self._batch_size :]
                qualities = rng.integers(0, len(QUALITIES), len(rows))
                rate = min((step + 1) / WARM_UP, 1) * (1 + math.cos(math.pi * step / steps)) / 2
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
                loss = self._loss(corrector, material, rows, qualities)
                # Not backward(): the tail's weights stay as they are, and need no gradients.
                gradients = torch.autograd.grad(loss, parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                if start is not None:
                    self._report(start + 0.25 * (step + 1) / steps)
        return corrector.eval().requires_grad_(False)

    def _loss(
        self,
        corrector: Corrector,
        material: _Material,
        rows: Sequence[int],
        qualities: npt.NDArray[np.int64],
    ) -> Tensor:
        device = self._net.device
        exact = material.views.values[rows].float()
        decoded = _decoded(material.transform, exact, qualities).to(device)
        corrected: Tensor = corrector(decoded, torch.from_numpy(qualities).to(device))
        divergence = self._divergence(corrected, material.views.answers[rows])
        return (self._weights[qualities].to(device) * divergence).mean()

    def _divergence(self, activation: Tensor, answers: Tensor) -> Tensor:
        """Of the tail's answers from the full ones (N, classes): (N,)."""
        activation = activation.to(self._net.dtype)
        scores = self._scores(activation).float()
        full = answers.to(scores.device)
        difference = full - torch.log_softmax(scores, dim=1)
        divergence: Tensor = (full.exp() * difference).sum(dim=1)
        return divergence

    def _scores(self, activation: Tensor) -> Tensor:
        """The tail's, channels last where it can: that is a fifth faster on a CPU."""
        if activation.dim() == 4 and self._channels_last:
            try:
                last = activation.contiguous(memory_format=torch.channels_last)
                scores: Tensor = self._tail(last)
            except RuntimeError:  # `view` wants the usual layout
                self._channels_last = False
            else:
                return scores
        usual: Tensor = self._tail(activation.contiguous())
        return usual

    def _mean_divergences(
        self, views: Views, chosen: Sequence[npt.NDArray[np.int64]], correctors: Sequence[Corrector]
    ) -> tuple[float, ...]:
        """For each quality, the mean divergence on the chosen views of each fold, decoded with the
        fold's transform and, if there are any, corrected with its corrector.
        """
        sums = np.zeros(len(QUALITIES))
        device = self._net.device
        for fold, rows in enumerate(chosen):
            for part in np.array_split(rows, -(-len(rows) // self._batch_size)):
                for quality in QUALITIES:
                    qualities = np.full(len(part), quality)
                    exact = views.values[part].float()
                    with torch.inference_mode():
                        values = _decoded(self._without[fold], exact, qualities).to(device)
                        if correctors:
                            asked = torch.from_numpy(qualities).to(device)
                            values = correctors[fold](values, asked)
                        divergence = self._divergence(values, views.answers[part])
                    sums[quality] += float(divergence.sum())
        return tuple((sums / sum(len(rows) for rows in chosen)).tolist())


def _checked(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At most :data:`CHECKED` of the rows, evenly."""
    kept = min(CHECKED, len(rows))
    return rows[np.linspace(0, len(rows) - 1, kept).astype(int)] if kept else rows


def _decoded(transform: Transform, exact: Tensor, qualities: npt.NDArray[np.int64]) -> Tensor:
    """What a tail decodes of activations (N, *shape), without the coder, which loses nothing."""
    plans = [transform.plan(int(quality)) for quality in qualities]
    items = [
        plan.reconstruct(plan.quantise(item))
        for plan, item in zip(plans, exact.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(items))
