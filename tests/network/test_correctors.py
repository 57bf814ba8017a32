"""Correctors: trained on a small network, measured on unseen photos, and their files."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys.serving import CLASSES, PREPROCESSING, decided_network
from toys.transforms import toy_transform

from isplit_plugin.errors import ArtifactError, DataError, NetworkMismatchError
from isplit_plugin.hashed_arrays import pack_arrays, unpack_arrays
from isplit_plugin.network import (
    CapturedNetwork,
    Corrector,
    FittedCorrectors,
    FittedTransforms,
    corrector_sha256,
    fit_correctors,
    fit_transforms,
    load_correctors,
    pack_correctors,
    profile,
    save_correctors,
    unpack_correctors,
)
from isplit_plugin.network.correctors import corrector_file
from isplit_plugin.network.correctors.corrector_file import KEY
from isplit_plugin.network.correctors.views import collect_views
from isplit_plugin.network.transforms.fitted import FOLDS, fold_of
from isplit_plugin.schema import Cut
from isplit_plugin.wire import QUALITIES

PHOTOS = 64
STEPS = 80


def smooth_photos(count: int, seed: int = 0) -> list[tuple[np.ndarray, int | None]]:
    """Photos of 32 x 32 whose neighbouring pixels are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3))
    noise = rng.integers(-10, 11, (count, 32, 32, 3))
    photos = coarse.repeat(4, axis=1).repeat(4, axis=2) + noise
    return [(each.clip(0, 255).astype(np.uint8), None) for each in photos]


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    return decided_network()


@pytest.fixture(scope="module")
def transforms(net: CapturedNetwork) -> FittedTransforms:
    return fit_transforms(
        net, smooth_photos(PHOTOS), preprocessing=PREPROCESSING, split_points=["relu1"], threads=1
    )


@pytest.fixture(scope="module")
def correctors(net: CapturedNetwork, transforms: FittedTransforms) -> FittedCorrectors:
    return fit_correctors(
        net,
        smooth_photos(PHOTOS),
        transforms,
        preprocessing=PREPROCESSING,
        steps=STEPS,
        threads=1,
    )


def test_unseen_photos_gain(correctors: FittedCorrectors) -> None:
    fit = correctors.fits["relu1"]
    assert fit.steps == STEPS
    assert len(fit.before) == len(fit.after) == len(QUALITIES)
    assert sum(fit.after[:4]) < sum(fit.before[:4])
    corrector = correctors.correctors["relu1"]
    gains = [after < before for before, after in zip(fit.before, fit.after, strict=True)]
    assert corrector.active.tolist() == gains
    assert corrector.parameter_count < 5000


def test_equal_steps_and_photos_give_equal_correctors(
    net: CapturedNetwork, transforms: FittedTransforms, correctors: FittedCorrectors
) -> None:
    torch.manual_seed(99)  # the training's seed is its own, and it leaves this one alone
    expected = torch.Generator().manual_seed(99)
    again = fit_correctors(
        net,
        smooth_photos(PHOTOS),
        transforms,
        preprocessing=PREPROCESSING,
        steps=STEPS,
        threads=1,
    )
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
    first, second = (
        pack_correctors(each.correctors, transforms.transforms) for each in (correctors, again)
    )
    assert first == second


def test_a_photo_is_measured_by_a_corrector_trained_without_it(
    net: CapturedNetwork, transforms: FittedTransforms, correctors: FittedCorrectors
) -> None:
    images, others = smooth_photos(PHOTOS), smooth_photos(PHOTOS, seed=1)
    # Other photos in fold 0 do not change the corrector that measures fold 0, but the others.
    mixed = [others[n] if fold_of(n) == 0 else images[n] for n in range(PHOTOS)]
    views = {
        name: collect_views(
            net,
            "relu1",
            photos,
            PREPROCESSING,
            crops=2,
            batch_size=16,
            seed=0,
            report=lambda _: None,
        )
        for name, photos in (("first", images), ("mixed", mixed))
    }
    assert views["first"].whole.sum() == PHOTOS
    assert len(views["first"]) == 3 * PHOTOS
    same = np.array([fold_of(number) == 1 for number in views["first"].numbers.tolist()])
    assert torch.equal(views["first"].values[same], views["mixed"].values[same])
    own = {id(each["relu1"]) for each in correctors.without_fold}
    assert len(own) == FOLDS
    for number in range(PHOTOS):
        unseen = correctors.unseen("relu1", number)
        assert unseen is correctors.without_fold[fold_of(number)]["relu1"]


