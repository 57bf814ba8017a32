"""Training: it learns, resumes to the same bits, stops early, and refuses what belongs to something else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys.bottleneck import PRE, toy_network, toy_pixels

from isplit_plugin.bottleneck import Budget, Features, Photos, fit, gather, teach
from isplit_plugin.bottleneck.budget import learning_rate, losses
from isplit_plugin.errors import ArtifactError, DataError, NetworkMismatchError

POINT = "0"


@pytest.fixture(scope="module")
def photos() -> Photos:
    rng = np.random.default_rng(0)
    return Photos([(toy_pixels(i % 3, rng), i % 3) for i in range(90)], PRE, 3)


@pytest.fixture(scope="module")
def features(photos: Photos) -> Features:
    net = toy_network()
    teacher = teach(net, photos, photos.sample(None))
    return next(gather(net, photos, [POINT], teacher))[0]


def train(features: Features, **options):  # type: ignore[no-untyped-def]
    net = toy_network()
    options = {"network_hash": "mine", "budget": Budget(epochs=4, batch_size=16)} | options
    return fit(net.split_point(POINT), features, net.bisect(POINT)[1], **options)


def test_training_lowers_the_loss_and_touches_nothing_else(features: Features) -> None:
    net = toy_network()
    before = {n: t.clone() for n, t in net.model.state_dict().items()}
    fitted = train(features, budget=Budget(epochs=25, batch_size=16, lr=1e-2, patience=25))
    assert fitted.history[-1].loss < 0.6 * fitted.history[0].loss
    assert fitted.history[-1].agreement >= 0.8
    assert fitted.head is None
    assert not fitted.autoencoder.training
    assert all(torch.equal(t, before[n]) for n, t in net.model.state_dict().items())
    assert all(p.grad is None for p in net.model.parameters())


def test_the_seed_decides(features: Features) -> None:
    a, b, c = (train(features, seed=seed).autoencoder.state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], c[n]) for n in a)


def test_the_callers_random_numbers_are_left_alone(features: Features) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train(features, budget=Budget(epochs=1))
    assert torch.equal(torch.rand(3), expected)


class Stopped(Exception):  # noqa: N818
    """As an interruption, at a known moment."""


@pytest.mark.parametrize(("whole", "after"), [(0, 1), (0, 3), (2, 2), (2, 3), (2, 4)])
def test_an_interrupted_run_resumes_to_the_same_bits(
    features: Features, tmp_path: Path, whole: int, after: int
) -> None:
    budget = Budget(epochs=3, whole_epochs=whole, batch_size=16, whole_lr=1e-3)
    expected = train(features, budget=budget)
    seen = []

    def stop(stage: str, epoch: int, _epochs: int, _line: object) -> None:
        seen.append((stage, epoch))
        if len(seen) == after:
            raise Stopped

    path = tmp_path / "c.safetensors"
    with pytest.raises(Stopped):
        train(features, budget=budget, checkpoint_path=path, progress=stop)
    found = train(
        features, budget=budget, checkpoint_path=path, progress=lambda s, e, *_: seen.append((s, e))
    )
    stages = [("bottleneck", e) for e in (1, 2, 3)] + [("whole", e) for e in range(1, whole + 1)]
    assert seen == stages  # nothing is repeated, nothing left out
    assert found.history == expected.history
    pairs = [(expected.autoencoder, found.autoencoder)]
    if whole:
        pairs += [(expected.head, found.head), (expected.tail, found.tail)]
    for one, other in pairs:
        state = other.state_dict()
        assert all(torch.equal(t, state[n]) for n, t in one.state_dict().items())


def test_the_whole_network_is_trained_as_a_copy(features: Features) -> None:
    net = toy_network()
    head, tail = net.bisect(POINT)
    fitted = train(features, budget=Budget(epochs=1, whole_epochs=2, batch_size=16, whole_lr=1e-3))
    assert [line.stage for line in fitted.history] == ["bottleneck", "whole", "whole"]
    for mine, theirs in ((head, fitted.head), (tail, fitted.tail)):
        assert theirs is not None
        state = theirs.state_dict()
        assert mine.state_dict().keys() == state.keys()
        assert any(not torch.equal(t, state[n]) for n, t in mine.state_dict().items())


def test_early_stopping_keeps_the_best_epoch(features: Features) -> None:
    # At this rate the loss soon gets worse; patience 1 then ends the run.
    fitted = train(features, budget=Budget(epochs=40, patience=1, batch_size=16, lr=0.3))
    losses_seen = [line.loss for line in fitted.history]
    assert len(losses_seen) < 40
    assert losses_seen[-1] >= min(losses_seen)
    again = train(features, budget=Budget(epochs=40, patience=1, batch_size=16, lr=0.3))
    assert again.history == fitted.history


def test_checkpoints_of_others_are_refused(features: Features, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    train(features, budget=Budget(epochs=1), checkpoint_path=path)
    with pytest.raises(NetworkMismatchError, match="belongs to network mine") as caught:
        train(features, budget=Budget(epochs=1), checkpoint_path=path, network_hash="other")
    assert caught.value.details == {"expected": "other", "found": "mine"}
    with pytest.raises(ArtifactError, match="another training"):
        train(features, budget=Budget(epochs=2), checkpoint_path=path)
    with pytest.raises(ArtifactError, match="another training"):
        train(features, budget=Budget(epochs=1), seed=1, checkpoint_path=path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="not a file of this kind"):
        train(features, budget=Budget(epochs=1), checkpoint_path=path)


def test_too_few_photos(photos: Photos) -> None:
    net = toy_network()
    teacher = teach(net, photos, photos.sample(3))
    few = next(gather(net, photos, [POINT], teacher))[0]
    with pytest.raises(DataError, match="at least 4 photos"):
        train(few)


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"holdout": 1.0}, {"lr": math.nan}, {"images": 1}, {"label": -1.0}]
)
def test_budgets_that_make_no_sense(bad: dict) -> None:
    with pytest.raises(ArtifactError, match="budget"):
        Budget(**bad)


def test_features_are_the_heads_outputs(photos: Photos) -> None:
    net = toy_network()
    teacher = teach(net, photos, photos.sample(20))
    kept = [f for group in gather(net, photos, ["0", "1", "2"], teacher) for f in group]
    assert [f.split_point for f in kept] == ["0", "1", "2"]
    places = torch.tensor([3, 0, 19])
    for f in kept:
        exact = net.bisect(f.split_point)[0](photos.tensor(teacher.rows[places.numpy()]))
        assert f.kept is not None
        assert f.kept.dtype == torch.float16
        torch.testing.assert_close(f.batch(places, torch.empty(0)), exact, rtol=1e-3, atol=1e-3)
        whole = net.bisect(f.split_point)[0](photos.tensor(teacher.rows)).detach().double()
        assert f.variance == pytest.approx(float(whole.var(correction=0)), rel=1e-5)


def test_memory_is_bounded(photos: Photos) -> None:
    net = toy_network()
    teacher = teach(net, photos, photos.sample(20))
    one = 20 * 8 * 15 * 18 * 2
    groups = list(gather(net, photos, ["0", "1", "2"], teacher, max_bytes=one))
    assert [[f.split_point for f in g] for g in groups] == [["0"], ["1"], ["2"]]
    groups = list(gather(net, photos, ["0", "1", "2"], teacher, max_bytes=one - 1))
    assert [f.kept is None for g in groups for f in g] == [True, True, False]
    places = torch.tensor([1, 2])
    exact = net.bisect("0")[0](photos.tensor(teacher.rows[places.numpy()]))
    assert torch.equal(groups[0][0].batch(places, torch.empty(0)), exact)


def test_losses_by_hand() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    full = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    activation, restored = torch.zeros(2, 3), torch.full((2, 3), 2.0)
    budget = Budget(feature=0.5, distill=2.0, label=3.0, temperature=2.0)
    labels = torch.tensor([0, -1])
    p, q = F.softmax(full / 2, dim=1), F.softmax(scores / 2, dim=1)
    kl = (p * (p / q).log()).sum() / 2
    expected = 0.5 * 4 / 8 + 2 * 4 * kl + 3 * -F.log_softmax(scores[0], dim=0)[0]
    found = losses(
        budget,
        activation=activation,
        restored=restored,
        variance=8.0,
        scores=scores,
        full=full,
        labels=labels,
    )
    torch.testing.assert_close(found, expected)
    unlabelled = losses(
        budget,
        activation=None,
        restored=None,
        variance=8.0,
        scores=scores,
        full=full,
        labels=torch.tensor([-1, -1]),
    )
    torch.testing.assert_close(unlabelled, 8 * kl)


def test_learning_rate() -> None:
    rates = [learning_rate(1.0, step, 12, 2) for step in range(13)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0)
