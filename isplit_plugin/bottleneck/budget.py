"""How long and by which losses a bottleneck is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArtifactError

__all__ = ["Budget", "Epoch", "learning_rate", "losses"]


@dataclass(frozen=True, slots=True)
class Budget:
    """The training budget. The bottleneck alone for ``epochs``, then the whole network for ``whole_epochs``.

    ``images``: at most so many training photos (``None``: all), of which the share ``holdout`` decides when to stop:
    after ``patience`` epochs without a better held-out loss. The loss of a batch is::

        feature * mean((decoded - activation)^2) / var(activation)
        + distill * T^2 KL(softmax(full / T) || softmax(student / T))  +  label * cross entropy of the known labels

    with T = ``temperature``. AdamW with ``lr`` (``whole_lr`` in the second stage), a tenth of the first epoch to warm
    up, then a cosine to zero.
    """

    epochs: int = 20
    whole_epochs: int = 0
    images: int | None = None
    holdout: float = 0.1
    patience: int = 5
    batch_size: int = 64
    lr: float = 3e-3
    whole_lr: float = 1e-4
    weight_decay: float = 1e-4
    feature: float = 1.0
    distill: float = 1.0
    label: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("whole_epochs", 0), ("patience", 1), ("batch_size", 2)):
            if getattr(self, name) < low:
                raise ArtifactError(
                    f"budget: {name}: expected at least {low}, got {getattr(self, name)}"
                )
        if not 0 < self.holdout < 1 or (self.images is not None and self.images < 2):
            raise ArtifactError(
                f"budget: expected a holdout within (0, 1) of at least 2 images, got {self}"
            )
        numbers = (self.lr, self.whole_lr, self.temperature)
        if (
            not all(math.isfinite(v) and v > 0 for v in numbers)
            or min(self.feature, self.distill, self.label) < 0
        ):
            raise ArtifactError(
                f"budget: expected rates and temperature above 0 and weights from 0, got {self}"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Budget:
        """Raises ArtifactError for anything that is no budget."""
        try:
            return cls(**{f.name: raw[f.name] for f in fields(cls)})
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"not a training budget ({type(error).__name__}: {error})"
            ) from error


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of a training's history: mean loss in training, and loss and agreement with the full network on the
    photos held out."""

    stage: str
    train_loss: float
    loss: float
    agreement: float


def learning_rate(peak: float, step: int, steps: int, warmup: int) -> float:
    """A pure function of the step, so that a resumed run needs no scheduler's state."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def losses(
    budget: Budget,
    *,
    activation: Tensor | None,
    restored: Tensor | None,
    variance: float,
    scores: Tensor,
    full: Tensor,
    labels: Tensor,
) -> Tensor:
    """The loss of a batch (see :class:`Budget`). ``activation`` is ``None`` where the head is trained too."""
    total = scores.new_zeros(())
    if budget.feature and activation is not None and restored is not None:
        total = total + budget.feature * F.mse_loss(restored.float(), activation.float()) / variance
    if budget.distill:
        t = budget.temperature
        student, goal = (
            F.log_softmax(scores.float() / t, dim=1),
            F.log_softmax(full.float() / t, dim=1),
        )
        total = total + budget.distill * t * t * F.kl_div(
            student, goal, reduction="batchmean", log_target=True
        )
    known = labels >= 0
    if budget.label and bool(torch.any(known)):
        total = total + budget.label * F.cross_entropy(scores.float()[known], labels[known])
    return total