def test_a_profile_measures_every_quality_as_corrected(
    net: CapturedNetwork,
    transforms: FittedTransforms,
    correctors: FittedCorrectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {
        "preprocessing": PREPROCESSING,
        "classes": CLASSES,
        "split_points": ["relu1"],
        "codecs": ["uint8"],
        "photos": ["jpeg@90"],
        "transforms": transforms,
        "threads": 1,
    }
    without = profile(net, smooth_photos(PHOTOS), **options)
    correct = Corrector.correct

    def slowly(self: Corrector, values: np.ndarray, quality: int) -> np.ndarray:
        time.sleep(0.003)
        return correct(self, values, quality)

    monkeypatch.setattr(Corrector, "correct", slowly)
    corrected = profile(net, smooth_photos(PHOTOS), **options, correctors=correctors)
    sha256 = corrector_sha256(correctors.correctors["relu1"], transforms.transforms["relu1"])
    assert corrected.correctors == {"relu1": sha256}
    assert without.correctors == {}
    assert type(corrected).from_bytes(corrected.to_bytes()).correctors == corrected.correctors
    for quality in QUALITIES:
        before = without.measurement(Cut("relu1", "dct", quality))
        after = corrected.measurement(Cut("relu1", "dct", quality))
        assert before is not None
        assert after is not None
        assert after.nbytes == before.nbytes
        assert after.images.sum() == PHOTOS
        # What the corrector takes is a part of decoding.
        if correctors.correctors["relu1"].active[quality]:
            assert after.decode_ms >= 3


def test_a_budget_of_seconds_is_kept_and_progress_shown(
    net: CapturedNetwork, transforms: FittedTransforms
) -> None:
    seen: list[tuple[int, int | None]] = []
    fits = fit_correctors(
        net,
        smooth_photos(PHOTOS),
        transforms,
        preprocessing=PREPROCESSING,
        seconds=0.01,
        threads=1,
        progress=lambda done, total: seen.append((done, total)),
    ).fits
    assert fits["relu1"].steps == 20  # the fewest
    assert {total for _, total in seen} == {100}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (100, 100)


@pytest.mark.parametrize("budget", [{"seconds": 0.0}, {"seconds": -1.0}, {"steps": 0}])
def test_a_budget_that_makes_no_sense_is_refused(
    net: CapturedNetwork, transforms: FittedTransforms, budget: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="above 0"):
        fit_correctors(net, smooth_photos(16), transforms, preprocessing=PREPROCESSING, **budget)


@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 5, 4), 1), ((17, 8), 2), ((8, 16), 1), ((9, 30), 2), ((12,), 1)]
)
def test_every_form_of_activation_comes_back_in_its_form(shape: tuple[int, ...], axis: int) -> None:
    """Pictures, tokens with a class token, tokens, a row, and channels alone."""
    transform = replace(toy_transform(shape, axis), low=-1.0, high=2.0)
    torch.manual_seed(0)
    corrector = Corrector(transform).eval().requires_grad_(False)
    values = np.random.default_rng(0).uniform(-1, 2, (3, *shape)).astype(np.float32)
    assert np.array_equal(corrector.correct(values, 3), values)  # before training
    torch.nn.init.normal_(corrector.narrow.weight, std=0.3)
    changed = corrector.correct(values, 3)
    assert changed.shape == values.shape
    assert changed.flags["C_CONTIGUOUS"]
    assert changed.min() >= -1
    assert changed.max() <= 2
    assert not np.allclose(changed, values)
    prefix = transform.grid.prefix
    if prefix:
        assert np.array_equal(changed[:, :prefix], values[:, :prefix])
    alone = np.concatenate([corrector.correct(each[None], 3) for each in values])
    np.testing.assert_allclose(alone, changed, rtol=0, atol=1e-6)
    corrector.active[3] = False
    assert np.array_equal(corrector.correct(values, 3), values)


