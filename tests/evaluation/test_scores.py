"""Scores of predictors, on made-up answers whose true accuracy is known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from toys.answers import POINTS, RISING, answers

from isplit_plugin.evaluation import MeasuredAnswers, Resamples, Score, score_predictor

STAGES = [(8, 4, 4)] * 3 + [(16, 2, 2)] * 3

Array = npt.NDArray[np.float64]


def scored(values: Array, measured: MeasuredAnswers, name: str = "x") -> Score:
    labels = np.arange(len(values)) % 3 if values.ndim == 2 else np.empty(0, int)
    resamples = Resamples(measured, 200)
    return score_predictor(name, values, labels, resamples, points=POINTS, stages=STAGES)


def test_accuracies_are_means_over_seeds_and_photos() -> None:
    measured = answers(RISING)
    correct = [
        measured.answers[seed, photo, 2] == measured.labels[photo]
        for seed in range(3)
        for photo in range(300)
    ]
    assert measured.accuracy()[2] == pytest.approx(np.mean(correct))
    assert measured.accuracy_by_class().shape == (3, 6)
    assert measured.accuracy_by_class().mean(axis=0) == pytest.approx(measured.accuracy())


def test_resampled_accuracies_have_the_right_mean_and_spread() -> None:
    measured = answers(RISING, seeds=1, photos=90)
    accuracy = Resamples(measured, 4000).accuracy
    assert accuracy.mean(axis=0) == pytest.approx(measured.accuracy(), abs=0.01)
    variance = measured.accuracy_by_class() * (1 - measured.accuracy_by_class()) / 30
    assert accuracy.std(axis=0) == pytest.approx(np.sqrt(variance.sum(axis=0) / 9), rel=0.1)


def test_a_perfect_predictor() -> None:
    score = scored(RISING, answers(RISING))
    assert score.spearman == pytest.approx((1, 1, 1))
    assert score.kendall.value == 1
    assert score.within_stage.value == 1
    assert score.within_stage_pairs == 6
    assert score.regret.value == score.regret_in_reach.value == 0
    assert score.first_choice == "p5"
    assert score.spearman_by_class.value == pytest.approx(1, abs=0.1)


def test_a_predictor_that_points_the_wrong_way() -> None:
    measured = answers(RISING)
    score = scored(-RISING, measured)
    assert score.spearman.value == -1
    assert score.first_choice == "p0"
    accuracy = measured.accuracy()
    assert score.regret.value == pytest.approx(accuracy[5] - accuracy[0])
    regrets = [accuracy[:k].max() - accuracy[0] for k in range(2, 7)]
    assert score.regret_in_reach.value == pytest.approx(np.mean(regrets))
    assert score.regret.low < score.regret.value < score.regret.high


def test_depth_is_no_better_than_depth() -> None:
    depth = scored(np.arange(6.0), answers(RISING), "depth")
    assert math.isnan(depth.spearman_given_depth.value)
    assert math.isnan(depth.spearman_minus_depth.value)
    same = scored(np.arange(6.0), answers(RISING), "same as depth")
    assert same.spearman_minus_depth == pytest.approx((0, 0, 0))
    assert math.isnan(same.spearman_given_depth.value)  # depth explains all of it


def test_partial_correlation_is_what_depth_does_not_explain() -> None:
    zigzag = np.array([0.5, 0.2, 0.7, 0.4, 0.9, 0.6])
    score = scored(zigzag, answers(zigzag))
    assert score.spearman_given_depth.value > 0.95
    assert score.spearman_minus_depth.value > 0.3


def test_intervals_shrink_with_photos_and_cover_the_truth() -> None:
    noisy = np.random.default_rng(1).normal(0, 0.5, (60, 6)) + RISING
    few, many = (
        scored(noisy, answers(RISING * 0.1 + 0.4, photos=n)).spearman_fixed_points
        for n in (30, 3000)
    )
    assert few.high - few.low > many.high - many.low
    assert many.low > 0.5
