"""Rank statistics against scipy, and by hand where scipy has no counterpart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from isplit_plugin.evaluation.ranks import (
    average_ranks,
    interval,
    kendall,
    partial_spearman,
    spearman,
    within_groups,
)

# Few distinct values, so that there are ties.
series = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-3, 3), min_size=n, max_size=n) for _ in range(3)])
)


def same(value: float, expected: float) -> bool:
    if math.isnan(expected):
        return math.isnan(value)
    return math.isclose(value, expected, abs_tol=1e-12)


@given(series)
def test_against_scipy(three: tuple[list[int], list[int], list[int]]) -> None:
    a, b, _ = three
    assert average_ranks(a).tolist() == stats.rankdata(a).tolist()
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
        assert math.isnan(kendall(a, b))
        return
    assert same(spearman(a, b), stats.spearmanr(a, b).statistic)
    assert same(kendall(a, b), stats.kendalltau(a, b).statistic)


@given(series)
def test_partial_spearman_is_the_textbook_formula(
    three: tuple[list[int], list[int], list[int]],
) -> None:
    a, b, c = three
    if len(a) < 4 or any(len(set(s)) == 1 for s in three):
        return
    ab, ac, bc = (stats.spearmanr(*p).statistic for p in ((a, b), (a, c), (b, c)))
    if max(abs(ac), abs(bc)) > 1 - 1e-6:
        assert math.isnan(partial_spearman(a, b, c))  # one of them leaves no residuals
        return
    expected = (ab - ac * bc) / math.sqrt((1 - ac**2) * (1 - bc**2))
    assert partial_spearman(a, b, c) == pytest.approx(expected, abs=1e-9)


def test_partial_spearman_of_short_and_of_constant_series() -> None:
    assert math.isnan(partial_spearman([1, 2, 3], [3, 1, 2], [2, 1, 3]))
    assert partial_spearman([1, 2, 3, 4], [1, 2, 4, 3], [7, 7, 7, 7]) == pytest.approx(0.8)


def test_within_groups_by_hand() -> None:
    # Group x has the concordant pairs (1, 2) and (1, 3) and the discordant pair (2, 3),
    # group y has one tie, and group z has no pair.
    value = [1, 2, 3, 5, 6, 9]
    accuracy = [1, 3, 2, 4, 4, 0]
    concordance, pairs = within_groups(value, accuracy, ["x", "x", "x", "y", "y", "z"])
    assert concordance == pytest.approx(1 / 3)
    assert pairs == 3
    assert within_groups(value, accuracy, list("abcdef"))[1] == 0
    everything = within_groups(value, [1, 2, 3, 4, 5, 6], ["x"] * 6)
    assert everything == (1.0, 15)


def test_interval() -> None:
    drawn = np.linspace(0, 1, 1001)
    estimate = interval(0.5, drawn)
    assert estimate == pytest.approx((0.5, 0.025, 0.975))
    mostly_nan = np.where(drawn < 0.6, np.nan, drawn)
    assert math.isnan(interval(0.5, mostly_nan).low)
    assert math.isnan(interval(math.nan, drawn).low)