def test_a_large_batch_is_corrected_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    corrector = trained()["conv"]
    values = np.random.default_rng(0).normal(size=(7, 6, 5, 4)).astype(np.float32)
    whole = corrector.correct(values, 0)
    monkeypatch.setattr("isplit_plugin.network.correctors.corrector.MAX_BYTES", 1)
    np.testing.assert_allclose(corrector.correct(values, 0), whole, rtol=0, atol=1e-6)


def test_an_activation_too_large_for_it_stays_as_it_is() -> None:
    values = np.full((1, 6, 5, 4), 3e38, np.float32)
    assert np.isfinite(trained()["conv"].correct(values, 0)).all()


def trained() -> dict[str, Corrector]:
    """A corrector behind the toy transform, with weights that do something."""
    torch.manual_seed(0)
    corrector = Corrector(toy_transform(), scale=0.7).eval().requires_grad_(False)
    torch.nn.init.normal_(corrector.narrow.weight, std=0.3)
    return {"conv": corrector}


TRANSFORMS = {"conv": toy_transform()}


def test_correctors_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.correctors.safetensors"
    save_correctors(path, trained(), TRANSFORMS)
    back = load_correctors(path, TRANSFORMS)
    values = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype(np.float32)
    assert np.array_equal(back["conv"].correct(values, 2), trained()["conv"].correct(values, 2))
    assert pack_correctors(back, TRANSFORMS) == path.read_bytes()


def changed(name: str, array: np.ndarray | None) -> bytes:
    """A file with a right hash and one array changed or left out."""
    packed = pack_correctors(trained(), TRANSFORMS)
    content, arrays = unpack_arrays(packed, KEY, newest=1, max_bytes=2**20)
    arrays = {key: value for key, value in arrays.items() if key != f"0.{name}"}
    return pack_arrays(KEY, content, arrays if array is None else arrays | {f"0.{name}": array})


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("narrow.bias", np.full(6, np.nan, np.float32), "expected finite"),
        ("gains", np.full((8, 64), np.inf, np.float32), "expected finite"),
        ("narrow.bias", np.zeros(7, np.float32), "expected float32"),
        ("narrow.bias", np.zeros(6, np.float64), "expected float32"),
        ("active", np.zeros(8, np.uint8), "expected bool"),
        ("scale", np.zeros(1, np.float32), "above 0"),
        ("narrow.bias", None, "expected"),
        ("other", np.zeros(1, np.float32), "expected"),
    ],
)
def test_what_cannot_be_a_corrector_is_refused(
    name: str, array: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"^here: .*{message}"):
        unpack_correctors(changed(name, array), TRANSFORMS, where="here")


def test_a_corrector_belongs_to_one_transform_of_one_network() -> None:
    data = pack_correctors(trained(), TRANSFORMS)
    with pytest.raises(NetworkMismatchError, match="belongs to network") as caught:
        unpack_correctors(data, {"conv": toy_transform(network_hash="cd" * 32)})
    assert caught.value.details["found"] == "ab" * 32
    with pytest.raises(ArtifactError, match="trained behind transform"):
        unpack_correctors(data, {"conv": toy_transform(step=0.25)})
    with pytest.raises(ArtifactError, match="expected one of a split point with a transform"):
        unpack_correctors(data, {"other": toy_transform(split_point="other")})


def test_damaged_newer_and_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pack_correctors(trained(), TRANSFORMS)
    with pytest.raises(ArtifactError, match="SHA-256"):
        unpack_correctors(data[:-1] + bytes([data[-1] ^ 1]), TRANSFORMS)
    for length in (0, 7, 100, len(data) - 1):
        with pytest.raises(ArtifactError):
            unpack_correctors(data[:length], TRANSFORMS)
    with pytest.raises(ArtifactError, match="expected correctors"):
        unpack_correctors(safetensors.numpy.save({"x": np.zeros(3)}), TRANSFORMS)
    with pytest.raises(ArtifactError, match="No such file"):
        load_correctors(tmp_path / "missing", TRANSFORMS)
    monkeypatch.setattr(corrector_file, "FORMAT", 2)
    newer = pack_correctors(trained(), TRANSFORMS)
    monkeypatch.setattr(corrector_file, "FORMAT", 1)
    with pytest.raises(ArtifactError, match="expected format 1 or older, got 2"):
        unpack_correctors(newer, TRANSFORMS)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        unpack_correctors(data, TRANSFORMS)
