"""Transforms in archive and head bundle, and the codec ``dct`` from device to tail."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.rewriting import rewritten_bundle
from toys.serving import (
    CLASSES,
    PREPROCESSING,
    Worker,
    answer_of,
    ask_of,
    head_of,
    profile_of,
    scores_of,
    unpack,
)
from toys.transforms import toy_transform

from isplit_plugin.advice.cuts import deployed_cuts
from isplit_plugin.client import HeadBundle
from isplit_plugin.errors import (
    ArtifactError,
    BundleError,
    NetworkMismatchError,
    UnknownCodecError,
)
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.serving.packaging import (
    Built,
    deployed_transforms,
    make_manifest,
    package,
)
from isplit_plugin.wire import (
    QUALITIES,
    TailRequest,
    Tensor,
    Transform,
    decode_activation,
    encode_activation,
    pack_transforms,
)


def transform_of(net: CapturedNetwork, name: str) -> Transform:
    point = net.split_point(name)
    return toy_transform(
        point.shape,
        point.channel_axis,
        network_hash=net.network_hash(PREPROCESSING),
        split_point=name,
        step=0.05,
        low=0.0,
    )


@pytest.fixture(scope="module")
def profiled(net: CapturedNetwork) -> Profile:
    torch.manual_seed(3)
    profile = profile_of(net, torch.randn(12, 3, 16, 16), nbytes={("relu1", "fp32"): 1024.0})
    count = profile.count
    measured = tuple(
        CutMeasurement(Cut("relu1", "dct", q), 90.0 + q, 0.1, 0.1, count, count) for q in QUALITIES
    )
    return replace(profile, measurements=(*profile.measurements, *measured))


@pytest.fixture(scope="module")
def built(
    net: CapturedNetwork, profiled: Profile, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    return package(
        net,
        profile=profiled,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
        # That of conv1 is not deployed, and relu2 has none.
        transforms=[transform_of(net, "conv1"), transform_of(net, "relu1")],
        out_dir=tmp_path_factory.mktemp("model_store"),
    )


@pytest.fixture
def worker(built: Built, tmp_path: Path, store_url: str) -> Iterator[Worker]:
    loaded = Worker(unpack(built.archive, tmp_path / "model"))
    yield loaded
    loaded.close()


def test_archive_and_bundle_carry_the_transforms_of_deployed_split_points(
    net: CapturedNetwork, built: Built, tmp_path: Path
) -> None:
    assert built.manifest.transforms == ("relu1",)
    assert {f"dct@{q}" for q in QUALITIES} < set(built.manifest.codings("relu1"))
    assert not any(coding.startswith("dct") for coding in built.manifest.codings("relu2"))
    # The smallest faithful cut is what a client starts with.
    assert built.manifest.default == Cut("relu1", "dct", 0)
    folder = unpack(built.archive, tmp_path)
    manifest = Manifest.from_json(json.loads((folder / "manifest.json").read_text()))
    assert "relu1.transform.safetensors" in manifest.files
    assert set(deployed_transforms(folder, manifest)) == {"relu1"}
    bundle = HeadBundle(built.bundle)
    assert "transforms/relu1.safetensors" in bundle.manifest.files
    own = pack_transforms([transform_of(net, "relu1")])
    assert pack_transforms([bundle.transform("relu1")]) == own
    with pytest.raises(BundleError, match="no codec 'dct' there"):
        bundle.transform("relu2")
    bundle.close()


def test_the_tail_answers_what_the_codec_says_offline(
    net: CapturedNetwork, built: Built, worker: Worker
) -> None:
    torch.manual_seed(7)
    x = torch.randn(3, 3, 16, 16)
    exact = head_of(net, "relu1", x)
    transform = transform_of(net, "relu1")
    asks, offline = [], []
    for quality in (0, 4, 7):
        tensor = encode_activation(exact, f"dct@{quality}", transform=transform)
        back = decode_activation(tensor, shape=exact.shape[1:], transform=transform)
        with torch.inference_mode():
            offline.append(net.bisect("relu1")[1](torch.from_numpy(back)).numpy())
        asks.append(
            ask_of(
                TailRequest(
                    cut=Cut("relu1", "dct", quality),
                    tensor=tensor,
                    network_hash=built.manifest.network_hash,
                    scores=True,
                )
            )
        )
    for reply, expected in zip(worker(*asks), offline, strict=True):
        np.testing.assert_allclose(scores_of(answer_of(reply)), expected, rtol=0, atol=1e-4)


def test_a_broken_code_and_a_split_point_without_transform_fail_alone(
    net: CapturedNetwork, built: Built, worker: Worker
) -> None:
    exact = head_of(net, "relu1", torch.zeros(1, 3, 16, 16))
    tensor = encode_activation(exact, "dct@4", transform=transform_of(net, "relu1"))
    good = TailRequest(
        cut=Cut("relu1", "dct", 4), tensor=tensor, network_hash=built.manifest.network_hash
    )
    broken = replace(
        good, tensor=Tensor.of_bytes("activation", [tensor.items[0][:-3]], tensor.parameters)
    )
    elsewhere = replace(
        good,
        cut=Cut("relu2", "dct", 4),
        tensor=replace(tensor, parameters={**tensor.parameters, "isplit_shape": "1,8,4,4"}),
    )
    replies = worker(ask_of(broken), ask_of(good), ask_of(elsewhere))
    assert [reply.status for reply in replies] == [400, 200, 404]
    assert replies[0].json["code"] == "malformed_request"
    assert replies[2].json["code"] == "unknown_codec"
    assert "at 'relu2'" in replies[2].json["error"]


def test_transforms_that_do_not_fit_are_refused(
    net: CapturedNetwork, profiled: Profile, built: Built, tmp_path: Path
) -> None:
    own = transform_of(net, "relu1")

    def manifest_with(transform: Transform) -> Manifest:
        return make_manifest(
            net,
            model="toy",
            version="1.0",
            profile=profiled,
            preprocessing=PREPROCESSING,
            classes=CLASSES,
            deployed=["relu1"],
            transforms=[transform],
        )[0]

    with pytest.raises(NetworkMismatchError):
        manifest_with(replace(own, network_hash="0" * 64))
    with pytest.raises(ArtifactError, match="no such split point"):
        manifest_with(replace(own, split_point="nowhere"))
    with pytest.raises(ArtifactError, match="expected split point, shape"):
        manifest_with(replace(own, split_point="relu2"))
    folder = unpack(built.archive, tmp_path)
    manifest = Manifest.from_json(json.loads((folder / "manifest.json").read_text()))
    file = folder / "relu1.transform.safetensors"
    file.write_bytes(pack_transforms([transform_of(net, "conv1")]))
    with pytest.raises(ArtifactError, match="expected split point"):
        deployed_transforms(folder, manifest)
    file.write_bytes(pack_transforms([replace(own, network_hash="0" * 64)]))
    with pytest.raises(NetworkMismatchError):
        deployed_transforms(folder, manifest)


def test_a_bundle_with_another_transform_is_refused(
    net: CapturedNetwork, built: Built, tmp_path: Path
) -> None:
    name = "transforms/relu1.safetensors"
    other = pack_transforms([transform_of(net, "conv1")])
    edited = tmp_path / "edited.zip"
    with zipfile.ZipFile(built.bundle) as old, zipfile.ZipFile(edited, "w") as new:
        for each in old.namelist():
            new.writestr(each, other if each == name else old.read(each))
    with pytest.raises(BundleError, match="is not the file that was packaged"):
        HeadBundle(edited)
    bundle = HeadBundle(rewritten_bundle(built.bundle, tmp_path / "new.zip", {name: other}))
    with pytest.raises(BundleError, match="expected split point"):
        bundle.transform("relu1")
    bundle.close()


def test_without_transforms_nothing_about_the_codec_remains(
    net: CapturedNetwork, profiled: Profile
) -> None:
    fields = {
        "model": "toy",
        "version": "1.0",
        "profile": profiled,
        "preprocessing": PREPROCESSING,
        "classes": CLASSES,
        "deployed": ["relu1"],
    }
    manifest, _ = make_manifest(net, **fields)  # type: ignore[arg-type]
    assert manifest.transforms == ()
    assert not any(coding.startswith("dct") for coding in manifest.codecs)
    assert manifest.default != Cut("relu1", "dct", 0)
    with pytest.raises(UnknownCodecError):
        make_manifest(net, **fields, default=Cut("relu1", "dct", 3))  # type: ignore[arg-type]


def test_advice_knows_where_the_codec_works(built: Built, profiled: Profile) -> None:
    cuts = {cut for cut, _ in deployed_cuts(built.manifest, profiled)}
    assert {Cut("relu1", "dct", q) for q in QUALITIES} < cuts
    assert not any(cut.codec == "dct" and cut.split_point != "relu1" for cut in cuts)
