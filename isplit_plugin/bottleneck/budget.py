"""The budget of a training, and the loss and learning rate that follow from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArtifactError

__all__ = [
    "AUTOENCODER_STAGE",
    "CLOSED_FORM",
    "FINETUNE_STAGE",
    "STARTS",
    "Budget",
    "batch_loss",
    "learning_rate",
]

AUTOENCODER_STAGE: Final = "autoencoder"
FINETUNE_STAGE: Final = "finetune"
CLOSED_FORM: Final = "closed-form"
"""The start of an autoencoder from the best linear code."""
STARTS: Final = (CLOSED_FORM, "noise")
"""What an autoencoder can begin with; the first is the default."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long, on what and with which loss a bottleneck is trained.

    The first stage trains the autoencoder alone, inside the frozen network. The second stage, if
    it has epochs, fine-tunes the whole network together with the autoencoder. A stage stops early
    when the validation loss has not improved for ``patience`` epochs, and its best epoch is kept.

    The loss of a batch is::

        feature_weight * mean((reconstruction - activation)^2) / var(activation)
        + distill_weight * T^2 * KL(softmax(full / T) || softmax(scores / T))
        + label_weight * cross entropy of the photos with a label

    with T = ``temperature``, where ``full`` are the full network's scores. In the second stage the
    first term is left out, because the head changes. The optimizer is AdamW. The learning rate
    rises linearly during the first tenth of an epoch and then falls to 0 along a cosine.

    Attributes:
        epochs: most epochs of the first stage.
        finetune_epochs: most epochs of the second stage; 0 leaves it out.
        images: most photos to train on, balanced over the classes; ``None`` takes all.
        validation_share: share of these photos that is held out for validation.
        patience: epochs without improvement after which a stage stops.
        batch_size: photos in a batch.
        lr: highest learning rate of the first stage.
        finetune_lr: highest learning rate of the second stage.
        weight_decay: weight decay of AdamW.
        feature_weight, distill_weight, label_weight: weights of the terms of the loss.
        temperature: T.
        start: what the autoencoder begins with, one of :data:`STARTS`: the closed form
            (:func:`.closed_form.start_from_closed_form`), or noise.

    Raises:
        ArtifactError: a value is out of range.
    """

    epochs: int = 20
    finetune_epochs: int = 0
    images: int | None = None
    validation_share: float = 0.1
    patience: int = 5
    batch_size: int = 64
    lr: float = 3e-3
    finetune_lr: float = 1e-4
    weight_decay: float = 1e-4
    feature_weight: float = 1.0
    distill_weight: float = 1.0
    label_weight: float = 1.0
    temperature: float = 2.0
    start: str = CLOSED_FORM

    def __post_init__(self) -> None:
        minima = {"epochs": 1, "finetune_epochs": 0, "patience": 1, "batch_size": 2}
        for name, minimum in minima.items():
            value = getattr(self, name)
            if value < minimum:
                raise ArtifactError(f"budget: {name}: expected at least {minimum}, got {value}")
        if self.start not in STARTS:
            raise ArtifactError(f"budget: start: expected one of {STARTS}, got {self.start!r}")
        if not 0 < self.validation_share < 1:
            raise ArtifactError(
                "budget: validation_share: expected a number between 0 and 1, "
                f"got {self.validation_share}"
            )
        if self.images is not None and self.images < 2:
            raise ArtifactError(f"budget: images: expected at least 2, got {self.images}")
        for name in ("lr", "finetune_lr", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ArtifactError(f"budget: {name}: expected a number above 0, got {value}")
        for name in ("feature_weight", "distill_weight", "label_weight"):
            value = getattr(self, name)
            if value < 0:
                raise ArtifactError(f"budget: {name}: expected at least 0, got {value}")

    def stage_epochs(self, stage: str) -> int:
        """The most epochs of a stage."""
        return self.epochs if stage == AUTOENCODER_STAGE else self.finetune_epochs

    def stage_lr(self, stage: str) -> float:
        """The highest learning rate of a stage."""
        return self.lr if stage == AUTOENCODER_STAGE else self.finetune_lr

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def learning_rate(peak: float, step: int, steps: int, warmup: int) -> float:
    """The learning rate of one step: linear warm-up, then a cosine down to 0.

    It depends on the number of the step alone, so a resumed training needs no scheduler state.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def batch_loss(
    budget: Budget,
    *,
    activation: Tensor | None,
    reconstruction: Tensor,
    variance: float,
    scores: Tensor,
    full_scores: Tensor,
    labels: Tensor,
) -> Tensor:
    """The loss of a batch of n photos, as described at :class:`Budget`.

    Parameters:
        activation: (n, ...), or ``None`` to leave out the term of the activation.
        reconstruction: what the decoder makes of the code, (n, ...).
        variance: variance of the activations of all photos.
        scores: scores with the autoencoder, (n, classes).
        full_scores: scores of the full network, (n, classes).
        labels: class ids (n,); -1 for a photo without label.
    """
    total = scores.new_zeros(())
    scores = scores.float()
    if budget.feature_weight and activation is not None:
        error = F.mse_loss(reconstruction.float(), activation.float())
        total = total + budget.feature_weight * error / variance
    if budget.distill_weight:
        t = budget.temperature
        student = F.log_softmax(scores / t, dim=1)
        teacher = F.log_softmax(full_scores.float() / t, dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        total = total + budget.distill_weight * t * t * divergence
    labelled = labels >= 0
    if budget.label_weight and bool(torch.any(labelled)):
        error = F.cross_entropy(scores[labelled], labels[labelled])
        total = total + budget.label_weight * error
    return total
