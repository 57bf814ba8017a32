"""Statements about made-up measurements whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isplit_plugin.evaluation import Measured, Resamples, class_choice, score

POINTS = [f"p{i}" for i in range(6)]
SHAPES = [(8, 4, 4)] * 3 + [(16, 2, 2)] * 3


def measurement(
    accuracy: np.ndarray, *, seeds: int = 3, photos: int = 300, seed: int = 0
) -> Measured:
    """Answers that are right with probability ``accuracy`` (P,) or (classes, P), else another class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(photos) % 3
    chance = np.broadcast_to(accuracy, (3, 6))[labels]
    right = rng.random((seeds, photos, 6)) < chance
    wrong = (labels[:, None] + rng.integers(1, 3, (seeds, photos, 6))) % 3
    return Measured(np.where(right, labels[:, None], wrong), labels)


RISING = np.array([0.2, 0.35, 0.5, 0.65, 0.8, 0.95])


def scored(values: np.ndarray, measured: Measured, name: str = "x"):  # type: ignore[no-untyped-def]
    rows = np.arange(len(values)) % 3 if values.ndim == 2 else np.empty(0, int)
    return score(name, values, rows, Resamples(measured, 200), points=POINTS, groups=SHAPES)


def test_accuracies_are_means_over_seeds_and_photos() -> None:
    measured = measurement(RISING)
    by_hand = [
        np.mean(
            [
                [measured.answers[s, i, 2] == measured.labels[i] for i in range(300)]
                for s in range(3)
            ]
        )
    ]
    assert measured.accuracy()[2] == pytest.approx(by_hand[0])
    assert measured.by_class().shape == (3, 6)
    assert measured.by_class().mean(axis=0) == pytest.approx(measured.accuracy())


def test_a_perfect_predictor() -> None:
    found = scored(RISING, measurement(RISING))
    assert found.spearman == pytest.approx((1, 1, 1))
    assert found.kendall.value == 1
    assert found.within.value == 1
    assert found.pairs == 6
    assert found.regret.value == found.regret_reach.value == 0
    assert found.best_candidate == "p5"
    assert found.by_class.value == pytest.approx(1, abs=0.1)


def test_a_predictor_that_points_the_wrong_way() -> None:
    measured = measurement(RISING)
    found = scored(-RISING, measured)
    assert found.spearman.value == -1
    assert found.best_candidate == "p0"
    accuracy = measured.accuracy()
    assert found.regret.value == pytest.approx(accuracy[5] - accuracy[0])
    reach = [accuracy[:k].max() - accuracy[0] for k in range(2, 7)]
    assert found.regret_reach.value == pytest.approx(np.mean(reach))
    assert found.regret.low < found.regret.value < found.regret.high


def test_depth_is_no_better_than_depth() -> None:
    depth = scored(np.arange(6.0), measurement(RISING), "depth")
    assert math.isnan(depth.partial.value)
    assert math.isnan(depth.versus_depth.value)
    again = scored(np.arange(6.0), measurement(RISING), "again")
    assert again.versus_depth == pytest.approx((0, 0, 0))
    assert math.isnan(again.partial.value)  # depth explains all of it


def test_partial_correlation_finds_what_depth_does_not_explain() -> None:
    zigzag = np.array([0.5, 0.2, 0.7, 0.4, 0.9, 0.6])
    found = scored(zigzag, measurement(zigzag))
    assert found.partial.value > 0.95
    assert found.versus_depth.value > 0.3


def test_intervals_shrink_with_photos_and_cover() -> None:
    noise = np.random.default_rng(1).normal(0, 0.5, (60, 6)) + RISING
    few, many = (scored(noise, measurement(RISING * 0.1 + 0.4, photos=n)) for n in (30, 3000))
    assert (
        few.spearman_here.high - few.spearman_here.low
        > many.spearman_here.high - many.spearman_here.low
    )
    assert many.spearman_here.low > 0.5


def test_resampled_accuracies_have_the_right_mean_and_spread() -> None:
    measured = measurement(RISING, seeds=1, photos=90)
    drawn = Resamples(measured, 4000).accuracy
    assert drawn.mean(axis=0) == pytest.approx(measured.accuracy(), abs=0.01)
    within = measured.by_class() * (1 - measured.by_class()) / 30
    assert drawn.std(axis=0) == pytest.approx(np.sqrt(within.sum(axis=0) / 9), rel=0.1)


def test_choosing_per_class_gains_where_classes_differ() -> None:
    accuracy = np.full((3, 6), 0.5)
    accuracy[0, 1] = accuracy[1, 3] = accuracy[2, 5] = 0.9
    measured = measurement(accuracy, photos=1200)
    values = np.zeros((30, 6)) + accuracy[np.arange(30) % 3]
    found = class_choice(measured, {"oracle": (values, np.arange(30) % 3)}, POINTS, repeats=50)[
        "all points"
    ]
    # One choice for all: 0.9 for a third, 0.5 for the rest.
    assert found["recall"]["value"] == pytest.approx(0.9 - (0.9 + 0.5 + 0.5) / 3, abs=0.04)
    assert found["youden"]["low"] > 0.1
    assert found["differ"]["value"] == pytest.approx(2 / 3, abs=0.05)
    assert found["predictors"]["oracle"]["value"] == pytest.approx(0.8 / 3, abs=0.05)
    assert found["best_by_class"] == {0: "p1", 1: "p3", 2: "p5"}


def test_choosing_per_class_gains_nothing_where_classes_are_alike() -> None:
    found = class_choice(measurement(RISING, photos=1200), {}, POINTS, repeats=50)
    for reach in found.values():
        assert abs(reach["recall"]["value"]) < 0.01
        assert reach["differ"]["value"] < 0.05
    noise = class_choice(measurement(np.full(6, 0.5), photos=1200), {}, POINTS, repeats=50)[
        "all points"
    ]
    assert abs(noise["recall"]["value"]) < 0.02  # luck on one half does not pay on the other
    assert noise["differ"]["value"] > 0.3


def test_a_bottleneck_that_always_says_one_class_is_no_gain_by_youden() -> None:
    measured = measurement(np.full(6, 0.6), photos=600)
    answers = measured.answers.copy()
    answers[:, :, 0] = 0  # always class 0: perfect for class 0, and worth nothing
    found = class_choice(Measured(answers, measured.labels), {}, POINTS, repeats=50)["all points"]
    assert found["recall"]["value"] > 0.1
    assert abs(found["youden"]["value"]) < 0.03
