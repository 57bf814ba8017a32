"""Which views and split points the demo measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from toys import advice as toys

from isplit_plugin.advice import most_misses
from isplit_plugin.demo.photos import Photo
from isplit_plugin.demo.preparation import CALIBRATION_VIEWS, calibration_views, narrowing
from isplit_plugin.network import FOLDS, fold_of


def test_no_photo_is_measured_with_a_transform_that_has_seen_it(tmp_path: Path) -> None:
    photos = []
    for class_id in range(5):
        path = tmp_path / f"{class_id}.png"
        Image.fromarray(np.full((8, 8, 3), 40 * class_id, np.uint8)).save(path)
        photos.append(Photo(path, class_id))
    views = calibration_views(photos, 64, seed=0)
    folds: dict[int, set[int]] = {}
    for number, (image, class_id) in enumerate(views):
        folds.setdefault(class_id, set()).add(fold_of(number))
        assert np.asarray(image).ravel()[0] == 40 * class_id
    assert len(views) == 64
    assert sorted(folds) == list(range(5))
    assert all(len(own) == 1 for own in folds.values())
    assert {fold for own in folds.values() for fold in own} == set(range(FOLDS))


def test_the_demo_has_enough_views_to_decide() -> None:
    # With 400 views, the most misses of a faithful cut are 1 % of them: nothing is undecided.
    assert most_misses(CALIBRATION_VIEWS) == CALIBRATION_VIEWS // 100


def test_later_block_outputs_that_are_as_large_are_left_out() -> None:
    points = toys.split_points(blocks=[True, False, True, True, True])
    assert [point.name for point in narrowing(points)] == ["a", "c", "d"]
