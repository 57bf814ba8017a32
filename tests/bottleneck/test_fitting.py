"""Training one autoencoder: it learns, resumes to the same bits and stops early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys.bottleneck import toy_network, toy_photos

from isplit_plugin.bottleneck import (
    Budget,
    EpochResult,
    Features,
    FitResult,
    Photos,
    compute_features,
    compute_targets,
    fit,
)
from isplit_plugin.errors import ArtifactError, DataError, NetworkMismatchError

POINT = "0"


@pytest.fixture(scope="module")
def photos() -> Photos:
    return toy_photos(90)


def features_of(photos: Photos, limit: int | None = None) -> Features:
    net = toy_network()
    targets = compute_targets(net, photos, photos.sample(limit))
    [[features]] = compute_features(net, photos, [POINT], targets)
    return features


@pytest.fixture(scope="module")
def features(photos: Photos) -> Features:
    return features_of(photos)


@pytest.fixture(scope="module")
def few_features(photos: Photos) -> Features:
    """For tests that do not depend on how well the training goes."""
    return features_of(photos, 30)


def train(features: Features, **options: Any) -> FitResult:
    net = toy_network()
    defaults: dict[str, Any] = {
        "network_hash": "toy",
        "budget": Budget(epochs=4, batch_size=16),
    }
    tail = net.bisect(POINT)[1]
    return fit(net.split_point(POINT), features, tail, **(defaults | options))


def test_training_lowers_the_loss_and_changes_nothing_else(features: Features) -> None:
    net = toy_network()
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    result = train(features, budget=Budget(epochs=25, batch_size=16, lr=1e-2, patience=25))
    assert result.history[-1].validation_loss < 0.6 * result.history[0].validation_loss
    assert result.history[-1].agreement >= 0.8
    assert result.head is None
    assert not result.autoencoder.training
    after = net.model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert all(parameter.grad is None for parameter in net.model.parameters())


def test_the_seed_decides(few_features: Features) -> None:
    first, again, other = (
        train(few_features, seed=seed).autoencoder.state_dict() for seed in (5, 5, 6)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_callers_random_numbers_are_left_alone(few_features: Features) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train(few_features, budget=Budget(epochs=1))
    assert torch.equal(torch.rand(3), expected)


class Interruption(Exception):  # noqa: N818
    """Ends a training at a chosen moment."""


@pytest.mark.parametrize(("finetune_epochs", "after"), [(0, 1), (0, 3), (2, 2), (2, 3), (2, 4)])
def test_an_interrupted_training_resumes_to_the_same_bits(
    few_features: Features, tmp_path: Path, finetune_epochs: int, after: int
) -> None:
    budget = Budget(epochs=3, finetune_epochs=finetune_epochs, batch_size=16, finetune_lr=1e-3)
    expected = train(few_features, budget=budget)
    epochs = []

    def stop(result: EpochResult) -> None:
        epochs.append((result.stage, result.epoch))
        if len(epochs) == after:
            raise Interruption

    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(Interruption):
        train(few_features, budget=budget, checkpoint=checkpoint, progress=stop)
    resumed = train(
        few_features,
        budget=budget,
        checkpoint=checkpoint,
        progress=lambda result: epochs.append((result.stage, result.epoch)),
    )
    all_epochs = [("autoencoder", epoch) for epoch in (1, 2, 3)]
    all_epochs += [("finetune", epoch) for epoch in range(1, finetune_epochs + 1)]
    assert epochs == all_epochs  # nothing is repeated, nothing left out
    assert resumed.history == expected.history
    pairs: list[tuple[torch.nn.Module | None, torch.nn.Module | None]] = [
        (expected.autoencoder, resumed.autoencoder)
    ]
    if finetune_epochs:
        pairs += [(expected.head, resumed.head), (expected.tail, resumed.tail)]
    for module, resumed_module in pairs:
        assert module is not None
        assert resumed_module is not None
        state = resumed_module.state_dict()
        assert all(torch.equal(t, state[name]) for name, t in module.state_dict().items())


def test_the_network_is_finetuned_as_a_copy(few_features: Features) -> None:
    head, tail = toy_network().bisect(POINT)
    budget = Budget(epochs=1, finetune_epochs=2, batch_size=16, finetune_lr=1e-3)
    result = train(few_features, budget=budget)
    assert [epoch.stage for epoch in result.history] == ["autoencoder", "finetune", "finetune"]
    for original, finetuned in ((head, result.head), (tail, result.tail)):
        assert finetuned is not None
        state = finetuned.state_dict()
        assert original.state_dict().keys() == state.keys()
        assert any(not torch.equal(t, state[name]) for name, t in original.state_dict().items())


def test_early_stopping_keeps_the_best_epoch(features: Features, tmp_path: Path) -> None:
    # At this rate the loss soon gets worse, and with patience 1 the training stops there.
    budget = Budget(epochs=40, patience=1, batch_size=16, lr=0.3)
    checkpoint = tmp_path / "c.safetensors"
    checkpoints: list[dict[str, torch.Tensor]] = []
    result = train(
        features,
        budget=budget,
        checkpoint=checkpoint,
        progress=lambda _result: checkpoints.append(load_file(checkpoint)),
    )
    losses = [epoch.validation_loss for epoch in result.history]
    best = losses.index(min(losses))
    assert best == len(losses) - 2 < 38
    for name, tensor in result.autoencoder.state_dict().items():
        assert torch.equal(tensor, checkpoints[best][f"autoencoder.{name}"])
    assert train(features, budget=budget).history == result.history


def test_a_checkpoint_of_another_training_is_refused(
    few_features: Features, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "c.safetensors"
    budget = Budget(epochs=1)
    train(few_features, budget=budget, checkpoint=checkpoint)
    with pytest.raises(NetworkMismatchError, match="belongs to network toy") as caught:
        train(few_features, budget=budget, checkpoint=checkpoint, network_hash="other")
    assert caught.value.details == {"expected": "other", "found": "toy"}
    with pytest.raises(ArtifactError, match="another training"):
        train(few_features, budget=Budget(epochs=2), checkpoint=checkpoint)
    with pytest.raises(ArtifactError, match="another training"):
        train(few_features, budget=budget, seed=1, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="not a file of this kind"):
        train(few_features, budget=budget, checkpoint=checkpoint)


def test_too_few_photos_are_an_error(photos: Photos) -> None:
    with pytest.raises(DataError, match="at least 4 photos, got 3"):
        train(features_of(photos, 3))
