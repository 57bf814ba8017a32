"""Another predictor than CUI in a recommendation: from the profile, by its name."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.bottleneck import CLASSES, PRE, toy_network, write_photos
from toys.serving import profile_of

from isplit_plugin.advice import LiveView, Query, recommend
from isplit_plugin.bottleneck import Photos
from isplit_plugin.errors import ProfileError, QueryError, UnknownNameError
from isplit_plugin.evaluation import PredictorContext, profile_predictions
from isplit_plugin.evaluation.predictors import get
from isplit_plugin.network import calibration_folder
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Manifest
from isplit_plugin.serving.packaging import make_manifest


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = write_photos(tmp_path_factory.mktemp("p") / "c", 5)
    return Photos(calibration_folder(folder, CLASSES), PRE, 3)


@pytest.fixture(scope="module")
def profile(photos: Photos) -> Profile:
    net = toy_network()
    plain = profile_of(
        net,
        torch.randn(6, *PRE.shape),
        preprocessing=PRE,
        classes=CLASSES,
        nbytes={("0", "uint8"): 9.0},
    )
    return dataclasses.replace(
        plain, predictions=profile_predictions(net, photos, ["kl-pool2", "size"])
    )


@pytest.fixture(scope="module")
def manifest(profile: Profile) -> Manifest:
    made, _ = make_manifest(
        toy_network(),
        model="toy",
        version="1",
        profile=profile,
        preprocessing=PRE,
        classes=CLASSES,
        deployed=["0"],
    )
    return made


def test_values_for_the_profile(profile: Profile, photos: Photos, tmp_path: Path) -> None:
    net = toy_network()
    names = [p.name for p in net.split_points]
    found = dict(zip(names, profile.predictions["kl-pool2"], strict=True))
    assert [n for n, v in found.items() if not math.isnan(v)] == ["0", "1", "2"]
    context = PredictorContext(net, tuple(net.split_point(n) for n in "012"), photos, np.arange(15))
    expected = get("kl-pool2")(context).mean(axis=0)
    assert [found[n] for n in "012"] == pytest.approx(expected.tolist(), rel=1e-6)
    profile.save(tmp_path / "p")
    again = Profile.load(tmp_path / "p").predictions
    assert again.keys() == profile.predictions.keys()
    np.testing.assert_array_equal(again["kl-pool2"], profile.predictions["kl-pool2"])
    plain = dataclasses.replace(profile, predictions={})
    assert b"predictions" not in plain.to_bytes()
    with pytest.raises(ProfileError, match="predictions"):
        dataclasses.replace(profile, predictions={"x": (1.0,)})
    with pytest.raises(UnknownNameError, match="magic"):
        profile_predictions(net, photos, ["magic"])


def test_a_recommendation_by_another_predictor(manifest: Manifest, profile: Profile) -> None:
    live = LiveView.empty()
    by_cui = recommend(manifest, profile, live)
    assert by_cui.predictor == "cui"
    found = recommend(manifest, profile, live, Query(predictor="kl-pool2"))
    values = dict(
        zip([p.name for p in profile.split_points], profile.predictions["kl-pool2"], strict=True)
    )
    ranked = sorted("012", key=lambda n: -values[n])
    assert (found.predictor, found.rule, found.best_candidate) == (
        "kl-pool2",
        "global-maximum",
        ranked[0],
    )
    assert [c.split_point for c in found.candidates] == ranked
    assert [c.predictor_value for c in found.candidates] == [values[n] for n in ranked]
    assert found.use == by_cui.use
    assert found.curve == by_cui.curve
    assert found.revision != by_cui.revision
    deepest = recommend(manifest, profile, live, Query(predictor="depth"))
    assert deepest.pick == "4"  # the last block output
    text = found.to_json()
    assert type(found).from_json(text) == found


def test_what_the_device_can_afford(manifest: Manifest, profile: Profile) -> None:
    from isplit_plugin.advice import Constraints

    macs = {p.name: p.macs.head for p in profile.split_points}
    limits = Constraints(max_head_macs=macs["1"])
    found = recommend(
        manifest, profile, LiveView.empty(), Query(predictor="depth", constraints=limits)
    )
    assert found.best_candidate == "1"
    limits = Constraints(max_head_macs=macs["0"] - 1)
    found = recommend(
        manifest, profile, LiveView.empty(), Query(predictor="depth", constraints=limits)
    )
    assert found.best_candidate == "0"
    assert "exceeds it the least" in found.reason


def test_predictors_that_the_profile_does_not_hold(manifest: Manifest, profile: Profile) -> None:
    with pytest.raises(QueryError, match="cui, depth, kl-pool2, size, got 'kl-linear'"):
        recommend(manifest, profile, LiveView.empty(), Query(predictor="kl-linear"))
    with pytest.raises(QueryError, match="predictor"):
        Query(predictor="")
