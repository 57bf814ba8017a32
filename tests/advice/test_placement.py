"""The two rules of I-SPLIT on curves worked out by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import advice as toys

from isplit_plugin.advice.curves import Curve
from isplit_plugin.advice.placement import (
    candidate_points,
    local_maxima,
    log_cui,
    one_population,
    placement_by_cui,
    ranking,
)

NAN = float("nan")


def curve(
    values: list[float], live: list[float] | None = None, prior: list[float] | None = None
) -> Curve:
    value = np.asarray(values)
    count = np.asarray(live or [0.0] * len(values))
    return Curve(
        value=value,
        standard_error=0.1 * np.abs(value),
        prior=np.asarray(prior) if prior else value,
        live_share=np.where(count > 0, 0.5, 0.0),
        live_n=count,
        live_count=count,
        profile_count=np.full(len(values), 6.0),
    )


def placed(values: list[float], **changes: Any) -> Any:
    live = changes.pop("live", None)
    prior = changes.pop("prior", None)
    options = {"rule": "local-maxima", "candidate_set": "all", **changes}
    return placement_by_cui(
        toys.split_points(toys.NAMES[: len(values)]), curve(values, live, prior), **options
    )


@pytest.mark.parametrize(
    ("values", "maxima"),
    [
        ([1, 4, 2, 6, 5], [1, 3]),
        ([1, 2, 3, 4, 5], []),  # an end point is no interior maximum
        ([5, 4, 3, 4, 5], []),
        ([1, 3, 3, 1, 0], []),  # strict: a plateau has none
        ([0, 1, 0, 0, 0], [1]),  # zero is lower than anything, and equal to zero
        ([0, 0, 0, 0, 0], []),
        ([-1, 0, -2, 1, 0], [3]),  # below zero counts as zero
        ([1, NAN, 0.5, 2, 1], [3]),  # unknown is never higher nor lower
        ([2, 3], []),
        ([], []),
    ],
)
def test_local_maxima(values: list[float], maxima: list[int]) -> None:
    assert np.flatnonzero(local_maxima(np.asarray(values, float))).tolist() == maxima


def test_a_drop_of_six_decades_and_exact_zero_are_no_trouble() -> None:
    assert np.flatnonzero(
        local_maxima(np.asarray([1e-2, 1e-1, 1e-7, 2e-7, 0.0, 0.3]))
    ).tolist() == [1, 3]
    assert log_cui(np.asarray([0.0, -1.0, 100.0])).tolist() == [-np.inf, -np.inf, 2.0]


def test_the_rules_disagree_where_the_last_point_is_highest() -> None:
    values = [1.0, 4.0, 2.0, 3.0, 9.0]
    assert placed(values).best_candidate == "b"
    assert placed(values, rule="global-maximum").best_candidate == "e"


def test_ties_take_fewer_bytes_then_the_earlier_point() -> None:
    # d and e have 400 bytes each, b 2000; e equals b but for rounding.
    assert (
        placed([1.0, 5.0, 2.0, 3.0, 5.0 * (1 + 1e-15)], rule="global-maximum").best_candidate == "e"
    )
    assert placed([1.0, 2.0, 2.0, 5.0, 5.0], rule="global-maximum").best_candidate == "d"
    assert ranking(np.asarray([3.0, 3.0, NAN, 3.0]), [5, 4, 1, 4]) == [1, 3, 0, 2]


def test_candidates_are_ranked_and_every_reason_is_given() -> None:
    placement = placed([1.0, 4.0, 2.0, 6.0, 5.0])
    assert [c.split_point for c in placement.candidates] == ["d", "e", "b", "c", "a"]
    assert [c.split_point for c in placement.candidates if c.is_candidate] == ["d", "b"]
    reasons = {c.split_point: c.reason for c in placement.candidates}
    assert reasons["d"] == "CUI is higher than at both neighbours, c and e"
    assert reasons["c"] == "CUI is not higher than at b and d"
    assert "end of the curve" in reasons["a"]
    assert placement.best_candidate == "d"
    assert "d is the highest local maximum" in placement.reason


def test_blocks_are_the_default_members_and_all_where_there_are_none() -> None:
    blocks = toys.split_points(blocks=[False, True, False, True, True])
    assert candidate_points(blocks, "blocks")[0].tolist() == [1, 3, 4]
    assert candidate_points(blocks, "all")[0].tolist() == [0, 1, 2, 3, 4]
    none = toys.split_points(blocks=[False] * 5)
    index, used = candidate_points(none, "blocks")
    assert (index.tolist(), used) == ([0, 1, 2, 3, 4], "all")
    # Neighbours are those within the set: over b, d, e the point d is the interior one.
    placement = placement_by_cui(
        blocks, curve([1, 4, 2, 6, 5]), rule="local-maxima", candidate_set="blocks"
    )
    assert [c.split_point for c in placement.candidates if c.is_candidate] == ["d"]


def test_the_best_candidate_is_the_highest_that_the_device_can_afford() -> None:
    values = [1.0, 4.0, 2.0, 6.0, 5.0]
    assert placed(values, max_head_macs=399).best_candidate == "b"
    placement = placed(values, max_head_macs=100)
    assert placement.best_candidate == "b"
    assert "exceeds it the least (200 MACs)" in placement.reason


def test_no_candidate_says_so() -> None:
    placement = placed([1.0, 2.0, 3.0])
    assert placement.best_candidate is None
    assert "no point with a strict interior local maximum" in placement.reason
    assert placed([NAN] * 5, rule="global-maximum").best_candidate is None


def test_curves_of_one_population_are_left_alone() -> None:
    values, prior = np.asarray([1.0, 4.0, 2.0]), np.asarray([1.0, 1.0, 1.0])
    assert one_population(values, prior, np.full(3, 7.0)).tolist() == [1.0, 4.0, 2.0]


def test_a_step_between_different_requests_is_read_from_the_profile() -> None:
    # Cut at c: live requests have three times the profile's importance from there on. The profile
    # falls from b to c
    # (4 to 2); next to the live value 6 the profile's 4 would look like a rise, and b like no
    # maximum.
    prior = [1.0, 4.0, 2.0, 6.0, 5.0]
    value = [1.0, 4.0, 6.0, 18.0, 15.0]
    live = [0.0, 0.0, 50.0, 50.0, 50.0]
    out = one_population(np.asarray(value), np.asarray(prior), np.asarray(live))
    assert out == pytest.approx([3.0, 12.0, 6.0, 18.0, 15.0])
    placement = placed(value, live=live, prior=prior)
    assert [c.split_point for c in placement.candidates if c.is_candidate] == ["d", "b"]
    b = next(c for c in placement.candidates if c.split_point == "b")
    assert b.predictor_value == pytest.approx(12.0)
    assert b.standard_error == pytest.approx(1.2)


@pytest.mark.parametrize("bad", [0.0, NAN, -1.0, np.inf])
def test_a_step_that_cannot_be_read_leaves_the_scale(bad: float) -> None:
    values = np.asarray([1.0, 4.0, 2.0])
    out = one_population(values, np.asarray([1.0, bad, 2.0]), np.asarray([0.0, 0.0, 9.0]))
    assert out.tolist() == [1.0, 4.0, 2.0]


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=5), st.floats(1e-3, 1e3))
def test_scaling_a_curve_changes_no_candidate(values: list[float], scale: float) -> None:
    scaled = np.asarray(values) * scale
    if len(set(scaled)) != len(set(values)):
        return  # two values fell together by rounding
    assert local_maxima(np.asarray(values)).tolist() == local_maxima(scaled).tolist()


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=5))
def test_any_curve_is_ranked(values: list[float]) -> None:
    for rule in ("local-maxima", "global-maximum"):
        placement = placed(values, rule=rule)
        assert sorted(c.split_point for c in placement.candidates) == list(
            toys.NAMES[: len(values)]
        )
        known = [c.predictor_value for c in placement.candidates if np.isfinite(c.predictor_value)]
        assert all(b - a <= 1e-8 * abs(b) for a, b in itertools.pairwise(known))
        picked = [c for c in placement.candidates if c.is_candidate]
        assert (placement.best_candidate is None) == (not picked)


def test_the_first_of_equal_points_is_the_best_candidate() -> None:
    points = toys.split_points()
    same = tuple(replace(p, nbytes=100) for p in points)
    placement = placement_by_cui(
        same, curve([5, 5, 5, 5, 5]), rule="global-maximum", candidate_set="all"
    )
    assert placement.best_candidate == "a"
