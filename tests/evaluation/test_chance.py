"""Which accuracies are too close to chance for a ranking."""

from __future__ import annotations

import pytest

from isplit_plugin.evaluation.chance import at_chance, chance_level


def test_chance_is_the_share_of_the_most_frequent_label() -> None:
    assert chance_level([3, 3, 3, 7]) == 0.75
    assert chance_level(range(50)) == 1 / 50


@pytest.mark.parametrize(
    ("accuracy", "chance", "photos", "expected"),
    [
        (0.0019, 0.001, 1_000_000, True),  # at most twice the chance level
        (0.0030, 0.001, 1_000_000, False),
        (0.0030, 0.001, 300, True),  # the interval includes chance
        (0.54, 0.5, 10_000, True),
        (0.60, 0.5, 10_000, False),  # two classes: twice the chance level would be perfect
        (0.60, 0.5, 50, True),
        (1.0, 0.5, 50, False),
    ],
)
def test_at_chance(accuracy: float, chance: float, photos: int, expected: bool) -> None:
    assert at_chance(accuracy, chance, photos) is expected
