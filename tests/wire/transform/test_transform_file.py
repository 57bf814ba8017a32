"""Files of transforms: they come back, and nothing wrong is accepted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.transforms import toy_transform

from isplit_plugin.errors import ArtifactError, NetworkMismatchError
from isplit_plugin.schema import Macs, SplitPoint
from isplit_plugin.wire.transform import transform_file
from isplit_plugin.wire.transform.transform import Transform
from isplit_plugin.wire.transform.transform_file import (
    check_transform,
    load_transforms,
    pack_transforms,
    save_transforms,
    unpack_transforms,
)

POINT = SplitPoint("conv", (), (6, 5, 4), "float32", 480, Macs(1, 1), 1, (0, 1, 2, 3), True)


def test_transforms_come_back(tmp_path: Path) -> None:
    written = (toy_transform(), toy_transform((10, 8), 2, split_point="tokens", components=3))
    save_transforms(tmp_path / "x.transforms.safetensors", written)
    back = load_transforms(tmp_path / "x.transforms.safetensors")
    assert [each.split_point for each in back] == ["conv", "tokens"]
    exact = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    assert back[0].encode(exact, 5) == written[0].encode(exact, 5)
    assert pack_transforms(back) == pack_transforms(written)


def changed(**fields: Any) -> bytes:
    return pack_transforms([replace(toy_transform(), **fields)])


def broken_tables() -> np.ndarray:
    tables = toy_transform().tables.copy()
    tables[3, 5] = 0
    return tables


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": (6, 5, 5)},
        {"shape": ()},
        {"shape": (6, 0, 4)},
        {"shape": (2**20, 2**20, 1)},
        {"channel_axis": 4},
        {"channel_axis": 0},
        {"spacing": 99},
        {"spacing": -1},
        {"step": 0.0},
        {"step": 1e30},
        {"low": 2.0, "high": 1.0},
        {"tables": broken_tables()},
        {"widths": np.zeros((6, 8), np.float16)},
        {"widths": np.full((6, 8), np.inf, np.float16)},
        {"mean": np.full((1, 6), np.nan, np.float32)},
        {"centroids": np.full((40, 3), 2, np.float16)},
        {"gains": np.ones(7, np.float32)},
        {"gains": np.zeros(8, np.float32)},
        {"gains": np.full(8, 17, np.float32)},
        {"gains": np.full(8, np.nan, np.float32)},
        {"encoder": np.zeros((6, 6), np.float32)},
        {"encoder": np.zeros((7, 6), np.float16)},
    ],
)
def test_what_cannot_be_a_transform_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"^here: "):
        unpack_transforms(changed(**fields), where="here")


def test_an_edited_file_is_refused() -> None:
    data = pack_transforms([toy_transform()])
    with pytest.raises(ArtifactError, match="SHA-256"):
        unpack_transforms(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform_file, "FORMAT", 2)
    data = pack_transforms([toy_transform()])
    monkeypatch.setattr(transform_file, "FORMAT", 1)
    with pytest.raises(ArtifactError, match="expected format 1 or older, got 2"):
        unpack_transforms(data)


def test_other_files_are_refused(tmp_path: Path) -> None:
    import safetensors.numpy

    with pytest.raises(ArtifactError, match="No such file"):
        load_transforms(tmp_path / "missing")
    other = safetensors.numpy.save({"x": np.zeros(3)})
    with pytest.raises(ArtifactError, match="metadata"):
        unpack_transforms(other)
    wrong = safetensors.numpy.save({}, metadata={"isplit_transforms": json.dumps([1])})
    with pytest.raises(ArtifactError, match="expected a file of transforms"):
        unpack_transforms(wrong)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        unpack_transforms(data)


def test_a_transform_belongs_to_one_split_point_of_one_network() -> None:
    transform: Transform = toy_transform()
    check_transform(transform, "ab" * 32, POINT)
    with pytest.raises(NetworkMismatchError):
        check_transform(transform, "cd" * 32, POINT)
    for other in (
        replace(POINT, name="other"),
        replace(POINT, shape=(6, 4, 5)),
        replace(POINT, channel_axis=3),
    ):
        with pytest.raises(ArtifactError, match="expected split point"):
            check_transform(transform, "ab" * 32, other)
