from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from isplit_plugin.errors import ProfileError, UnknownClassError, UnknownSplitPointError
from isplit_plugin.hashed_arrays import digest
from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.profile.profile_file import parts_of
from isplit_plugin.schema import Cut, Macs, Preprocessing, SplitPoint

VALUES = np.array([[1.0, 10.0, 0.0], [3.0, 30.0, 0.0], [5.0, 20.0, 0.0], [7.0, 60.0, 0.0]])
ROWS = np.array([0, 0, 1, 1])


def point(name: str, *aliases: str) -> SplitPoint:
    return SplitPoint(name, aliases, (2, 3, 3), "float32", 72, Macs(10, 20), 1, (0, 1, 2, 3), True)


def make(**changes: Any) -> Profile:
    """Four images of classes 2 and 0, three points, values small enough to add up by hand."""
    mean0 = VALUES.mean(axis=0)
    shifted = VALUES - mean0
    sums = [
        np.stack([part[k == ROWS].sum(axis=0) for k in (0, 1)]) for part in (shifted, shifted**2)
    ]
    within = np.concatenate([VALUES[k == ROWS] - VALUES[k == ROWS].mean(axis=0) for k in (0, 1)])
    ints = {"class_ids": [2, 0], "count": [2, 2]}
    fields: dict[str, Any] = {
        "model": "toy",
        "network_hash": "ab" * 32,
        "classes": ("cat", "dog", "Ünïcode 猫"),
        "split_points": (point("conv1"), point("layer1", "layer1.2"), point("layer2")),
        "preprocessing": Preprocessing(crop=(8, 8), resize=9),
        "target": "predicted",
        **{k: np.array(v, dtype=np.int64) for k, v in ints.items()},
        "mean0": mean0,
        "sum1": sums[0],
        "sum2": sums[1],
        "comoment": within.T @ within,
        "comoment_dof": 2,
        "head_ms": {"input": 0.0, "conv1": 0.5, "output": 3.0},
        "tail_ms": {"input": 3.0, "conv1": 2.5, "output": 0.0},
        "measurements": (
            measure("input", "jpeg@90", [2, 2], [2, 1]),
            measure("conv1", "uint8", [2, 2], [2, 2]),
        ),
        "accuracy": 0.75,
        "provenance": {"torch": "2.15", "images": "4"},
    }
    return Profile(**{**fields, **changes})


def measure(
    name: str, codec: str, images: list[int], agreeing: list[int], nbytes: float = 7.5
) -> CutMeasurement:
    return CutMeasurement(
        Cut(name, codec), nbytes, 0.1, 0.2, np.array(images, np.int64), np.array(agreeing, np.int64)
    )


def same(one: Profile, other: Profile) -> None:
    description, arrays = parts_of(one)
    other_description, other_arrays = parts_of(other)
    assert description == other_description
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name])
        assert array.dtype == other_arrays[name].dtype


def test_curve_is_mean_and_standard_error() -> None:
    profile = make()
    curve = profile.curve()
    np.testing.assert_allclose(curve.mean, [4.0, 30.0, 0.0], rtol=1e-14)
    np.testing.assert_allclose(
        curve.standard_error, VALUES.std(axis=0, ddof=1) / 2, rtol=1e-14, atol=1e-300
    )
    assert curve.n == 4
    one = profile.curve([2])  # class 2 stands in row 0: images 1 and 3
    np.testing.assert_allclose(one.mean, [2.0, 20.0, 0.0], rtol=1e-14)
    np.testing.assert_allclose(one.standard_error, [1.0, 10.0, 0.0], rtol=1e-14)
    assert one.n == 2


def test_curve_of_a_set_counts_a_repeated_class_once() -> None:
    profile = make()
    np.testing.assert_allclose(profile.curve([0, 2, 0]).mean, profile.curve().mean)
    assert profile.curve([0, 2, 0]).n == 4


def test_curve_without_images_is_nan() -> None:
    curve = make().curve([1])
    assert curve.n == 0
    assert np.isnan(curve.mean).all()
    assert np.isnan(curve.standard_error).all()


