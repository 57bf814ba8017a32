"""The two stages of a training: what a stage trains, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .budget import Budget
from .tensor_files import with_prefix

__all__ = ["EpochResult", "Stage", "copy_weights"]


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One epoch of a training.

    Attributes:
        stage: "autoencoder" (the autoencoder alone) or "finetune" (the whole network).
        epoch: number of the epoch within its stage, from 1.
        train_loss: mean loss of the training photos during the epoch.
        validation_loss: mean loss of the validation photos after the epoch.
        agreement: share of the validation photos whose top-1 class equals the full network's.
    """

    stage: str
    epoch: int
    train_loss: float
    validation_loss: float
    agreement: float


@dataclass(slots=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: "autoencoder" or "finetune".
        modules: the modules that the stage trains, by name.
        optimizer: updates the parameters of these modules.
        best_weights: weights after the epoch with the lowest validation loss.
        best_loss: that validation loss.
        epoch: number of completed epochs.
        epochs_without_progress: epochs since the best one.
    """

    name: str
    modules: Mapping[str, nn.Module]
    optimizer: Optimizer
    best_weights: dict[str, Tensor]
    best_loss: float = math.inf
    epoch: int = 0
    epochs_without_progress: int = 0

    @classmethod
    def begin(cls, name: str, modules: Mapping[str, nn.Module], budget: Budget) -> Stage:
        """A stage before its first epoch."""
        parameters = [p for module in modules.values() for p in module.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(
            parameters, lr=budget.stage_lr(name), weight_decay=budget.weight_decay
        )
        return cls(name, modules, optimizer, copy_weights(modules))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all modules."""
        parameters: list[nn.Parameter] = self.optimizer.param_groups[0]["params"]
        return parameters

    def finish_epoch(self, validation_loss: float) -> None:
        """Count an epoch, and keep its weights if it is the best so far."""
        self.epoch += 1
        self.epochs_without_progress += 1
        if validation_loss < self.best_loss:
            self.best_loss = validation_loss
            self.best_weights = copy_weights(self.modules)
            self.epochs_without_progress = 0


def copy_weights(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A copy of all weights, named ``<module>.<name>``."""
    weights: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        weights |= with_prefix(prefix, module.state_dict())
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
