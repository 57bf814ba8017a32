"""Exploration: when another cut is tried, how often, and what it never does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.adaptive import (
    SURE,
    Decision,
    FixedLink,
    LinkFilter,
    Option,
    decide,
    explore,
    worth_a_try,
)
from isplit_plugin.schema import Cut

LINK = FixedLink(4.0, 30.0)
# At 4 Mbit/s and 30 ms: 5 + 30 + 30 + 40 = 105 ms, and 90 + 30 + 10 + 25 = 155 ms.
PHOTO = Option(Cut("input", "jpeg"), 15_000, 5, 40, agreement=0.995)
SPLIT = Option(Cut("layer2", "dct", 3), 5_000, 90, 25, agreement=0.99)
LOCAL = Option(Cut("output", "none"), 0, 300, 0, agreement=1.0)


def tried(*options: Option, draw: float = 0.0, deadline_ms: float | None = None) -> Decision:
    best = decide(options, LINK, deadline_ms=deadline_ms)
    return explore(best, LINK, draw=draw, rate=0.1, deadline_ms=deadline_ms)


def test_a_cut_in_doubt_is_tried_with_the_rate() -> None:
    doubtful = replace(SPLIT, doubt=3.0)  # at best 30 + 65 = 95 ms
    once = tried(PHOTO, doubtful, draw=0.05)
    assert once.cut == SPLIT.cut
    assert once.is_try
    assert once.propensity == pytest.approx(0.1)
    assert once.taken.reason == "tried, because it may be faster than input:jpeg"
    assert {row.cut: row.reason for row in once.options}[PHOTO.cut] == (
        "layer2:dct@3 is tried for once"
    )
    usual = tried(PHOTO, doubtful, draw=0.1)
    assert usual.cut == PHOTO.cut
    assert not usual.is_try
    assert usual.propensity == pytest.approx(0.9)


@pytest.mark.parametrize(
    "rival",
    [
        SPLIT,  # its time is known
        replace(SPLIT, doubt=2.0),  # at best 45 + 65 = 110 ms: no faster
        replace(SPLIT, doubt=3.0, refused="inaccurate"),
        replace(LOCAL, doubt=9.0),  # expected to take more than twice as long
        replace(SPLIT, doubt=3.0, device_ms=math.nan),
    ],
    ids=["known", "slower", "refused", "dear", "unknown"],
)
def test_cuts_that_are_not_worth_a_try(rival: Option) -> None:
    decision = tried(PHOTO, rival)
    assert decision.cut == PHOTO.cut
    assert decision.propensity == 1


def test_a_deadline_that_the_worst_case_misses_forbids_a_try() -> None:
    doubtful = replace(SPLIT, doubt=3.0)  # at worst 270 + 65 = 335 ms
    assert tried(PHOTO, doubtful, deadline_ms=336).is_try
    assert not tried(PHOTO, doubtful, deadline_ms=334).is_try
    local = replace(LOCAL, device_ms=150, doubt=2.0)
    assert tried(PHOTO, local, deadline_ms=301).is_try
    assert not tried(PHOTO, local, deadline_ms=299).is_try


def test_nothing_is_tried_at_the_rate_0() -> None:
    best = decide([PHOTO, replace(SPLIT, doubt=9.0)], LINK)
    assert explore(best, LINK, draw=0.0, rate=0.0) == best


@pytest.mark.parametrize(("draw", "rate"), [(-0.1, 0.1), (1.0, 0.1), (math.nan, 0.1), (0.5, 1.0)])
def test_bad_draws_and_rates(draw: float, rate: float) -> None:
    with pytest.raises(ValueError, match=r"(draw|rate): expected"):
        explore(decide([PHOTO], LINK), LINK, draw=draw, rate=rate)


option_lists = st.lists(
    st.builds(
        Option,
        cut=st.builds(Cut, st.sampled_from(["input", "a", "b", "output"]), st.sampled_from("xy")),
        nbytes=st.floats(0, 1e5),
        device_ms=st.floats(0, 1e3),
        server_ms=st.floats(0, 1e3),
        agreement=st.floats(0, 1),
        refused=st.sampled_from(["", "", "inaccurate"]),
        doubt=st.floats(1, 5),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda option: option.cut,
)
deadlines = st.none() | st.floats(10, 5000)


@given(option_lists, st.floats(0, 1, exclude_max=True), st.floats(0, 0.99), deadlines)
def test_a_try_never_breaks_a_rule(
    options: list[Option], draw: float, rate: float, deadline_ms: float | None
) -> None:
    link = LinkFilter(2.0, 30.0)
    best = decide(options, link, deadline_ms=deadline_ms)
    decision = explore(best, link, draw=draw, rate=rate, deadline_ms=deadline_ms)
    assert decision == explore(best, link, draw=draw, rate=rate, deadline_ms=deadline_ms) or (
        deadline_ms is None  # in_time is NaN then, which equals nothing
    )
    assert 0 < decision.propensity <= 1
    if not decision.is_try:
        assert decision.taken == best.taken or deadline_ms is None
        return
    option = decision.taken.option
    assert not option.refused
    assert option.doubt > 1
    assert decision.taken.expected_ms <= 2 * best.taken.expected_ms
    if deadline_ms is not None:
        worst_ms = option.device_ms * option.doubt
        if option.is_local:
            assert worst_ms <= deadline_ms
        else:
            left = np.array([deadline_ms - worst_ms - option.server_ms])
            assert link.probability_within(np.array([option.nbytes]), left)[0] >= SURE


@given(option_lists, st.floats(0.01, 0.99), deadlines)
def test_propensities_add_up(options: list[Option], rate: float, deadline_ms: float | None) -> None:
    link = LinkFilter(2.0, 30.0)
    best = decide(options, link, deadline_ms=deadline_ms)
    rivals = worth_a_try(best, link, deadline_ms=deadline_ms)
    count = len(rivals)
    draws = [rate * (k + 0.5) / count for k in range(count)] + [(1 + rate) / 2]
    outcomes = [
        explore(best, link, draw=draw, rate=rate, deadline_ms=deadline_ms) for draw in draws
    ]
    assert sum(outcome.propensity for outcome in outcomes) == pytest.approx(1)
    assert len({outcome.cut for outcome in outcomes}) == count + 1
