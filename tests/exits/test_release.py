"""Classes are released only where together they are proven to disagree less than tolerated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import DataError
from isplit_plugin.exits import (
    ALPHA,
    BINS,
    LEAST_ANSWERS,
    STARTS,
    ShadowCounts,
    may_be_released,
    missing,
    proven_groups,
    version_alpha,
)


def counts(agreeing: dict[int, int], disagreeing: dict[int, int] | None = None) -> ShadowCounts:
    return ShadowCounts.from_lists(
        [agreeing.get(index, 0) for index in range(BINS)],
        [(disagreeing or {}).get(index, 0) for index in range(BINS)],
    )


def released_bin(*classes: ShadowCounts, alpha: float = ALPHA) -> int | None:
    """The bin of the proven group of all classes."""
    groups = proven_groups(dict(enumerate(classes)), alpha=alpha)
    return next((g.bin for g in groups if len(g.class_ids) == len(classes)), None)


def test_a_class_that_never_disagrees_is_released_from_its_lowest_bin() -> None:
    assert released_bin(ShadowCounts.none()) is None
    assert released_bin(counts({3: 100, 9: 100})) is None
    assert released_bin(counts({3: 300, 9: 500})) == 0


def test_a_class_is_released_above_the_bins_that_disagree() -> None:
    assert released_bin(counts({2: 400, 9: 500, 15: 500}, {2: 40})) == 3
    # Unsure answers that disagree do not matter, however many there are.
    assert released_bin(counts({15: 900}, {1: 10_000})) == 2


def test_a_stricter_bin_helps_the_looser_ones() -> None:
    """Alone, the answers in bin 2 would not be enough for a part of alpha of their own."""
    assert 2 not in STARTS
    assert released_bin(counts({9: 420, 2: 60}), alpha=0.2) == 0
    assert released_bin(counts({2: 420}), alpha=0.2) is None


def test_many_classes_are_proven_with_the_answers_of_one() -> None:
    """Twenty classes take no more answers than one, where each alone would need as many."""
    one = missing({0: ShadowCounts.none()})
    each = counts({15: -(-one // 20)})
    many = dict.fromkeys(range(20), each)
    (group,) = proven_groups(many)
    assert group.class_ids == set(range(20))
    assert not any(proven_groups({0: each}) for each in many.values())


def test_a_class_that_disagrees_too_often_is_left_out_of_the_group() -> None:
    good = {c: counts({12: 300}) for c in range(5)}
    bad = counts({12: 300}, {12: 30})
    assert proven_groups({**good, 5: bad, 6: bad})[0].class_ids == set(range(5))
    assert proven_groups(good)[0].class_ids == set(range(5))
    # To choose which classes are left out costs answers.
    few = {c: counts({12: 120}) for c in range(5)}
    assert proven_groups(few)
    assert not proven_groups({**few, 5: bad, 6: bad})
    assert 0 < missing({**few, 5: bad, 6: bad}) < 600


def test_no_group_without_a_class() -> None:
    with pytest.raises(DataError, match="expected those of one class"):
        proven_groups({})


def test_thousands_of_classes_have_groups() -> None:
    some = {c: counts({12: 9}, {12: 1}) for c in range(1500)}
    assert proven_groups(some) == ()
    assert missing(some) > 10_000


def test_a_class_of_a_proven_group_needs_answers_of_its_own() -> None:
    assert not may_be_released(counts({12: LEAST_ANSWERS - 1}), 9)
    assert may_be_released(counts({12: LEAST_ANSWERS}), 9)
    assert not may_be_released(counts({5: LEAST_ANSWERS}), 9)
    assert may_be_released(counts({12: 400}, {12: 8}), 9)
    assert not may_be_released(counts({12: 400}, {12: 12}), 9)


def test_missing_says_how_many_agreeing_answers_release_it() -> None:
    needed = missing({0: ShadowCounts.none()})
    assert 300 < needed < 600
    assert released_bin(counts({BINS - 1: needed})) == 0
    assert released_bin(counts({BINS - 1: needed - 1})) is None
    assert missing({0: counts({BINS - 1: 100})}) == needed - 100
    assert missing({0: counts({0: 100}, {0: 10})}) > needed - 100
    assert missing({0: counts({5: 700})}) == 0
    # 2 % takes about half as many.
    assert missing({0: ShadowCounts.none()}, 0.02) < 0.55 * needed


binned = st.lists(st.integers(0, 400), min_size=BINS, max_size=BINS)


@given(binned, binned, binned)
def test_counts_add_up_in_any_order(one: Any, two: Any, three: Any) -> None:
    parts = [ShadowCounts.from_lists(a, b) for a, b in ((one, two), (two, three), (three, one))]
    left = parts[0].merge(parts[1]).merge(parts[2])
    right = parts[2].merge(parts[0]).merge(parts[1])
    np.testing.assert_array_equal(left.trials(), right.trials())
    np.testing.assert_array_equal(left.misses(), right.misses())
    assert left.answers == left.trials()[0]
    released = released_bin(left)
    assert (missing({0: left}) == 0) == (released is not None)
    if released is not None:  # more agreeing answers never take a release back
        more = left.add(BINS - 1, agreed=True, times=500)
        lowest = released_bin(more)
        assert lowest is not None
        assert lowest <= released


def test_versions_share_alpha() -> None:
    shares = [version_alpha(number) for number in range(1, 4000)]
    assert shares == sorted(shares, reverse=True)
    assert 0.99 * ALPHA < sum(shares) < ALPHA
    with pytest.raises(DataError, match="expected 1 or more"):
        version_alpha(0)


@pytest.mark.parametrize("agreeing", [[1], [-1] * BINS, [0.5] * BINS, [2**60] * BINS, ["x"] * BINS])
def test_what_are_no_counts_is_refused(agreeing: Any) -> None:
    with pytest.raises(DataError, match="agreeing: expected"):
        ShadowCounts.from_lists(agreeing, [0] * BINS)
    with pytest.raises(DataError, match="bin: expected"):
        ShadowCounts.none().add(BINS, agreed=True)


@pytest.mark.parametrize("classes", [1, 8])
def test_classes_at_the_tolerance_are_hardly_ever_released(classes: int) -> None:
    """400 runs of 3,000 answers with exactly the tolerated chance in every bin, looked at often.

    No group of them disagrees less, however it is chosen.
    """
    random = np.random.default_rng(2)
    ever = 0
    for _ in range(400):
        lists = np.zeros((classes, 2, BINS), np.int64)
        for _ in range(30):
            miss = (random.random(100) < 0.01).astype(int)
            where = random.integers(0, classes, 100), miss, random.integers(0, BINS, 100)
            np.add.at(lists, where, 1)
            total = {c: ShadowCounts(*both) for c, both in enumerate(lists)}
            if proven_groups(total):
                ever += 1
                break
    assert ever <= 0.05 * 400
