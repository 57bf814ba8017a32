"""What a stream of photos proves, of classes together and of each by itself."""

from __future__ import annotations

from typing import cast

import numpy as np

from benchmarks.exit_streams import LENGTHS, Said, released_after
from isplit_plugin.exits import NONE, Exit


class TenClasses:
    """As much of an exit as a stream needs."""

    classes = tuple(range(10))


def population(photos: int = 4000) -> Said:
    """A tenth of the photos has no class; of the others none disagrees where the margin is large."""
    random = np.random.default_rng(0)
    class_ids = random.integers(0, 10, photos)
    class_ids[: photos // 10] = NONE
    bins = random.integers(0, 20, photos)
    return Said(class_ids, bins, (bins > 8) | (random.random(photos) < 0.8))


def test_counts_are_those_of_the_photos() -> None:
    said = population()
    counts = said.counts()
    assert set(counts) == set(range(10))
    assert sum(each.answers for each in counts.values()) == 3600
    assert sum(row.number for row in said.rows()) == 3600
    some = said.of(np.array([3999, 3999]))
    assert sum(each.answers for each in some.counts().values()) == 2
    share, wrong = said.answered(dict.fromkeys(range(10), 9))
    assert 0.45 < share < 0.55
    assert wrong == 0
    assert said.lowest_within(0.01) == 9


def test_classes_together_are_released_long_before_each_by_itself() -> None:
    exit_ = cast(Exit, TenClasses())
    firsts = {}
    for together in (True, False):
        first, after = released_after(
            exit_, population(), 0.01, np.random.default_rng(0), together=together
        )
        assert len(after) == len(LENGTHS)
        assert all(lowest == 9 for bins in after for lowest in bins.values())
        firsts[together] = first
    assert 3 * firsts[True] < firsts[False]
