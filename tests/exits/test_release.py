"""A class is released only where its disagreement is proven below the tolerance."""

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
    ShadowCounts,
    margin_shares,
    missing,
    released_bin,
    version_alpha,
)


def counts(agreeing: dict[int, int], disagreeing: dict[int, int] | None = None) -> ShadowCounts:
    return ShadowCounts.from_lists(
        [agreeing.get(index, 0) for index in range(BINS)],
        [(disagreeing or {}).get(index, 0) for index in range(BINS)],
    )


def test_a_class_that_never_disagrees_is_released_from_its_lowest_bin() -> None:
    assert released_bin(ShadowCounts.none()) is None
    assert released_bin(counts({3: 100, 9: 100})) is None
    assert released_bin(counts({3: 400, 9: 400})) == 0


def test_a_class_is_released_above_the_bins_that_disagree() -> None:
    assert released_bin(counts({2: 400, 9: 500, 15: 500}, {2: 40})) == 3
    # Unsure answers that disagree do not matter, however many there are.
    assert released_bin(counts({15: 900}, {1: 10_000})) == 2


def test_a_stricter_bin_helps_the_looser_ones() -> None:
    """Alone, the answers in bin 2 would not be enough for their own share of alpha."""
    proven = counts({9: 420, 2: 60})
    assert released_bin(proven, alpha=0.2) == 0
    assert missing(proven, alpha=0.2) == 0


def test_missing_says_how_many_agreeing_answers_release_it() -> None:
    needed = missing(ShadowCounts.none())
    assert 300 < needed < 600
    assert released_bin(counts({BINS - 1: needed})) == 0
    assert released_bin(counts({BINS - 1: needed - 1})) is None
    assert missing(counts({BINS - 1: 100})) == needed - 100
    assert missing(counts({0: 100}, {0: 10})) > needed - 100
    assert missing(counts({5: 600})) == 0
    # 2 % takes about half as many.
    assert missing(ShadowCounts.none(), 0.02) < 0.55 * needed


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
    assert (missing(left) == 0) == (released is not None)
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


def test_shares_by_bin() -> None:
    shares = margin_shares(counts({0: 50, 10: 50}))
    assert shares[0] == 1.0
    assert shares[5] == 0.5
    assert shares[11] == 0.0
    assert not margin_shares(ShadowCounts.none()).any()


@pytest.mark.parametrize("agreeing", [[1], [-1] * BINS, [0.5] * BINS, [2**60] * BINS, ["x"] * BINS])
def test_what_are_no_counts_is_refused(agreeing: Any) -> None:
    with pytest.raises(DataError, match="agreeing: expected"):
        ShadowCounts.from_lists(agreeing, [0] * BINS)
    with pytest.raises(DataError, match="bin: expected"):
        ShadowCounts.none().add(BINS, agreed=True)


def test_a_class_at_the_tolerance_is_hardly_ever_released() -> None:
    """400 runs of 3,000 answers with exactly the tolerated chance in every bin, looked at often."""
    random = np.random.default_rng(2)
    ever = 0
    for _ in range(400):
        total = ShadowCounts.none()
        for _ in range(30):
            bins = random.integers(0, BINS, 100)
            miss = random.random(100) < 0.01
            lists = [np.bincount(bins[c], minlength=BINS) for c in (~miss, miss)]
            total = total.merge(ShadowCounts(*lists))
            if released_bin(total) is not None:
                ever += 1
                break
    assert ever <= 0.05 * 400
