"""Refinement in a tail worker: what is asked for again, refused, counted and audited."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.refining import (
    CUT,
    POINT,
    coded,
    middle_margin,
    refining_profile,
    refining_request,
    refining_transform,
)
from toys.serving import (
    CLASSES,
    PREPROCESSING,
    Worker,
    answer_of,
    ask_of,
    head_of,
    scores_of,
    tensor_request,
    unpack,
    whole,
)

from isplit_plugin.cli.profile_summary import render
from isplit_plugin.errors import ProfileError
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Manifest, Refinement
from isplit_plugin.serving.packaging import build_archive, make_manifest
from isplit_plugin.serving.tail.refining import Refiner
from isplit_plugin.wire import FirstAnswer, TailRequest, TailResponse, Transform, margins_of


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def transform(net: CapturedNetwork) -> Transform:
    return refining_transform(net)


@pytest.fixture(scope="module")
def threshold(net: CapturedNetwork, transform: Transform, x: torch.Tensor) -> float:
    return middle_margin(net, transform, x)


@pytest.fixture(scope="module")
def refining_manifest(net: CapturedNetwork, transform: Transform, threshold: float) -> Manifest:
    made, _ = make_manifest(
        net,
        model="toy",
        version="1.0",
        profile=refining_profile(net, threshold),
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
        transforms=(transform,),
    )
    return made


@pytest.fixture(scope="module")
def folder(
    net: CapturedNetwork,
    transform: Transform,
    threshold: float,
    refining_manifest: Manifest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    archive = build_archive(
        net,
        manifest=refining_manifest,
        profile=refining_profile(net, threshold),
        config={"isplit": {"refinement": {"audit": 0.0}}},
        transforms=(transform,),
        out_dir=tmp_path_factory.mktemp("refining"),
    )
    return unpack(archive, tmp_path_factory.mktemp("model"))


@pytest.fixture
def refining(folder: Path, store_url: str) -> Iterator[Worker]:
    loaded = Worker(folder)
    yield loaded
    loaded.close()


def test_a_package_ships_a_proven_refinement_and_no_other(
    net: CapturedNetwork, transform: Transform, refining_manifest: Manifest
) -> None:
    assert refining_manifest.refining(POINT) == ("dct@3+5", "dct@3+6", "dct@3+7")
    assert refining_manifest.refining("relu2") == ()
    assert Manifest.from_json(refining_manifest.to_json()) == refining_manifest
    profile = refining_profile(net, 0.1)
    off = replace(profile.refinements[0], missing="12 photos")
    common: dict[str, Any] = {
        "model": "toy",
        "version": "1.0",
        "preprocessing": PREPROCESSING,
        "classes": CLASSES,
        "deployed": ["relu1"],
        "transforms": (transform,),
    }
    unproven, _ = make_manifest(net, profile=replace(profile, refinements=(off,)), **common)
    assert unproven.refinements == ()
    without, _ = make_manifest(net, profile=profile, **{**common, "transforms": ()})
    assert without.refinements == ()


def test_a_profile_keeps_refinements_proven_or_not(net: CapturedNetwork) -> None:
    profile = refining_profile(net, 0.1)
    off = Refinement("relu2", 3, (7,), math.nan, math.nan, 12, 0, 0.2, "12 photos")
    for refinements in (profile.refinements, (*profile.refinements, off)):
        kept = Profile.from_bytes(replace(profile, refinements=refinements).to_bytes())
        assert [each.to_json() for each in kept.refinements] == [
            each.to_json() for each in refinements
        ]
        assert kept.round_trips(CUT) == 1.2
        assert kept.round_trips(CUT.first) == 1.0
        text = render(kept)
        assert "relu1: 20% of the photos are sent again; of the others 0 of 400 differ" in text
        assert ("relu2: off: 12 photos" in text) == (len(refinements) == 2)
    assert replace(profile, refinements=(off,)).round_trips(Cut("relu2", "dct", 3, 7)) == 1.0
    for broken in ((off, off), (replace(off, split_point="nowhere"),)):
        with pytest.raises(ProfileError, match="refinements: expected split points, each once"):
            replace(profile, refinements=broken)


def test_unsure_items_are_asked_for_again_and_the_second_request_stands_alone(
    net: CapturedNetwork,
    transform: Transform,
    refining: Worker,
    x: torch.Tensor,
    threshold: float,
) -> None:
    [reply] = refining(ask_of(refining_request(net, transform, x, 3)))
    first = answer_of(reply)
    coarse = coded(net, transform, x, 3)
    np.testing.assert_allclose(scores_of(first), coarse, rtol=0, atol=1e-5)
    expected = tuple(np.flatnonzero(margins_of(coarse) <= threshold).tolist())
    assert first.refine == expected
    assert len(expected) == 4
    assert first.audit == ()
    rows = list(expected)
    of_first = FirstAnswer(500, tuple(first.top_class[rows, 0].tolist()))
    [reply] = refining(ask_of(refining_request(net, transform, x[rows], 7, first=of_first)))
    second = answer_of(reply)
    np.testing.assert_allclose(
        scores_of(second), coded(net, transform, x[rows], 7), rtol=0, atol=1e-5
    )
    assert second.refine == ()


def test_a_photo_counts_once_with_all_its_bytes(
    net: CapturedNetwork, transform: Transform, refining: Worker, x: torch.Tensor
) -> None:
    counted: list[Any] = []
    refining.handler._statistics.observe = counted.append
    sent = refining_request(net, transform, x, 3)
    [reply] = refining(ask_of(sent))
    first = answer_of(reply)
    assert len(counted) == len(x) - len(first.refine)
    assert {observation.cut for observation in counted} == {CUT}
    counted.clear()
    rows = list(first.refine)
    again = refining_request(
        net, transform, x[rows], 7, first=FirstAnswer(400, tuple(first.top_class[rows, 0].tolist()))
    )
    refining(ask_of(again))
    body, _ = again.encode()
    assert [observation.cut for observation in counted] == [CUT] * len(rows)
    assert {o.bytes_received for o in counted} == {round((len(body) + 400) / len(rows))}
    # A device may not claim more for the first request than the second takes.
    counted.clear()
    lie = replace(again, first=FirstAnswer(2**31 - 1, again.first.classes if again.first else ()))
    refining(ask_of(lie))
    length = len(lie.encode()[0])
    assert {o.bytes_received for o in counted} == {round(2 * length / len(rows))}


def test_a_request_that_does_not_fit_is_refused_and_the_others_are_answered(
    net: CapturedNetwork, transform: Transform, refining: Worker, x: torch.Tensor
) -> None:
    good = refining_request(net, transform, x[:2], 7, first=FirstAnswer(10, (0, 1)))
    bad = {
        "unknown_codec": refining_request(net, transform, x[:2], 4, first=FirstAnswer(10, (0, 1))),
        "malformed_request": refining_request(
            net, transform, x[:2], 7, first=FirstAnswer(10, (0,))
        ),
    }
    network_hash = net.network_hash(PREPROCESSING)
    plain = tensor_request(
        head_of(net, "relu2", x), "relu2", network_hash=network_hash, scores=True
    )
    replies = refining(ask_of(good), *map(ask_of, bad.values()), ask_of(plain))
    assert scores_of(answer_of(replies[0])).shape == (2, len(CLASSES))
    for reply, code in zip(replies[1:3], bad, strict=True):
        assert 400 <= reply.status < 500
        assert reply.json["code"] == code
    np.testing.assert_allclose(scores_of(answer_of(replies[3])), whole(net, x), rtol=0, atol=1e-5)


def test_a_probe_cannot_be_refined(
    net: CapturedNetwork, transform: Transform, refining: Worker, x: torch.Tensor
) -> None:
    [reply] = refining(ask_of(refining_request(net, transform, x[:1], 3, probe=True)))
    assert reply.status == 400
    assert "a probe is one request" in reply.json["error"]


def test_a_share_of_the_sure_items_is_audited(refining_manifest: Manifest) -> None:
    draws = iter([0.5, 0.005, 0.005, 0.9])
    refiner = Refiner(refining_manifest, 0.01, lambda: next(draws))
    scores = np.array([[9, 0, 0, 0, 0], [9, 0, 0, 0, 0], [0] * 5, [0] * 5], np.float32)
    request = TailRequest(cut=CUT, tensor=None)  # type: ignore[arg-type]
    again = refiner.again(request, scores)
    assert again.refine == (1, 2, 3)
    assert again.audit == (1,)
    assert refiner.again(replace(request, cut=CUT.first), scores) == ((), ())
    assert refiner.again(replace(request, first=FirstAnswer(1, (0,) * 4)), scores) == ((), ())


def test_an_audit_counts_the_answers_that_changed() -> None:
    first = FirstAnswer(100, (1, 2, 3), audited=(0, 2))
    request = TailRequest(cut=CUT, tensor=None, first=first)  # type: ignore[arg-type]
    answer = TailResponse.from_scores(
        np.eye(5, dtype=np.float32)[[1, 4, 4]],
        CLASSES,
        k=1,
        with_scores=False,
        split_point=POINT,
        network_hash="",
    )
    audited = Refiner.audited(request, answer)
    assert (audited.items, audited.differing) == (2, 1)
    plain = Refiner.audited(replace(request, first=None), answer)
    assert (plain.items, plain.differing) == (0, 0)


def test_every_refining_cut_has_its_threshold(
    refining_manifest: Manifest, threshold: float
) -> None:
    assert [refinement.threshold for refinement in refining_manifest.refinements] == [threshold]
    assert Cut(POINT, "dct", 3, 5).coding in refining_manifest.refining(POINT)
