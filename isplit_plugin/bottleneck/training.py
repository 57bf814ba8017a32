"""Training a bottleneck: alone on cached features, then optionally with the whole network around it.

Everything random follows from the seed and the number of the epoch, and the learning rate from the number of the
step: an interrupted run that resumes from its checkpoint ends with the same weights as one that was not interrupted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ArtifactError, DataError
from ..schema import SplitPoint
from . import checkpoint
from .autoencoder import Autoencoder, AutoencoderConfig
from .budget import Budget, Epoch, learning_rate, losses
from .features import Features

__all__ = ["Fitted", "fit"]

_KEY: Final = "isplit_training"
Progress = Callable[[str, int, int, Epoch], None]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A trained bottleneck (evaluation mode). ``head`` and ``tail`` are given where the whole network was trained."""

    autoencoder: Autoencoder
    head: nn.Module | None
    tail: nn.Module | None
    history: tuple[Epoch, ...]
    seed: int


def fit(
    point: SplitPoint,
    features: Features,
    tail: nn.Module,
    *,
    network_hash: str,
    config: AutoencoderConfig | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    checkpoint_path: Path | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train one bottleneck at a split point on its features; head and tail stay as they are in the first stage.

    The network runs in evaluation mode throughout: its batch norms keep their statistics, also in the second stage.
    On CUDA the forward passes run in mixed precision. With ``checkpoint_path`` every epoch is written there, and a
    run that finds such a file goes on from it. ``progress(stage, epoch, epochs, line)`` follows every epoch.

    Raises SplitPointError (the bottleneck does not fit), DataError (fewer than four photos), NetworkMismatchError and
    ArtifactError (a checkpoint of another network, or of another training).
    """
    budget = budget or Budget()
    if len(features) < 4:
        raise DataError(f"training at {point.name!r} needs at least 4 photos, got {len(features)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = Autoencoder(point, config)
    device = next(
        (p.device for p in (*tail.parameters(), *features.head.parameters())), torch.device("cpu")
    )
    run = _Run(features, autoencoder.to(device), tail, budget, seed)
    owner = {
        "network_hash": network_hash,
        "split_point": point.name,
        "config": autoencoder.config.to_json(),
        "budget": budget.to_json(),
        "seed": seed,
        "images": len(features),
    }
    for stage, epochs in (("bottleneck", budget.epochs), ("whole", budget.whole_epochs)):
        if epochs:
            run.stage(stage, epochs, owner, checkpoint_path, progress)
    whole = budget.whole_epochs > 0
    return Fitted(
        autoencoder.eval(),
        run.head if whole else None,
        run.tail if whole else None,
        tuple(run.history),
        seed,
    )


@dataclass(slots=True)
class _State:
    """Where a stage stands: epochs done, the best held-out loss, epochs since then, and the weights it had."""

    epoch: int
    best_loss: float
    stale: int
    best: dict[str, Tensor]


class _Run:
    """The state of one training."""

    def __init__(
        self,
        features: Features,
        autoencoder: Autoencoder,
        tail: nn.Module,
        budget: Budget,
        seed: int,
    ) -> None:
        self._features = features
        self._autoencoder = autoencoder
        # Copies, because the second stage changes them; the captured network stays as it is.
        self.head = copy.deepcopy(features.head) if budget.whole_epochs else features.head
        self.tail = copy.deepcopy(tail) if budget.whole_epochs else tail
        self._budget = budget
        self._seed = seed
        self._device = next(autoencoder.parameters()).device
        self._like = torch.empty(0, device=self._device)
        self.history: list[Epoch] = []
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        held = max(1, round(len(features) * budget.holdout))
        self._held, self._train = order[:held], order[held:]

    def stage(
        self,
        stage: str,
        epochs: int,
        owner: Mapping[str, Any],
        path: Path | None,
        progress: Progress | None,
    ) -> None:
        """Train one stage and leave its best epoch's weights in place."""
        budget = self._budget
        modules = self._modules(stage)
        parameters = [p for module in modules.values() for p in module.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        peak = budget.lr if stage == "bottleneck" else budget.whole_lr
        optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=budget.weight_decay)
        scaler = torch.amp.GradScaler("cuda", enabled=self._half is torch.float16)
        state = _State(0, math.inf, 0, self._weights(modules))
        if (
            path is not None
            and path.exists()
            and not self._resume(stage, path, owner, state, optimizer)
        ):
            return
        steps = math.ceil(len(self._train) / budget.batch_size)
        while state.epoch < epochs and state.stale < budget.patience:
            first = state.epoch * steps
            train_loss = 0.0
            self._autoencoder.train()
            for step, places in enumerate(self._batches(stage, state.epoch), start=first):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(peak, step, epochs * steps, max(1, steps // 10))
                loss, _ = self._loss(stage, places)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(scaler.scale(loss), inputs=parameters)
                scaler.step(optimizer)
                scaler.update()
                train_loss += float(loss.detach()) * len(places)
            self._autoencoder.eval()
            held_loss, agreement = self._evaluate(stage)
            line = Epoch(stage, train_loss / len(self._train), held_loss, agreement)
            self.history.append(line)
            state.epoch, state.stale = state.epoch + 1, state.stale + 1
            if held_loss < state.best_loss:
                state.best_loss, state.stale, state.best = held_loss, 0, self._weights(modules)
            if path is not None:
                self._write(stage, path, owner, state, optimizer)
            if progress is not None:
                progress(stage, state.epoch, epochs, line)
        for name, module in modules.items():
            mine = {
                n.removeprefix(f"{name}."): t
                for n, t in state.best.items()
                if n.startswith(f"{name}.")
            }
            module.load_state_dict(mine)
        self._autoencoder.eval()

    def _resume(
        self,
        stage: str,
        path: Path,
        owner: Mapping[str, Any],
        state: _State,
        optimizer: torch.optim.Optimizer,
    ) -> bool:
        """Continue from a checkpoint. False: it is of the second stage, so the first one is over."""
        described, tensors = checkpoint.read(path, _KEY)
        checkpoint.check_owner(path, described, str(owner["network_hash"]))
        if described.get("owner") != dict(owner):
            raise ArtifactError(
                f"{path}: a checkpoint of another training (budget, shape, seed or photos differ)"
            )
        try:
            found = str(described["stage"])
            if found == stage:
                state.epoch, state.stale = int(described["epoch"]), int(described["stale"])
                state.best_loss = (
                    math.inf if described["best_loss"] is None else float(described["best_loss"])
                )
                self.history = [Epoch(**line) for line in described["history"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path}: not a checkpoint ({type(error).__name__}: {error})"
            ) from error
        if found == stage:
            for name, module in self._modules(stage).items():
                checkpoint.restore_module(path, module, tensors, f"{name}.")
            state.best = {
                n.removeprefix("best."): t for n, t in tensors.items() if n.startswith("best.")
            }
            checkpoint.restore_optimizer(path, optimizer, tensors)
        return not (stage == "bottleneck" and found == "whole")

    def _write(
        self,
        stage: str,
        path: Path,
        owner: Mapping[str, Any],
        state: _State,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        tensors = self._weights(self._modules(stage)) | {
            f"best.{n}": t for n, t in state.best.items()
        }
        described = {
            "owner": dict(owner),
            "network_hash": owner["network_hash"],
            "stage": stage,
            "epoch": state.epoch,
            "stale": state.stale,
            "best_loss": state.best_loss if math.isfinite(state.best_loss) else None,
            "history": [asdict(line) for line in self.history],
        }
        checkpoint.write(path, _KEY, described, tensors | checkpoint.optimizer_tensors(optimizer))

    def _modules(self, stage: str) -> dict[str, nn.Module]:
        trained: dict[str, nn.Module] = {"bottleneck": self._autoencoder}
        return (
            trained if stage == "bottleneck" else trained | {"head": self.head, "tail": self.tail}
        )

    def _weights(self, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        return {
            f"{n}.{k}": v.detach().clone()
            for n, m in modules.items()
            for k, v in m.state_dict().items()
        }

    def _batches(self, stage: str, epoch: int) -> Iterator[Tensor]:
        key = np.random.SeedSequence([self._seed, epoch, int(stage == "whole")]).generate_state(1)[
            0
        ]
        order = self._train[
            torch.randperm(len(self._train), generator=torch.Generator().manual_seed(int(key)))
        ]
        for places in torch.split(order, self._budget.batch_size):
            # Batch norm cannot learn from one item at one position.
            if len(places) > 1:
                yield places

    @property
    def _half(self) -> torch.dtype | None:
        if self._device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._half is None else torch.autocast("cuda", dtype=self._half)

    def _loss(self, stage: str, places: Tensor) -> tuple[Tensor, Tensor]:
        teacher = self._features.teacher
        with self._autocast():
            if stage == "bottleneck":
                activation = self._features.batch(places, self._like)
                known: Tensor | None = activation
            else:
                rows = teacher.rows[places.numpy()]
                activation = self.head(self._features.photos.tensor(rows, self._like))
                known = None
            restored = self._autoencoder(activation)
            scores = self.tail(restored)
        loss = losses(
            self._budget,
            activation=known,
            restored=restored,
            variance=self._features.variance,
            scores=scores,
            full=teacher.scores[places].to(self._device),
            labels=teacher.labels[places].to(self._device),
        )
        return loss, scores

    def _evaluate(self, stage: str) -> tuple[float, float]:
        total, agree = 0.0, 0
        with torch.no_grad():
            for places in torch.split(self._held, 256):
                loss, scores = self._loss(stage, places)
                full = self._features.teacher.scores[places].argmax(dim=1)
                total += float(loss) * len(places)
                agree += int((scores.argmax(dim=1).cpu() == full).sum())
        return total / len(self._held), agree / len(self._held)
