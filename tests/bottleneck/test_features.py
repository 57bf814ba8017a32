"""Activations that are computed once: their values, and their bound of memory."""

from __future__ import annotations

import pytest
import torch
from toys.bottleneck import toy_network, toy_photos

from isplit_plugin.bottleneck import Photos, Targets, compute_features, compute_targets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos() -> Photos:
    return toy_photos(30)


@pytest.fixture(scope="module")
def targets(photos: Photos) -> Targets:
    return compute_targets(toy_network(), photos, photos.sample(20))


def test_targets_are_the_full_networks_scores(photos: Photos, targets: Targets) -> None:
    with torch.inference_mode():
        expected = toy_network().model(photos.tensor(targets.rows))
    torch.testing.assert_close(targets.scores, expected)
    assert targets.labels.tolist() == photos.labels[targets.rows].tolist()
    assert targets.top1.tolist() == expected.argmax(dim=1).tolist()


def test_features_are_the_heads_outputs(photos: Photos, targets: Targets) -> None:
    net = toy_network()
    groups = compute_features(net, photos, ["0", "1", "2"], targets)
    all_features = [features for group in groups for features in group]
    assert [features.split_point for features in all_features] == ["0", "1", "2"]
    indices = torch.tensor([3, 0, 19])
    for features in all_features:
        head, _ = net.bisect(features.split_point)
        expected = head(photos.tensor(targets.rows[indices.numpy()]))
        assert features.activations is not None
        assert features.activations.dtype == torch.float16
        torch.testing.assert_close(features.batch(indices, CPU), expected, rtol=1e-3, atol=1e-3)
        everything = head(photos.tensor(targets.rows)).detach().double()
        variance = float(everything.var(correction=0))
        assert features.variance == pytest.approx(variance, rel=1e-5)


def test_memory_is_bounded(photos: Photos, targets: Targets) -> None:
    net = toy_network()
    split_points = ["0", "1", "2"]
    nbytes = 20 * 8 * 15 * 18 * 2  # of the activations at "0" and at "1"
    groups = list(compute_features(net, photos, split_points, targets, max_bytes=nbytes))
    assert [[features.split_point for features in group] for group in groups] == [
        ["0"],
        ["1"],
        ["2"],
    ]
    groups = list(compute_features(net, photos, split_points, targets, max_bytes=nbytes - 1))
    assert [features.activations is None for group in groups for features in group] == [
        True,
        True,
        False,
    ]
    indices = torch.tensor([1, 2])
    expected = net.bisect("0")[0](photos.tensor(targets.rows[indices.numpy()]))
    assert torch.equal(groups[0][0].batch(indices, CPU), expected)
