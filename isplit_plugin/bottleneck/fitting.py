"""Training one autoencoder: first alone inside the frozen network, then optionally with it.

All randomness follows from the seed and the number of the epoch, and the learning rate from the
number of the step. Therefore a training that was interrupted and resumed from its checkpoint ends
with the same weights as one that was not interrupted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError
from ..schema import SplitPoint
from .autoencoder import Autoencoder, AutoencoderConfig
from .budget import (
    AUTOENCODER_STAGE,
    CLOSED_FORM,
    FINETUNE_STAGE,
    Budget,
    batch_loss,
    learning_rate,
)
from .checkpoint import CheckpointFile
from .closed_form import start_from_closed_form
from .features import Features
from .stages import EpochResult, Stage
from .tensor_files import without_prefix

__all__ = ["FitResult", "fit"]

_MIN_PHOTOS: Final = 4
_VALIDATION_BATCH: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """A trained autoencoder in evaluation mode.

    ``head`` and ``tail`` are fine-tuned copies, or ``None`` if the second stage was left out.
    """

    autoencoder: Autoencoder
    head: nn.Module | None
    tail: nn.Module | None
    history: tuple[EpochResult, ...]


def fit(
    point: SplitPoint,
    features: Features,
    tail: nn.Module,
    *,
    network_hash: str,
    config: AutoencoderConfig | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Callable[[EpochResult], None] | None = None,
) -> FitResult:
    """Train one autoencoder at a split point.

    The network runs in evaluation mode in both stages, so its batch norms keep their statistics.
    The first stage changes neither head nor tail; the second stage changes copies of them. On CUDA
    the forward passes run in mixed precision.

    Parameters:
        features: the activations at the split point, and the targets.
        tail: activation (N, ...) -> scores (N, classes).
        network_hash: the network that a checkpoint belongs to.
        checkpoint: a file that is written after every epoch. If it exists already, the training
            resumes from it.
        progress: called after every epoch.

    Raises:
        SplitPointError: the autoencoder does not fit the split point.
        DataError: there are fewer than four photos.
        NetworkMismatchError: the checkpoint belongs to another network.
        ArtifactError: the checkpoint belongs to another training, or is not a checkpoint.
    """
    budget = budget or Budget()
    if len(features) < _MIN_PHOTOS:
        raise DataError(
            f"training at {point.name!r} needs at least {_MIN_PHOTOS} photos, got {len(features)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = Autoencoder(point, config)
    parameter = next(chain(tail.parameters(), features.head.parameters()), None)
    autoencoder.to("cpu" if parameter is None else parameter.device)
    if budget.start == CLOSED_FORM:
        start_from_closed_form(autoencoder, point, features, tail, seed=seed)
    training = _Training(features, autoencoder, tail, budget, seed)
    identity = {
        "network_hash": network_hash,
        "split_point": point.name,
        "config": autoencoder.config.to_json(),
        "budget": budget.to_json(),
        "seed": seed,
        "images": len(features),
    }
    file = None if checkpoint is None else CheckpointFile(checkpoint, identity)
    training.run_stage(AUTOENCODER_STAGE, file, progress)
    if budget.finetune_epochs == 0:
        return FitResult(autoencoder, None, None, tuple(training.history))
    training.run_stage(FINETUNE_STAGE, file, progress)
    return FitResult(autoencoder, training.head, training.tail, tuple(training.history))


class _Training:
    """The modules, photos and history of one training."""

    def __init__(
        self,
        features: Features,
        autoencoder: Autoencoder,
        tail: nn.Module,
        budget: Budget,
        seed: int,
    ) -> None:
        # The second stage changes head and tail; the captured network must stay as it is.
        self.head = copy.deepcopy(features.head) if budget.finetune_epochs else features.head
        self.tail = copy.deepcopy(tail) if budget.finetune_epochs else tail
        self.history: list[EpochResult] = []
        self._features = features
        self._autoencoder = autoencoder
        self._budget = budget
        self._seed = seed
        self._device = next(autoencoder.parameters()).device
        self._amp_dtype = _amp_dtype(self._device)
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        validation_count = max(1, round(len(features) * budget.validation_share))
        self._validation_indices = order[:validation_count]
        self._train_indices = order[validation_count:]

    def run_stage(
        self,
        name: str,
        file: CheckpointFile | None,
        progress: Callable[[EpochResult], None] | None,
    ) -> None:
        """Train one stage and load the weights of its best epoch."""
        stage = Stage.begin(name, self._modules(name), self._budget)
        if file is not None and file.exists():
            stage_in_file = file.restore(stage, self.history)
            if stage_in_file == FINETUNE_STAGE and name == AUTOENCODER_STAGE:
                return  # this stage is over, and the next one restores all of its modules
        scaler = torch.amp.GradScaler("cuda", enabled=self._amp_dtype is torch.float16)
        while (
            stage.epoch < self._budget.stage_epochs(name)
            and stage.epochs_without_progress < self._budget.patience
        ):
            train_loss = self._train_epoch(stage, scaler)
            validation_loss, agreement = self._validate(name)
            stage.finish_epoch(validation_loss)
            result = EpochResult(name, stage.epoch, train_loss, validation_loss, agreement)
            self.history.append(result)
            if file is not None:
                file.write(stage, self.history)
            if progress is not None:
                progress(result)
        for prefix, module in stage.modules.items():
            module.load_state_dict(without_prefix(prefix, stage.best_weights))
        self._autoencoder.eval()

    def _modules(self, stage: str) -> dict[str, nn.Module]:
        if stage == AUTOENCODER_STAGE:
            return {"autoencoder": self._autoencoder}
        return {"autoencoder": self._autoencoder, "head": self.head, "tail": self.tail}

    def _train_epoch(self, stage: Stage, scaler: torch.amp.GradScaler) -> float:
        """One pass over the training photos. Returns their mean loss."""
        steps_per_epoch = math.ceil(len(self._train_indices) / self._budget.batch_size)
        steps = self._budget.stage_epochs(stage.name) * steps_per_epoch
        step = stage.epoch * steps_per_epoch
        total = 0.0
        self._autoencoder.train()
        for indices in self._batches(stage):
            stage.optimizer.param_groups[0]["lr"] = learning_rate(
                self._budget.stage_lr(stage.name), step, steps, max(1, steps_per_epoch // 10)
            )
            loss, _ = self._loss_and_scores(stage.name, indices)
            stage.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(scaler.scale(loss), inputs=stage.parameters)
            scaler.step(stage.optimizer)
            scaler.update()
            total += float(loss.detach()) * len(indices)
            step += 1
        self._autoencoder.eval()
        return total / len(self._train_indices)

    def _batches(self, stage: Stage) -> Iterator[Tensor]:
        """The training photos in the random order of one epoch."""
        entropy = [self._seed, stage.epoch, int(stage.name == FINETUNE_STAGE)]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self._train_indices), generator=generator)
        for indices in torch.split(self._train_indices[order], self._budget.batch_size):
            # Batch norm cannot learn from a single photo with a single position.
            if len(indices) > 1:
                yield indices

    def _validate(self, stage: str) -> tuple[float, float]:
        """Mean loss and agreement of the validation photos."""
        total = 0.0
        agreeing = 0
        with torch.no_grad():
            for indices in torch.split(self._validation_indices, _VALIDATION_BATCH):
                loss, scores = self._loss_and_scores(stage, indices)
                top1 = self._features.targets.scores[indices].argmax(dim=1)
                total += float(loss) * len(indices)
                agreeing += int((scores.argmax(dim=1).cpu() == top1).sum())
        count = len(self._validation_indices)
        return total / count, agreeing / count

    def _loss_and_scores(self, stage: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        with self._autocast():
            if stage == AUTOENCODER_STAGE:
                activation = self._features.batch(indices, self._device)
            else:
                activation = self.head(self._features.inputs(indices, self._device))
            reconstruction = self._autoencoder(activation)
            scores = self.tail(reconstruction)
        targets = self._features.targets
        loss = batch_loss(
            self._budget,
            activation=activation if stage == AUTOENCODER_STAGE else None,
            reconstruction=reconstruction,
            variance=self._features.variance,
            scores=scores,
            full_scores=targets.scores[indices].to(self._device),
            labels=targets.labels[indices].to(self._device),
        )
        return loss, scores

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._amp_dtype is None:
            return nullcontext()
        return torch.autocast("cuda", dtype=self._amp_dtype)


def _amp_dtype(device: torch.device) -> torch.dtype | None:
    """The type of mixed precision on this device; ``None``: full precision."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
