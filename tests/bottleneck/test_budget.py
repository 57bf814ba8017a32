"""Budgets, the loss of a batch and the learning rate."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from isplit_plugin.bottleneck import Budget
from isplit_plugin.bottleneck.budget import batch_loss, learning_rate
from isplit_plugin.errors import ArtifactError


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"validation_share": 1.0},
        {"lr": math.nan},
        {"images": 1},
        {"label_weight": -1.0},
    ],
)
def test_a_budget_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ArtifactError, match=f"budget: {name}: expected"):
        Budget(**wrong)


def test_loss_by_hand() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    full_scores = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    reconstruction = torch.full((2, 3), 2.0)
    budget = Budget(feature_weight=0.5, distill_weight=2.0, label_weight=3.0, temperature=2.0)
    p, q = F.softmax(full_scores / 2, dim=1), F.softmax(scores / 2, dim=1)
    kl = (p * (p / q).log()).sum() / 2
    expected = 0.5 * 4 / 8 + 2 * 4 * kl + 3 * -F.log_softmax(scores[0], dim=0)[0]
    loss = batch_loss(
        budget,
        activation=torch.zeros(2, 3),
        reconstruction=reconstruction,
        variance=8.0,
        scores=scores,
        full_scores=full_scores,
        labels=torch.tensor([0, -1]),
    )
    torch.testing.assert_close(loss, expected)
    without_labels_and_activation = batch_loss(
        budget,
        activation=None,
        reconstruction=reconstruction,
        variance=8.0,
        scores=scores,
        full_scores=full_scores,
        labels=torch.tensor([-1, -1]),
    )
    torch.testing.assert_close(without_labels_and_activation, 8 * kl)


def test_learning_rate() -> None:
    rates = [learning_rate(1.0, step, 12, 2) for step in range(13)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0)
