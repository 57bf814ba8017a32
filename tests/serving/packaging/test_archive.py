"""What is packaged, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from toys.rated_codec import Rated
from toys.serving import CLASSES, PREPROCESSING, profile_of, toy_network

from isplit_plugin.client import HeadBundle
from isplit_plugin.errors import (
    BundleError,
    IsplitError,
    ProfileError,
    ServingError,
    SplitPointError,
    UnknownCodecError,
    UnknownSplitPointError,
)
from isplit_plugin.files import file_sha256
from isplit_plugin.network import CapturedNetwork, capture
from isplit_plugin.photo_codecs import PHOTOS
from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.schema import ON_DEVICE, Cut, Manifest
from isplit_plugin.serving import resources
from isplit_plugin.serving.files import verify_files
from isplit_plugin.serving.model_store import archive_identity
from isplit_plugin.serving.packaging import (
    Built,
    build_archive,
    build_endpoint_archive,
    build_head_bundle,
    choose_deployed,
    make_manifest,
    package,
)
from isplit_plugin.wire import codecs


def _make(
    net: CapturedNetwork, profile: Profile, **changes: Any
) -> tuple[Manifest, tuple[str, ...]]:
    fields: dict[str, Any] = {
        "model": "toy",
        "version": "1.0",
        "deployed": ["relu1"],
        "classes": CLASSES,
    }
    return make_manifest(net, profile=profile, preprocessing=PREPROCESSING, **(fields | changes))


def test_an_archive_holds_the_weights_once_and_a_hash_of_every_file(
    archive: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(archive) as mar:
        names = set(mar.namelist())
        mar.extractall(tmp_path)
    ours = {"network.pt2", "profile.safetensors", "tail_handler.py", "model-config.yaml"}
    assert names == ours | {"manifest.json", "MAR-INF/MANIFEST.json"}
    manifest = Manifest.from_json(json.loads((tmp_path / "manifest.json").read_text()))
    assert set(manifest.files) == ours
    assert manifest.files == {name: file_sha256(tmp_path / name) for name in ours}
    assert archive_identity(archive) == ("toy", "1.0")
    verify_files(tmp_path, manifest)
    (tmp_path / "network.pt2").unlink()
    with pytest.raises(BundleError, match=r"network\.pt2 is missing"):
        verify_files(tmp_path, manifest)


def test_a_manifest_cannot_point_outside(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "model").mkdir()
    pointing = replace(manifest, files={"../secret": file_sha256(tmp_path / "secret")})
    with pytest.raises(BundleError, match="secret"):
        verify_files(tmp_path / "model", pointing)


def test_settings_are_merged_key_by_key(archive: Path) -> None:
    with zipfile.ZipFile(archive) as mar:
        config = yaml.safe_load(mar.read("model-config.yaml"))
    shipped = yaml.safe_load(resources.config_file("model-config.yaml").read_text())
    assert config == {
        **shipped,
        "isplit": {**shipped["isplit"], "sampling": 1.0, "cpu_budget": 1.0},
    }


def test_the_endpoint_is_an_archive_of_its_own(tmp_path: Path) -> None:
    built = build_endpoint_archive(tmp_path)
    assert archive_identity(built) == ("isplit", "1.0")
    with zipfile.ZipFile(built) as mar:
        handler = mar.read("recommendation_handler.py")
    assert handler == resources.handler_file("recommendation_handler.py").read_bytes()


def test_a_head_bundle_holds_the_heads_asked_for(
    net: CapturedNetwork, manifest: Manifest, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    bundle, _ = build_head_bundle(net, manifest=manifest, pt2=True, out_dir=tmp_path)
    assert bundle == tmp_path / "toy.head.zip"
    with zipfile.ZipFile(bundle) as files:
        found = Manifest.from_json(json.loads(files.read("manifest.json")))
        names = {name for name in files.namelist() if name != "manifest.json"}
    points = ("relu1", "relu2", "output")
    heads = {f"heads/{p}.{kind}" for p in points for kind in ("onnx", "pt2")}
    assert names == heads | {"weights/1.onnx", "weights/2.onnx"} == set(found.files)
    assert replace(found, files={}, weights={}) == replace(manifest, files={})
    opened = HeadBundle(bundle)
    x = torch.randn(3, 3, 16, 16)
    for point in points:
        session = onnxruntime.InferenceSession(
            opened.read(point), providers=["CPUExecutionProvider"]
        )
        (values,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.inference_mode():
            expected = net.bisect(point)[0](x) if point != "output" else net.model(x)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    opened.close()
    slim, _ = build_head_bundle(net, manifest=manifest, include_output=False, out_dir=tmp_path)
    with zipfile.ZipFile(slim) as files:
        heads = {"heads/relu1.onnx", "heads/relu2.onnx"}
        assert set(files.namelist()) == {"manifest.json", "weights/1.onnx", *heads}


def test_package_writes_three_files_of_one_network(
    net: CapturedNetwork, profile: Profile, tmp_path: Path
) -> None:
    built = package(
        net,
        profile=profile,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        include_output=False,
        out_dir=tmp_path,
    )
    assert {p.name for p in tmp_path.iterdir()} == {"toy.mar", "toy.head.zip", "isplit.mar"}
    assert (built.archive, built.bundle, built.endpoint) == tuple(
        tmp_path / n for n in ("toy.mar", "toy.head.zip", "isplit.mar")
    )
    assert built.manifest.deployed == (
        "relu2",
    )  # 130 bytes against 900 of the JPEG; relu1 takes 1024
    assert built.manifest.default == Cut("relu2", "uint8")  # the one codec that was measured there


def test_a_version_overwrites_no_other(
    net: CapturedNetwork, profile: Profile, tmp_path: Path
) -> None:
    def build(version: str, model: str = "toy") -> Built:
        return package(
            net,
            profile=profile,
            preprocessing=PREPROCESSING,
            classes=CLASSES,
            model=model,
            version=version,
            deployed=["relu2"],
            include_output=False,
            out_dir=tmp_path,
        )

    first = build("1.0")
    before = file_sha256(first.archive), file_sha256(first.bundle)
    second = build("2.0")
    assert second.archive == tmp_path / "toy-2.0.mar"
    assert second.bundle == tmp_path / "toy-2.0.head.zip"
    assert archive_identity(second.archive) == ("toy", "2.0")
    assert (file_sha256(first.archive), file_sha256(first.bundle)) == before
    with pytest.raises(BundleError, match=r"toy-2\.0\.mar: expected the file of toy-2\.0 1\.0"):
        build("1.0", "toy-2.0")


def test_another_network_under_the_same_version_is_warned_about(
    net: CapturedNetwork, profile: Profile, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "toy.head.zip", "w") as bundle:
        identity = {"model": "toy", "version": "1.0", "network_hash": "another"}
        bundle.writestr("manifest.json", json.dumps(identity))
    for expected in (1, 0):
        built = package(
            net,
            profile=profile,
            preprocessing=PREPROCESSING,
            classes=CLASSES,
            deployed=["relu2"],
            include_output=False,
            out_dir=tmp_path,
        )
        assert sum("give this network another version" in w for w in built.warnings) == expected


def _measured(profile: Profile, *rows: tuple[str, str, float, int]) -> Profile:
    """The profile with these (split point, codec, bytes, images of 12 that agree)."""
    classes = len(profile.class_ids)
    images = np.array([12, *[0] * (classes - 1)], np.int64)

    def agreeing(n: int) -> np.ndarray:
        return np.array([n, *[0] * (classes - 1)], np.int64)

    measurements = tuple(
        CutMeasurement(Cut.of(point, codec), nbytes, 0.1, 0.1, images, agreeing(n))
        for point, codec, nbytes, n in rows
    )
    ends = tuple(m for m in profile.measurements if m.split_point in ("input", "output"))
    # Without times, bytes decide what is deployed.
    return replace(profile, measurements=ends + measurements, head_ms={}, tail_ms={})


def test_points_worth_deploying(profile: Profile) -> None:
    # The toy's JPEG takes 900 bytes. conv1's small codec is unfaithful, so its faithful one counts.
    rows = [
        ("conv1", "uint8", 100.0, 6),
        ("conv1", "fp32", 2000.0, 12),
        ("relu1", "uint8", 880.0, 12),
    ]
    assert choose_deployed(_measured(profile, *rows, ("relu2", "fp16", 899.0, 12))) == (
        "relu1",
        "relu2",
    )
    large = [
        (p, "fp32", n, 12)
        for p, n in (("conv1", 5e3), ("relu1", 2e3), ("conv2", 4e3), ("relu2", 3e3))
    ]
    assert choose_deployed(_measured(profile, *large)) == ("relu1", "conv2", "relu2")
    assert choose_deployed(_measured(profile)) == ()
    unfaithful = [("conv1", "uint8", 100.0, 9), ("relu1", "uint8", 50.0, 8)]
    assert choose_deployed(_measured(profile, *unfaithful)) == ("conv1", "relu1")


def test_points_that_win_on_the_grid_are_deployed_first(profile: Profile) -> None:
    # conv1 sends less than the photo, too, but relu1 sends a tenth of that a little later.
    rows = [
        ("input", "webp@90", 16_000.0, 12),
        ("conv1", "uint8", 9_000.0, 12),
        ("relu1", "uint8", 900.0, 12),
        ("conv2", "uint8", 890.0, 12),
        ("relu2", "uint8", 880.0, 12),
    ]
    photo_only = tuple(m for m in profile.measurements if not m.cut.is_photo)
    measured = _measured(replace(profile, measurements=photo_only), *rows)
    heads = {"conv1": 1.0, "relu1": 1.2, "conv2": 6.0, "relu2": 7.0, "output": 8.0}
    tails = {name: 8.0 - ms for name, ms in heads.items()} | {"input": 8.0}
    timed = replace(measured, head_ms=heads, tail_ms=tails)
    assert choose_deployed(timed) == ("relu1",)
    assert len(choose_deployed(measured, limit=2)) == 2


def test_an_unfaithful_codec_at_the_input_is_no_rival(profile: Profile) -> None:
    rows = [("input", "q2c+zstd", 100.0, 8), ("input", "uint8+zstd", 200.0, 12)]
    points = [("conv1", "uint8", 2000.0, 12), ("relu1", "uint8", 880.0, 12)]
    assert choose_deployed(_measured(profile, *rows, *points)) == ("relu1",)


def test_an_unfaithful_jpeg_is_no_rival_but_the_file_is(profile: Profile) -> None:
    rows = [
        ("input", "jpeg@90", 900.0, 10),
        ("input", "file", 3000.0, 12),
        ("relu1", "uint8", 2000.0, 12),
        ("conv2", "uint8", 4000.0, 12),
    ]
    measured = _measured(profile, *rows)
    ends = {Cut("input", "jpeg", 90), Cut("input", "file")}
    own = tuple(m for m in profile.measurements if m.cut in ends)
    measured = replace(
        measured, measurements=tuple(m for m in measured.measurements if m not in own)
    )
    assert choose_deployed(measured) == ("relu1",)


def test_what_a_client_starts_with(net: CapturedNetwork, profile: Profile) -> None:
    deployed = ["conv1", "relu1", "relu2"]

    def default(*rows: tuple[str, str, float, int]) -> Cut:
        return _make(net, _measured(profile, *rows), deployed=deployed)[0].default

    plain = [
        (p, "uint8+zstd", n, 12) for p, n in (("conv1", 901.0), ("relu1", 899.0), ("relu2", 100.0))
    ]
    # The earliest that undercuts the JPEG's 900 bytes.
    assert default(*plain) == Cut("relu1", "uint8+zstd")
    large = [(p, "uint8+zstd", 5e3, 12) for p in deployed]
    # conv1's is too unfaithful to count, relu2's is the smallest of the others.
    assert default(*large, ("conv1", "q2c+zstd", 1e3, 6), ("relu2", "q4+zstd", 2e3, 12)) == Cut(
        "relu2", "q4+zstd"
    )
    # A cut that was never measured, or is not faithful, is no cut to start with.
    assert default() == Cut("input", "jpeg", 90)
    unfaithful = [("conv1", "uint8+zstd", 100.0, 9)]
    assert default(*unfaithful) == Cut("input", "jpeg", 90)
    assert default(*unfaithful, ("relu2", "uint8+zstd", 5e3, 12)) == Cut("relu2", "uint8+zstd")


def test_the_manifest_names_every_quality_and_the_usual_ones(
    net: CapturedNetwork, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(codecs._CODECS, "rated", Rated())
    rows = [
        ("input", "webp@75", 500.0, 9),
        ("input", "webp@90", 800.0, 12),
        ("input", "webp@63", 950.0, 12),
        ("relu1", "rated@1", 90.0, 8),
        ("relu1", "rated@3", 99.0, 12),
        ("relu1", "rated@12", 199.0, 12),
        ("relu1", "uint8", 80.0, 12),
    ]
    measured = _measured(profile, *rows)
    manifest = _make(net, measured, deployed=["relu1"])[0]
    assert {"rated@1", "rated@3", "rated@12", "uint8"} < set(manifest.codecs)
    assert set(manifest.photos) == {*PHOTOS, "webp@63"}
    assert [str(cut) for cut in manifest.usual] == [
        *("input:webp@90", "input:jpeg@90", "relu1:uint8", "relu1:rated@3"),
    ]
    assert Manifest.from_json(manifest.to_json()) == manifest
    asked = _make(net, measured, deployed=["relu1"], codecs=["rated", "fp32"])[0]
    assert asked.codecs == ("rated@1", "rated@3", "rated@12", "fp32")
    default = _make(net, measured, deployed=["relu1"], default=Cut("relu1", "rated", 12))[0]
    assert default.default == Cut("relu1", "rated", 12)
    with pytest.raises(UnknownCodecError, match="rated@2"):
        _make(net, measured, deployed=["relu1"], default=Cut("relu1", "rated", 2))


def test_names_resolve_to_the_first_name() -> None:
    block = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    nested = capture(
        nn.Sequential(block, nn.Flatten(), nn.Linear(392, 5)).eval(), torch.randn(1, 3, 16, 16)
    )
    point = nested.split_point("0")
    assert "0.1" in point.names  # the block's output is its last layer's
    manifest, _ = _make(
        nested, profile_of(nested, torch.randn(6, 3, 16, 16)), deployed=["0.1", "0", "0.1"]
    )
    assert manifest.deployed == (point.name,)


def test_unmeasured_points_and_odd_classes_are_warned_about(
    net: CapturedNetwork, profile: Profile
) -> None:
    _, warnings = _make(net, profile, deployed=["conv2"])
    assert warnings == (
        "the profile never measured conv2: served, but never recommended until it is measured",
    )
    _, warnings = _make(net, profile, classes=["one", "two"])
    assert "the network has 5 classes, 2 are named" in warnings


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ({"model": "isplit"}, BundleError, "not 'isplit'"),
        ({"model": "../toy"}, BundleError, "model name"),
        ({"model": ""}, BundleError, "model name"),
        ({"version": "1/2"}, BundleError, "version"),
        ({"deployed": ["nowhere"]}, UnknownSplitPointError, "unknown split point 'nowhere'"),
        ({"deployed": ["input"]}, SplitPointError, "not a split point"),
        ({"codecs": ["jpeg2000"]}, UnknownCodecError, "jpeg2000"),
        ({"default": Cut("relu1", "jpeg")}, UnknownCodecError, "jpeg"),
        ({"default": Cut("relu2", "fp32")}, UnknownSplitPointError, "relu2"),
        ({"default": Cut("input", "fp64")}, UnknownCodecError, "fp64"),
        ({"default": Cut("relu1", "uint8", 3)}, UnknownCodecError, "uint8@3"),
        ({"default": Cut("input", "jpeg", 3)}, UnknownCodecError, "jpeg@3"),
    ],
)
def test_what_cannot_be_packaged(
    net: CapturedNetwork,
    profile: Profile,
    changes: dict[str, object],
    kind: type[IsplitError],
    match: str,
) -> None:
    with pytest.raises(kind, match=match):
        _make(net, profile, **changes)


@pytest.mark.parametrize(
    "default", [Cut("input", "jpeg", 90), Cut("input", "fp32"), ON_DEVICE, Cut("relu1", "fp16")]
)
def test_defaults_besides_a_split(net: CapturedNetwork, profile: Profile, default: Cut) -> None:
    assert _make(net, profile, default=default)[0].default == default


def test_a_profile_of_another_network(net: CapturedNetwork) -> None:
    other = toy_network(seed=99)
    with pytest.raises(ProfileError, match="belongs to network"):
        _make(net, profile_of(other, torch.randn(6, 3, 16, 16)))


def test_preprocessing_of_another_size(net: CapturedNetwork, profile: Profile) -> None:
    with pytest.raises(
        BundleError, match=r"preprocessing makes \(3, 8, 8\), the network takes \(3, 16, 16\)"
    ):
        make_manifest(
            net,
            model="toy",
            version="1",
            profile=profile,
            preprocessing=replace(PREPROCESSING, crop=(8, 8)),
            classes=CLASSES,
        )


@pytest.mark.parametrize("where", ["archiver", "copy"])
def test_an_interrupted_build_leaves_the_old_file_whole(
    net: CapturedNetwork, profile: Profile, manifest: Manifest, tmp_path: Path, where: str
) -> None:
    built = build_archive(net, manifest=manifest, profile=profile, out_dir=tmp_path)
    before = built.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        if where == "copy":
            patch.setattr(os, "replace", _interrupt)
        else:
            patch.setattr(subprocess, "run", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_archive(net, manifest=manifest, profile=profile, out_dir=tmp_path)
    assert built.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["toy.mar"]


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_the_archivers_complaint_is_told(
    net: CapturedNetwork,
    profile: Profile,
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ServingError, match="torch-model-archiver failed for 'toy'"):
        build_archive(net, manifest=manifest, profile=profile, out_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
