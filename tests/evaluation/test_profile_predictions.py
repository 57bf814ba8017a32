"""Predictions in a profile, and recommendations by another predictor than CUI."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.bottleneck import CLASSES, PRE, toy_network, toy_photos
from toys.serving import profile_of

from isplit_plugin.advice import Constraints, LiveView, Query, recommend
from isplit_plugin.bottleneck import Photos
from isplit_plugin.errors import ProfileError, QueryError, UnknownNameError
from isplit_plugin.evaluation import PredictorContext, profile_predictions
from isplit_plugin.evaluation.predictors import get
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Manifest
from isplit_plugin.serving.packaging import make_manifest


@pytest.fixture(scope="module")
def photos() -> Photos:
    return toy_photos(15)


@pytest.fixture(scope="module")
def profile(photos: Photos) -> Profile:
    net = toy_network()
    profile = profile_of(
        net,
        torch.randn(6, *PRE.shape, generator=torch.Generator().manual_seed(0)),
        preprocessing=PRE,
        classes=CLASSES,
        nbytes={("0", "uint8"): 9.0},
    )
    predictions = profile_predictions(net, photos, ["kl-pool2", "size"])
    return dataclasses.replace(profile, predictions=predictions)


@pytest.fixture(scope="module")
def manifest(profile: Profile) -> Manifest:
    manifest, _ = make_manifest(
        toy_network(),
        model="toy",
        version="1",
        profile=profile,
        preprocessing=PRE,
        classes=CLASSES,
        deployed=["0"],
    )
    return manifest


def predictions_by_name(profile: Profile, predictor: str) -> dict[str, float]:
    names = [point.name for point in profile.split_points]
    return dict(zip(names, profile.predictions[predictor], strict=True))


def test_predictions_are_means_over_the_photos(profile: Profile, photos: Photos) -> None:
    net = toy_network()
    predictions = predictions_by_name(profile, "kl-pool2")
    assert [name for name, value in predictions.items() if not math.isnan(value)] == ["0", "1", "2"]
    points = tuple(net.split_point(name) for name in "012")
    expected = get("kl-pool2")(PredictorContext(net, points, photos, np.arange(15))).mean(axis=0)
    assert [predictions[name] for name in "012"] == pytest.approx(expected.tolist(), rel=1e-6)
    with pytest.raises(UnknownNameError, match="magic"):
        profile_predictions(net, photos, ["magic"])


def test_a_profile_keeps_predictions(profile: Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "p")
    loaded = Profile.load(tmp_path / "p").predictions
    assert loaded.keys() == profile.predictions.keys()
    np.testing.assert_array_equal(loaded["kl-pool2"], profile.predictions["kl-pool2"])
    without = dataclasses.replace(profile, predictions={})
    assert b"predictions" not in without.to_bytes()
    with pytest.raises(ProfileError, match="predictions"):
        dataclasses.replace(profile, predictions={"x": (1.0,)})


def test_a_recommendation_by_another_predictor(manifest: Manifest, profile: Profile) -> None:
    live = LiveView.empty()
    by_cui = recommend(manifest, profile, live)
    assert by_cui.predictor == "cui"
    answer = recommend(manifest, profile, live, Query(predictor="kl-pool2"))
    values = predictions_by_name(profile, "kl-pool2")
    ranked = sorted("012", key=lambda name: -values[name])
    assert (answer.predictor, answer.rule) == ("kl-pool2", "global-maximum")
    assert answer.best_candidate == ranked[0]
    assert [c.split_point for c in answer.candidates] == ranked
    assert [c.predictor_value for c in answer.candidates] == [values[name] for name in ranked]
    assert answer.use == by_cui.use
    assert answer.curve == by_cui.curve
    assert answer.revision != by_cui.revision
    assert type(answer).from_json(answer.to_json()) == answer
    deepest = recommend(manifest, profile, live, Query(predictor="depth"))
    assert deepest.best_candidate == "4"  # the last block output


def test_the_device_must_afford_the_best_candidate(manifest: Manifest, profile: Profile) -> None:
    macs = {point.name: point.macs.head for point in profile.split_points}

    def ask(max_head_macs: int) -> tuple[str | None, str]:
        query = Query(predictor="depth", constraints=Constraints(max_head_macs=max_head_macs))
        answer = recommend(manifest, profile, LiveView.empty(), query)
        return answer.best_candidate, answer.reason

    assert ask(macs["1"])[0] == "1"
    candidate, reason = ask(macs["0"] - 1)
    assert candidate == "0"
    assert "exceeds it the least" in reason


def test_a_predictor_that_the_profile_lacks_is_refused(
    manifest: Manifest, profile: Profile
) -> None:
    with pytest.raises(QueryError, match="cui, depth, kl-pool2, size, got 'kl-linear'"):
        recommend(manifest, profile, LiveView.empty(), Query(predictor="kl-linear"))
    with pytest.raises(QueryError, match="predictor"):
        Query(predictor="")
