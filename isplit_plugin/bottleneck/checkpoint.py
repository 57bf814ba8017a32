"""The checkpoint of a training, from which an interrupted training resumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import ArtifactError
from . import tensor_files
from .stages import EpochResult, Stage, copy_weights

__all__ = ["CheckpointFile"]

_KEY: Final = "isplit_training"


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """The checkpoint of one training.

    ``identity`` describes the training; a checkpoint with another identity is refused.
    """

    path: Path
    identity: Mapping[str, Any]

    def exists(self) -> bool:
        return self.path.exists()

    def write(self, stage: Stage, history: list[EpochResult]) -> None:
        header = {
            "network_hash": self.identity["network_hash"],
            "training": dict(self.identity),
            "stage": stage.name,
            "epoch": stage.epoch,
            "epochs_without_progress": stage.epochs_without_progress,
            "best_loss": stage.best_loss if math.isfinite(stage.best_loss) else None,
            "history": [asdict(result) for result in history],
        }
        tensors = copy_weights(stage.modules)
        tensors |= tensor_files.with_prefix("best", stage.best_weights)
        tensors |= _optimizer_tensors(stage.optimizer)
        tensor_files.write(self.path, _KEY, header, tensors)

    def restore(self, stage: Stage, history: list[EpochResult]) -> str:
        """Restore stage and history, if the checkpoint was written in this stage.

        Returns the name of the stage in which the checkpoint was written. Raises
        NetworkMismatchError and ArtifactError.
        """
        header, tensors = tensor_files.read(self.path, _KEY)
        tensor_files.check_network(self.path, header, str(self.identity["network_hash"]))
        if header.get("training") != dict(self.identity):
            raise ArtifactError(
                f"{self.path}: a checkpoint of another training "
                "(expected the same budget, autoencoder, seed and photos)"
            )
        try:
            name = str(header["stage"])
            if name != stage.name:
                return name
            best_loss = header["best_loss"]
            stage.epoch = int(header["epoch"])
            stage.epochs_without_progress = int(header["epochs_without_progress"])
            stage.best_loss = math.inf if best_loss is None else float(best_loss)
            history[:] = [EpochResult(**result) for result in header["history"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{self.path}: not a checkpoint ({type(error).__name__}: {error})"
            ) from error
        for prefix, module in stage.modules.items():
            tensor_files.load_module(self.path, module, prefix, tensors)
        stage.best_weights = tensor_files.without_prefix("best", tensors)
        self._restore_optimizer(stage.optimizer, tensors)
        return name

    def _restore_optimizer(self, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for full_name, tensor in tensor_files.without_prefix("optimizer", tensors).items():
            index, _, name = full_name.partition(".")
            state.setdefault(int(index), {})[name] = tensor
        try:
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{self.path}: the optimizer's state does not fit ({error})"
            ) from error


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors, named ``optimizer.<parameter>.<name>``."""
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