def test_curve_of_one_image_has_no_standard_error() -> None:
    curve = make(count=np.array([1, 3], dtype=np.int64)).curve([2])
    assert curve.n == 1
    assert np.isfinite(curve.mean).all()
    assert np.isnan(curve.standard_error).all()


def test_unknown_names_list_known_ones() -> None:
    profile = make()
    assert profile.point_index("layer1") == profile.point_index("layer1.2") == 1
    with pytest.raises(UnknownSplitPointError, match="conv1, layer1, layer2"):
        profile.point_index("layer9")
    for unknown in (3, -1):
        with pytest.raises(UnknownClassError, match="cat, dog"):
            profile.curve([unknown])


def test_the_measurement_of_a_cut() -> None:
    profile = make()
    assert profile.measurement(Cut("conv1", "uint8")) is profile.measurements[1]
    assert profile.measurement(Cut("conv1", "fp32")) is None


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "toy.profile.safetensors"
    sha = make().save(path)
    same(Profile.load(path), make())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    for _ in range(5):
        assert sha == make().save(path)  # equal profiles, equal bytes


@pytest.mark.parametrize(
    "changes",
    [{"measurements": ()}, {"accuracy": None}, {"head_ms": {}, "tail_ms": {}, "provenance": {}}],
)
def test_round_trip_of_small_profiles(changes: dict[str, Any]) -> None:
    same(Profile.from_bytes(make(**changes).to_bytes()), make(**changes))


def test_profile_without_images_round_trips() -> None:
    empty = {
        "class_ids": np.zeros(0, np.int64), "count": np.zeros(0, np.int64),
        "sum1": np.zeros((0, 3)), "sum2": np.zeros((0, 3)),
        "measurements": (measure("conv1", "uint8", [], []),),
    }  # fmt: skip
    same(Profile.from_bytes(make(**empty).to_bytes()), make(**empty))


def test_stays_readable_by_safetensors_alone() -> None:
    arrays = safetensors.numpy.load(make().to_bytes())
    np.testing.assert_array_equal(arrays["sum1"], make().sum1)


def rewrite(
    data: bytes,
    *,
    head: dict[str, Any] | None = None,
    arrays: dict[str, Any] | None = None,
    sign: bool = True,
) -> bytes:
    """A profile's file with parts replaced, and a new SHA-256 unless ``sign`` is false."""
    length = int.from_bytes(data[:8], "little")
    signed = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["isplit_profile"])
    parts = {**safetensors.numpy.load(data), **(arrays or {})}
    parts = {name: array for name, array in parts.items() if array is not None}
    signed["content"].update(head or {})
    if sign:
        with contextlib.suppress(ValueError):  # NaN has no canonical form
            signed["sha256"] = digest(signed["content"], parts)
    return safetensors.numpy.save(parts, metadata={"isplit_profile": json.dumps(signed)})


