"""Correctors in the archive, not in the head bundle, and corrected answers of the tail."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
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

from isplit_plugin.errors import ArtifactError, NetworkMismatchError
from isplit_plugin.network import CapturedNetwork, Corrector, corrector_sha256, pack_correctors
from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.serving.packaging import (
    Built,
    deployed_correctors,
    deployed_transforms,
    package,
)
from isplit_plugin.wire import (
    QUALITIES,
    TailRequest,
    Transform,
    decode_activation,
    encode_activation,
)

CPU = torch.device("cpu")
FILE = "relu1.corrector.safetensors"


@pytest.fixture(scope="module")
def transform(net: CapturedNetwork) -> Transform:
    point = net.split_point("relu1")
    return toy_transform(
        point.shape,
        point.channel_axis,
        network_hash=net.network_hash(PREPROCESSING),
        split_point="relu1",
        step=0.05,
        low=0.0,
    )


@pytest.fixture(scope="module")
def corrector(transform: Transform) -> Corrector:
    """With weights that change answers visibly, at all qualities but the last."""
    torch.manual_seed(1)
    corrector = Corrector(transform).eval().requires_grad_(False)
    torch.nn.init.normal_(corrector.narrow.weight, std=0.5)
    corrector.active[-1] = False
    return corrector


@pytest.fixture(scope="module")
def profiled(net: CapturedNetwork, transform: Transform, corrector: Corrector) -> Profile:
    torch.manual_seed(3)
    profile = profile_of(net, torch.randn(12, 3, 16, 16), nbytes={("relu1", "fp32"): 1024.0})
    count = profile.count
    measured = tuple(
        CutMeasurement(Cut("relu1", "dct", q), 90.0 + q, 0.1, 0.1, count, count) for q in QUALITIES
    )
    return replace(
        profile,
        measurements=(*profile.measurements, *measured),
        correctors={"relu1": corrector_sha256(corrector, transform)},
    )


@pytest.fixture(scope="module")
def built(
    net: CapturedNetwork,
    profiled: Profile,
    transform: Transform,
    corrector: Corrector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Built:
    return package(
        net,
        profile=profiled,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
        transforms=[transform],
        correctors={"relu1": corrector},
        out_dir=tmp_path_factory.mktemp("model_store"),
    )


@pytest.fixture
def worker(built: Built, tmp_path: Path, store_url: str) -> Iterator[Worker]:
    loaded = Worker(unpack(built.archive, tmp_path / "model"))
    yield loaded
    loaded.close()


def manifest_of(folder: Path) -> Manifest:
    return Manifest.from_json(json.loads((folder / "manifest.json").read_text()))


def test_the_archive_has_the_corrector_and_the_head_bundle_has_not(
    built: Built, corrector: Corrector, transform: Transform, tmp_path: Path
) -> None:
    assert built.manifest.correctors == ("relu1",)
    folder = unpack(built.archive, tmp_path)
    manifest = manifest_of(folder)
    assert FILE in manifest.files
    transforms = deployed_transforms(folder, manifest)
    loaded = deployed_correctors(folder, manifest, transforms, CPU)
    own = pack_correctors({"relu1": corrector}, {"relu1": transform})
    assert pack_correctors(loaded, transforms) == own
    with zipfile.ZipFile(built.bundle) as bundle:
        assert not [name for name in bundle.namelist() if "corrector" in name]


def test_the_tail_answers_what_codec_and_corrector_say_offline(
    net: CapturedNetwork,
    built: Built,
    worker: Worker,
    transform: Transform,
    corrector: Corrector,
) -> None:
    torch.manual_seed(7)
    exact = head_of(net, "relu1", torch.randn(3, 3, 16, 16))
    tail = net.bisect("relu1")[1]
    asks, offline, uncorrected = [], [], []
    for quality in (0, 4, 7):
        tensor = encode_activation(exact, f"dct@{quality}", transform=transform)
        back = decode_activation(tensor, shape=exact.shape[1:], transform=transform)
        with torch.inference_mode():
            offline.append(tail(torch.from_numpy(corrector.correct(back, quality))).numpy())
            uncorrected.append(tail(torch.from_numpy(back)).numpy())
        cut = Cut("relu1", "dct", quality)
        asks.append(
            TailRequest(
                cut=cut, tensor=tensor, network_hash=built.manifest.network_hash, scores=True
            )
        )
    # All in one batch of the tail, and another codec at the same split point beside them.
    plain = encode_activation(exact, "fp32")
    fp32 = replace(asks[0], cut=Cut("relu1", "fp32"), tensor=plain)
    *replies, other = worker(*map(ask_of, asks), ask_of(fp32))
    for reply, expected in zip(replies, offline, strict=True):
        np.testing.assert_allclose(scores_of(answer_of(reply)), expected, rtol=0, atol=1e-4)
    assert not np.allclose(offline[0], uncorrected[0], atol=1e-3)
    assert np.array_equal(offline[2], uncorrected[2])  # the last quality is not corrected
    with torch.inference_mode():
        exact_scores = tail(torch.from_numpy(exact)).numpy()
    np.testing.assert_allclose(scores_of(answer_of(other)), exact_scores, rtol=0, atol=1e-4)


def test_without_the_corrector_its_measurements_are_left_out(
    net: CapturedNetwork, profiled: Profile, transform: Transform, tmp_path: Path
) -> None:
    built = package(
        net,
        profile=profiled,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1"],
        transforms=[transform],
        out_dir=tmp_path / "store",
    )
    assert built.manifest.correctors == ()
    # The codec works, but its measurements were about other answers.
    assert "dct@4" in built.manifest.codings("relu1")
    folder = unpack(built.archive, tmp_path / "model")
    assert not (folder / FILE).exists()
    packaged = Profile.load(folder / "profile.safetensors")
    assert not [m for m in packaged.measurements if m.codec == "dct"]
    assert packaged.correctors == {}


def test_correctors_that_do_not_fit_are_refused(
    net: CapturedNetwork, profiled: Profile, transform: Transform, tmp_path: Path
) -> None:
    other = Corrector(transform).eval()

    def packaged(profile: Profile, transforms: list[Transform]) -> None:
        package(
            net,
            profile=profile,
            preprocessing=PREPROCESSING,
            classes=CLASSES,
            deployed=["relu1"],
            transforms=transforms,
            correctors={"relu1": other},
            out_dir=tmp_path,
        )

    with pytest.raises(ArtifactError, match="its transform is missing"):
        packaged(profiled, [])
    with pytest.raises(ArtifactError, match="the profile was measured with"):
        packaged(profiled, [transform])
    with pytest.raises(ArtifactError, match=r"\(none\)"):
        packaged(replace(profiled, correctors={}), [transform])


def test_an_archive_with_another_corrector_is_refused(
    built: Built, transform: Transform, corrector: Corrector, tmp_path: Path
) -> None:
    folder = unpack(built.archive, tmp_path)
    manifest = manifest_of(folder)
    transforms = deployed_transforms(folder, manifest)

    def load_with(data: bytes) -> None:
        (folder / FILE).write_bytes(data)
        deployed_correctors(folder, manifest, transforms, CPU)

    data = pack_correctors({"relu1": corrector}, {"relu1": transform})
    with pytest.raises(ArtifactError, match=FILE):
        load_with(data[:-1])
    foreign = replace(transform, network_hash="cd" * 32)
    with pytest.raises(NetworkMismatchError, match=FILE):
        load_with(pack_correctors({"relu1": corrector}, {"relu1": foreign}))
    with pytest.raises(ArtifactError, match="expected the corrector of 'relu1'"):
        load_with(pack_correctors({}, {}))
    (folder / FILE).unlink()
    with pytest.raises(ArtifactError, match="No such file"):
        deployed_correctors(folder, manifest, transforms, CPU)
