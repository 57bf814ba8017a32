"""Evidence about a share of disagreements is exact, and holds at all times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from isplit_plugin.errors import DataError
from isplit_plugin.exits import chance_interval, evidence_above, evidence_below, trials_missing

chances = st.floats(0.001, 0.3)


@given(chances, st.floats(1.0, 3.0), st.integers(1, 60))
def test_evidence_below_is_a_supermartingale(p: float, factor: float, trials: int) -> None:
    """Its mean is at most 1 wherever the chance is at least p: exactly, by all outcomes."""
    chance = min(1.0, p * factor)
    mean = sum(
        stats.binom.pmf(misses, trials, chance) * math.exp(evidence_below(trials, misses, p))
        for misses in range(trials + 1)
    )
    assert mean <= 1 + 1e-9


@given(chances, st.floats(0.0, 1.0), st.integers(1, 60))
def test_evidence_above_is_a_supermartingale(p: float, factor: float, trials: int) -> None:
    mean = sum(
        stats.binom.pmf(misses, trials, p * factor) * math.exp(evidence_above(trials, misses, p))
        for misses in range(trials + 1)
    )
    assert mean <= 1 + 1e-9


def test_looking_after_every_answer_does_not_break_it() -> None:
    """3,000 runs at the worst chance, each looked at 2,000 times: at most 5 % ever proven."""
    random = np.random.default_rng(0)
    misses = (random.random((3000, 2000)) < 0.01).cumsum(axis=1)
    # Evidence falls with misses: for each number of trials there is a largest number that proves.
    proving = [
        sum(evidence_below(trials, m, 0.01) >= math.log(20) for m in range(6))
        if evidence_below(trials, 0, 0.01) >= math.log(20)
        else 0
        for trials in range(1, 2001)
    ]
    ever = (misses < np.array(proving)).any(axis=1).mean()
    assert 0.005 < ever <= 0.05


def test_about_three_hundred_answers_prove_one_percent() -> None:
    needed = trials_missing(0, 0, 0.01, 0.05)
    assert 298 <= needed <= 370  # 298: all on one bet that no answer ever disagrees
    assert evidence_below(needed, 0, 0.01) >= math.log(20)
    assert evidence_below(needed - 1, 0, 0.01) < math.log(20)
    assert trials_missing(needed, 0, 0.01, 0.05) == 0
    assert trials_missing(100, 2, 0.01, 0.05) > needed


@given(st.integers(0, 3000), st.data())
def test_missing_trials_are_enough_and_no_fewer(trials: int, data: st.DataObject) -> None:
    misses = data.draw(st.integers(0, min(trials, 40)))
    more = trials_missing(trials, misses, 0.02, 0.05)
    assert evidence_below(trials + more, misses, 0.02) >= math.log(20)
    if more:
        assert evidence_below(trials + more - 1, misses, 0.02) < math.log(20)


@given(st.integers(0, 5000), st.data())
def test_the_interval_holds_the_share(trials: int, data: st.DataObject) -> None:
    misses = data.draw(st.integers(0, trials))
    low, high = chance_interval(trials, misses, 0.05)
    assert 0 <= low < high <= 1
    if trials:
        assert low <= misses / trials <= high


def test_intervals_shrink_and_cover() -> None:
    assert chance_interval(0, 0, 0.05) == (0.0, 1.0)
    widths = [np.diff(chance_interval(n, n // 100, 0.05))[0] for n in (100, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)
    random = np.random.default_rng(1)
    inside = [
        low <= 0.02 <= high
        for low, high in (
            chance_interval(500, int(random.binomial(500, 0.02)), 0.05) for _ in range(300)
        )
    ]
    assert np.mean(inside) >= 0.95


@pytest.mark.parametrize(
    ("trials", "misses", "p"),
    [(1, 2, 0.1), (1, -1, 0.1), (math.nan, 0, 0.1), (math.inf, 0, 0.1), (1, 0, 0.0), (1, 0, 1.0)],
)
def test_what_are_no_counts_is_refused(trials: float, misses: float, p: float) -> None:
    for evidence in (evidence_below, evidence_above):
        with pytest.raises(DataError, match="expected"):
            evidence(trials, misses, p)


def test_huge_counts_do_not_overflow() -> None:
    assert evidence_below(2**53, 0, 0.01) > 1e12
    assert evidence_below(2**53, 2**53, 0.01) < -1e12
    assert evidence_above(2**53, 2**53, 0.01) > 1e12