POINTS = json.loads(json.dumps(parts_of(make())[0]["split_points"]))
DAMAGE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "newer": ({"format": 2}, {}, "expected format 1 or older, got 2"),
    "infinite format": ({"format": float("inf")}, {}, "OverflowError"),
    "missing array": ({}, {"sum1": None}, "sum1 are missing"),
    "wrong shape": (
        {},
        {"sum1": np.zeros((2, 2))},
        r"sum1: expected float64 \(2, 3\), got float64 \(2, 2\)",
    ),
    "wrong dtype": ({}, {"count": np.zeros(2, np.int32)}, "count: expected int64"),
    "scalar ids": ({}, {"class_ids": np.array(3)}, r"images: expected shape \(2, 0\)"),
    "nan": ({}, {"mean0": np.array([0.0, np.nan, 0.0])}, "mean0: expected finite"),
    "negative count": ({}, {"count": np.array([1, -1])}, "count: expected no negative"),
    "negative squares": ({}, {"sum2": np.full((2, 3), -1.0)}, "sum2: expected no negative"),
    "negative variance": ({}, {"comoment": -np.eye(3)}, "comoment: expected no negative"),
    "negative freedom": ({"comoment_dof": -1}, {}, "comoment_dof"),
    "class beyond": (
        {},
        {"class_ids": np.array([0, 3])},
        "class_ids: expected 0 to 2, got 0 to 3",
    ),
    "class twice": ({}, {"class_ids": np.array([1, 1])}, "every class once"),
    "agreeing above images": (
        {},
        {"agreeing": np.array([[2, 3], [2, 2]])},
        "0 <= agreeing <= images",
    ),
    "measurements and rows": (
        {},
        {"images": np.zeros((1, 2), np.int64)},
        r"images: expected shape \(2, 2\)",
    ),
    "measurement of nothing": (
        {"measurements": [["conv9:uint8", 1, 1, 1]] * 2},
        {},
        "conv9:uint8: unknown split point",
    ),
    "negative bytes": ({"measurements": [["conv1:uint8", -1, 1, 1]] * 2}, {}, "expected bytes"),
    "short measurement": ({"measurements": [["conv1:uint8"]] * 2}, {}, "expected a profile"),
    "measurement without a cut": (
        {"measurements": [["conv1", 1, 1, 1]] * 2},
        {},
        "expected a profile",
    ),
    "target": ({"target": "both"}, {}, "target: expected one of"),
    "accuracy": ({"accuracy": 1.5}, {}, "accuracy: expected 0 to 1"),
    "nan accuracy": ({"accuracy": float("nan")}, {}, "expected a profile"),
    "time": ({"head_ms": {"conv1": -1}}, {}, r"head_ms\[conv1\]"),
    "time of nothing": ({"tail_ms": {"conv9": 1}}, {}, "tail_ms: unknown split points"),
    "no preprocessing": ({"preprocessing": None}, {}, "expected a profile"),
    "points twice": ({"split_points": [POINTS[0]] * 3}, {}, "expected unique names"),
    "classes": ({"classes": 3}, {}, "expected a profile"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    head, arrays, message = DAMAGE[name]
    path = tmp_path / "toy.profile.safetensors"
    path.write_bytes(rewrite(make().to_bytes(), head=head, arrays=arrays))
    with pytest.raises(ProfileError, match=message) as caught:
        Profile.load(path)
    assert caught.value.message.startswith(str(path))


@pytest.mark.parametrize(
    "changes", [{"head": {"model": "other"}}, {"arrays": {"mean0": np.ones(3)}}]
)
def test_edits_break_the_checksum(changes: dict[str, Any]) -> None:
    with pytest.raises(ProfileError, match="SHA-256"):
        Profile.from_bytes(rewrite(make().to_bytes(), **changes, sign=False))


def test_rewriting_alone_is_accepted() -> None:
    """A file rewritten without damage loads, so the tests above fail for their own reason."""
    same(Profile.from_bytes(rewrite(make().to_bytes())), make())


def test_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="No such file"):
        Profile.load(tmp_path / "absent")
    with pytest.raises(ProfileError, match="directory"):
        Profile.load(tmp_path)
    with pytest.raises(ProfileError, match="isplit_profile"):
        Profile.from_bytes(safetensors.numpy.save({"a": np.zeros(3)}))
    with pytest.raises(ProfileError, match="cannot write"):
        make().save(tmp_path / "absent" / "toy")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damaged_byte_raises_only_profile_errors(data: st.DataObject) -> None:
    raw = bytearray(make().to_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    raw = raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw) - 1)))]
    with contextlib.suppress(ProfileError):
        # A change without a meaning, such as JSON white space, may pass.
        same(Profile.from_bytes(bytes(raw)), make())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_no_profile(raw: bytes) -> None:
    with pytest.raises(ProfileError):
        Profile.from_bytes(raw)


def test_parts_that_disagree_cannot_be_built() -> None:
    with pytest.raises(ProfileError, match="mean0: expected float64"):
        make(mean0=np.zeros(4))
    with pytest.raises(ProfileError, match="mean0: expected float64"):
        make(mean0=[0.0, 0.0, 0.0])
    with pytest.raises(ProfileError, match=r"images: expected int64 \(2,\)"):
        make(measurements=(measure("conv1", "uint8", [1], [1]),))


def test_replace_keeps_the_checks() -> None:
    with pytest.raises(ProfileError, match="count"):
        replace(make(), count=np.array([-1, 1], dtype=np.int64))
