"""What choosing a split point per class gains, on made-up answers."""

from __future__ import annotations

import numpy as np
import pytest
from toys.answers import POINTS, RISING, answers

from isplit_plugin.evaluation import MeasuredAnswers, class_choice


def test_choosing_per_class_gains_where_classes_differ() -> None:
    accuracy = np.full((3, 6), 0.5)
    accuracy[0, 1] = accuracy[1, 3] = accuracy[2, 5] = 0.9
    labels = np.arange(30) % 3
    oracle = (np.zeros((30, 6)) + accuracy[labels], labels)
    measured = answers(accuracy, photos=1200)
    choice = class_choice(measured, {"oracle": oracle}, POINTS, repeats=50)["all points"]
    # One choice for all classes gives 0.9 for a third of the photos and 0.5 for the rest.
    assert choice["recall_gain"]["value"] == pytest.approx(0.9 - (0.9 + 0.5 + 0.5) / 3, abs=0.04)
    assert choice["youden_gain"]["low"] > 0.1
    assert choice["differing_classes"]["value"] == pytest.approx(2 / 3, abs=0.05)
    assert choice["predictor_recall_gain"]["oracle"]["value"] == pytest.approx(0.8 / 3, abs=0.05)
    assert choice["best_point_by_class"] == {0: "p1", 1: "p3", 2: "p5"}


def test_choosing_per_class_gains_nothing_where_classes_are_alike() -> None:
    choices = class_choice(answers(RISING, photos=1200), {}, POINTS, repeats=50)
    assert set(choices) == {"all points", "first half"}
    for choice in choices.values():
        assert abs(choice["recall_gain"]["value"]) < 0.01
        assert choice["differing_classes"]["value"] < 0.05


def test_luck_on_one_half_of_the_photos_does_not_count() -> None:
    noise = answers(np.full(6, 0.5), photos=1200)
    choice = class_choice(noise, {}, POINTS, repeats=50)["all points"]
    assert abs(choice["recall_gain"]["value"]) < 0.02
    assert choice["differing_classes"]["value"] > 0.3


def test_a_bottleneck_that_always_answers_one_class_gains_nothing_by_youden() -> None:
    measured = answers(np.full(6, 0.6), photos=600)
    one_class = measured.answers.copy()
    one_class[:, :, 0] = 0  # recall 1 for class 0, and 0 for the others
    measured = MeasuredAnswers(one_class, measured.labels)
    choice = class_choice(measured, {}, POINTS, repeats=50)["all points"]
    assert choice["recall_gain"]["value"] > 0.1
    assert abs(choice["youden_gain"]["value"]) < 0.03
