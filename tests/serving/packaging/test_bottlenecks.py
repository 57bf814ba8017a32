"""A bottleneck end to end: packaged, loaded by TorchServe's worker code, asked by a client's head,
recommended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.bottleneck import CLASSES, PRE, toy_network
from toys.serving import Ask, Worker, answer_of, ask_of, profile_of, tensor_request, unpack

from isplit_plugin.advice import LiveView, Query, recommend
from isplit_plugin.bottleneck import Bottleneck, Photos, decoder_tail, encoder_head
from isplit_plugin.client.bundle import HeadBundle
from isplit_plugin.client.runtimes import OnnxHead
from isplit_plugin.errors import BundleError, NetworkMismatchError
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.serving.files import PROFILE
from isplit_plugin.serving.packaging import Built, package
from isplit_plugin.wire import (
    decode_activation,
    encode_activation,
)


@pytest.fixture(scope="module")
def built(
    bottlenecks: list[Bottleneck], test_photos: Photos, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    net = toy_network()
    profile = profile_of(
        net,
        test_photos.tensor(range(len(test_photos))),
        preprocessing=PRE,
        classes=CLASSES,
        nbytes={("input", "jpeg@90"): 700.0, ("0", "uint8"): 2200.0, ("2", "uint8"): 1200.0},
    )
    return package(
        net,
        profile=profile,
        preprocessing=PRE,
        classes=CLASSES,
        deployed=["0"],
        bottlenecks=bottlenecks,
        default=Cut(bottlenecks[0].name, "uint8"),
        config={"isplit": {"sampling": 1.0, "cpu_budget": 1.0}},
        out_dir=tmp_path_factory.mktemp("store"),
    )


@pytest.fixture(scope="module")
def folder(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(built.archive, tmp_path_factory.mktemp("model"))


@pytest.fixture
def worker(folder: Path, store_url: str) -> Iterator[Worker]:
    loaded = Worker(folder)
    yield loaded
    loaded.close()


def ask(
    manifest: Manifest, values: np.ndarray, name: str, codec: str, *, explain: bool = False
) -> Ask:
    request = tensor_request(values, name, codec, network_hash=manifest.network_hash, scores=True)
    return ask_of(request, explain=explain)


def test_the_manifest_names_bottlenecks_beside_the_curve(
    built: Built, bottlenecks: list[Bottleneck]
) -> None:
    manifest = built.manifest
    names = [v.deployed_name for v in bottlenecks]
    assert manifest.deployed == ("0", *names)
    assert manifest.default == Cut(names[0], "uint8")
    assert [p.name for p in manifest.split_points] == [p.name for p in toy_network().split_points]
    assert manifest.split_point(names[1]).shape == bottlenecks[1].code_shape
    assert Manifest.from_json(manifest.to_json()) == manifest
    older = {k: v for k, v in manifest.to_json().items() if k != "bottlenecks"}
    assert Manifest.from_json(older).bottlenecks == ()


@pytest.mark.parametrize(("which", "codec"), [(0, "fp32"), (0, "uint8"), (1, "fp32"), (1, "uint8")])
def test_a_served_prediction_equals_the_network_run_offline(
    built: Built,
    worker: Worker,
    bottlenecks: list[Bottleneck],
    *,
    test_photos: Photos,
    which: int,
    codec: str,
) -> None:
    net, bottleneck = toy_network(), bottlenecks[which]
    x = test_photos.tensor(range(5))
    with torch.inference_mode():
        code = encoder_head(net, bottleneck)(x).numpy()
        decoded = decode_activation(encode_activation(code, codec), shape=bottleneck.code_shape)
        expected = decoder_tail(net, bottleneck)(torch.from_numpy(decoded)).numpy()
    [reply] = worker(ask(built.manifest, code, bottleneck.deployed_name, codec))
    got = answer_of(reply)
    assert got.split_point == bottleneck.deployed_name
    assert got.scores is not None
    np.testing.assert_allclose(got.scores, expected, rtol=0, atol=1e-4)
    assert got.top_class[:, 0].tolist() == expected.argmax(axis=1).tolist()


def test_the_bundles_encoder_and_the_tail_give_the_torch_answer(
    built: Built, worker: Worker, bottlenecks: list[Bottleneck], test_photos: Photos
) -> None:
    net, bottleneck = toy_network(), bottlenecks[0]
    x = test_photos.tensor(range(len(test_photos)))
    bundle = HeadBundle(built.bundle)
    try:
        code = OnnxHead(bundle, threads=1).run(bottleneck.deployed_name, x.numpy())
    finally:
        bundle.close()
    got = answer_of(worker(ask(built.manifest, code, bottleneck.deployed_name, "uint8"))[0])
    with torch.inference_mode():
        own = encode_activation(encoder_head(net, bottleneck)(x).numpy(), "uint8")
        decoded = torch.from_numpy(decode_activation(own, shape=bottleneck.code_shape))
        expected = decoder_tail(net, bottleneck)(decoded).argmax(dim=1)
    assert (got.top_class[:, 0] == expected.numpy()).mean() >= 0.999


def test_importance_behind_a_decoder_is_neither_explained_nor_sampled(
    built: Built, worker: Worker, bottlenecks: list[Bottleneck], test_photos: Photos
) -> None:
    net, name = toy_network(), bottlenecks[0].deployed_name
    with torch.inference_mode():
        code = encoder_head(net, bottlenecks[0])(test_photos.tensor([0])).numpy()
        plain = net.bisect("0")[0](test_photos.tensor([0])).numpy()
    [reply] = worker(ask(built.manifest, code, name, "fp32", explain=True))
    assert reply.status == 422
    assert reply.json["code"] == "invalid_split_point"
    [first] = worker(ask(built.manifest, code, name, "fp32"))
    assert first.status == 200
    counters = worker.handler.describe()["statistics"]
    assert counters["sampler_offered"] == 0
    worker(ask(built.manifest, plain, "0", "fp32"))
    assert worker.handler.describe()["statistics"]["sampler_offered"] == 1
    assert worker.handler.describe()["served"] == {name: 1, "0": 1}


def test_recommendations_know_what_was_measured(
    built: Built, folder: Path, bottlenecks: list[Bottleneck]
) -> None:
    profile = Profile.load(folder / PROFILE)
    manifest = built.manifest
    answer = recommend(manifest, profile, LiveView.empty(), Query())
    name = bottlenecks[0].deployed_name
    [row] = [row for row in answer.cuts if row.cut == Cut(name, "uint8")]
    measurement = next(m for m in bottlenecks[0].measurements if m.codec == "uint8")
    assert row.nbytes == measurement.nbytes
    assert row.agreement == pytest.approx(measurement.agreement)
    assert row.agreement_count == measurement.images.sum()
    assert row.head_macs == manifest.split_point(name).macs.head
    assert row.latency_ms > 0
    assert name not in [p.split_point for p in answer.curve]
    assert name not in [c.split_point for c in answer.candidates]


def test_a_bottleneck_of_another_network_is_not_packaged(
    built: Built, bottlenecks: list[Bottleneck], tmp_path: Path
) -> None:
    net = toy_network()
    profile = profile_of(net, torch.zeros(1, *PRE.shape), preprocessing=PRE, classes=CLASSES)
    options: dict[str, Any] = {
        "profile": profile,
        "preprocessing": PRE,
        "classes": CLASSES,
        "deployed": ["0"],
        "out_dir": tmp_path,
    }
    stranger = dataclasses.replace(bottlenecks[0], network_hash="0" * 64)
    with pytest.raises(NetworkMismatchError, match="belongs to network 000"):
        package(net, bottlenecks=[stranger], **options)
    with pytest.raises(BundleError, match="given twice"):
        package(net, bottlenecks=[bottlenecks[0], bottlenecks[0]], **options)
    assert not list(tmp_path.iterdir())
