"""Which split points are candidates, and how photos are divided."""

from __future__ import annotations

import numpy as np
import pytest
from toys.bottleneck import PRE, toy_network, toy_photos, toy_pixels

from isplit_plugin.bottleneck import AutoencoderConfig, Photos
from isplit_plugin.errors import DataError, SplitPointError
from isplit_plugin.evaluation import candidates
from isplit_plugin.evaluation.selection import divide_photos


def test_candidates_are_block_outputs_where_the_autoencoder_fits() -> None:
    points, left_out = candidates(toy_network(), AutoencoderConfig())
    assert [point.name for point in points] == ["0", "1", "2"]
    assert set(left_out) == {"3", "4"}


def test_candidates_by_name_are_in_execution_order_and_must_fit() -> None:
    points, _ = candidates(toy_network(), AutoencoderConfig(), ["1", "0.1"])
    assert [point.name for point in points] == ["0.1", "1"]
    with pytest.raises(SplitPointError, match="'4'"):
        candidates(toy_network(), AutoencoderConfig(), ["0", "4"])


def test_both_parts_have_photos_of_every_class() -> None:
    photos = toy_photos(60)
    calibration, rest = divide_photos(photos, calibration=18)
    assert len(calibration) == 18
    assert len(rest) == 42
    assert not set(calibration) & set(rest)
    assert np.bincount(photos.labels[calibration]).tolist() == [6, 6, 6]
    calibration, rest = divide_photos(photos, calibration=6, test_limit=12)
    assert (len(calibration), len(rest)) == (6, 12)
    calibration, rest = divide_photos(photos, calibration=100)
    assert len(calibration) == len(rest) == 30


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([None] * 12, "0 of 12 are labelled"),
        ([0, 1, 2], "at least 8 labelled photos"),
        ([0] * 12 + [1], "two labelled photos of every class"),
    ],
)
def test_too_few_labelled_photos_are_an_error(labels: list[int | None], message: str) -> None:
    rng = np.random.default_rng(0)
    photos = Photos([(toy_pixels(label or 0, rng), label) for label in labels], PRE, 3)
    with pytest.raises(DataError, match=message):
        divide_photos(photos, calibration=18)
