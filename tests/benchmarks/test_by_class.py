"""Transforms of a few classes against one of all, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.by_class import Pair, _files, _ratio, _rows
from benchmarks.transform import Measured


def _codes(scale: float, finest: float = 0.001) -> list[Measured]:
    photos = np.ones(4)
    return [
        Measured(str(divergence), scale * nbytes * photos, divergence * photos, photos, 0.0, 0.0)
        for divergence, nbytes in ((0.1, 100.0), (finest, 1_000.0))
    ]


def test_bytes_of_own_transforms_by_those_of_common_ones() -> None:
    pairs: list[Pair] = [(_codes(0.5), _codes(1.0)), (_codes(0.98), _codes(1.0))]
    rows = _rows("net cut", pairs)
    assert [row["value"] for row in rows] == pytest.approx([0.7, 0.7])  # the geometric mean
    assert rows[0]["low"] == pytest.approx(0.5)
    assert rows[0]["high"] == pytest.approx(0.98)
    assert "drawings 0.50, 0.98" in rows[0]["expected"]


def test_a_drawing_whose_codes_do_not_reach_the_divergence_is_left_out() -> None:
    everything = [np.arange(4)] * 2
    unreached = _codes(0.5, finest=0.05), _codes(1.0)
    pairs: list[Pair] = [unreached, (_codes(0.8), _codes(1.0))]
    assert _ratio(pairs, everything, 0.02) == pytest.approx(0.8)
    assert math.isnan(_ratio([unreached], everything[:1], 0.02))


def test_photos_by_class_in_the_same_order_each_time(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.jpg", "b/deep/3.JPEG", "b/4.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = _files(tmp_path)
    assert {name: {path.name for path in own} for name, own in files.items()} == {
        "a": {"1.png", "2.jpg"},
        "b": {"3.JPEG"},
    }
    assert _files(tmp_path) == files
