"""Photos: preprocessing, memory bound, unreadable files and balanced samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys.bottleneck import CLASSES, PRE, write_photos

from isplit_plugin import image
from isplit_plugin.bottleneck import Photos
from isplit_plugin.errors import DataError, ImageError
from isplit_plugin.network import calibration_folder
from isplit_plugin.schema import Preprocessing


def test_inputs_equal_the_shared_preprocessing_bit_for_bit(tmp_path: Path) -> None:
    files = calibration_folder(write_photos(tmp_path / "p", 3), CLASSES)
    grey = Preprocessing(crop=(8, 9), resize=12, mode="L", mean=(0.4,), std=(0.3,))
    for preprocessing in (PRE, grey):
        photos = Photos(files, preprocessing, 3)
        expected = np.stack([image.preprocess(path, preprocessing) for path, _ in files])
        assert np.array_equal(photos.inputs(range(len(photos))), expected)


def test_photos_beyond_the_bound_are_decoded_again(tmp_path: Path) -> None:
    files = calibration_folder(write_photos(tmp_path / "p", 2), CLASSES)
    bounded = Photos(files, PRE, 3, max_bytes=2 * 15 * 18 * 3)
    unbounded = Photos(files, PRE, 3)
    assert np.array_equal(bounded.inputs(range(6)), unbounded.inputs(range(6)))
    for path, _ in files:
        path.unlink()
    bounded.inputs([0, 1])  # in memory
    with pytest.raises(ImageError):
        bounded.inputs([5])  # not in memory


def test_unreadable_photos_are_skipped_and_named(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 2)
    (folder / "green" / "broken.png").write_bytes(b"no image")
    photos = Photos(calibration_folder(folder, CLASSES), PRE, 3)
    assert len(photos) == 6
    assert [Path(name).name for name in photos.skipped] == ["broken.png"]
    assert "broken.png" in photos.skipped_names()


def test_no_usable_photo_is_an_error() -> None:
    with pytest.raises(DataError, match="none were given"):
        Photos([], PRE, 3)
    with pytest.raises(DataError, match="2 x image: expected"):
        Photos([(b"x" * 9, 0), (b"x" * 9, 1)], PRE, 3)
    with pytest.raises(DataError, match="expected a class from 0 to 2, got 3"):
        Photos([(np.zeros((15, 18, 3), np.uint8), 3)], PRE, 3)


def test_a_sample_balances_classes_and_is_reproducible() -> None:
    pixels = np.zeros((15, 18, 3), np.uint8)
    photos = Photos([(pixels, label) for label in [0] * 20 + [1] * 5 + [2] * 2], PRE, 3)
    rows = photos.sample(9, seed=3)
    assert np.bincount(photos.labels[rows]).tolist() in ([4, 3, 2], [3, 4, 2])
    assert len(set(rows.tolist())) == 9
    assert np.array_equal(rows, photos.sample(9, seed=3))
    assert not np.array_equal(rows, photos.sample(9, seed=4))
    assert sorted(photos.sample(None).tolist()) == list(range(27))
