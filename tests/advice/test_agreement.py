"""Measured agreement by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import advice as toys

from isplit_plugin.advice.agreement import (
    Agreement,
    measured_agreement,
    prior_strength,
    stratified,
)
from isplit_plugin.advice.intervals import wilson
from isplit_plugin.advice.mix import Mix


def mix(*weights: float, ids: tuple[int, ...] | None = None) -> Mix:
    w = np.asarray(weights, float)
    return Mix("asked", np.asarray(ids or range(len(w)), np.int64), w / w.sum())


IDS = np.asarray([0, 1, 2], np.int64)


def test_one_class_is_its_share_with_its_wilson_interval() -> None:
    found = measured_agreement(
        toys.measure("b", "uint8", 1, (100, 99, 80), (100, 100, 100)), IDS, mix(1.0, ids=(2,))
    )
    assert found.share == pytest.approx(0.8)
    assert (found.low, found.high) == pytest.approx(wilson(0.8, 100))
    assert (found.count, found.source) == (pytest.approx(100), "profile")


def test_the_profiles_mix_is_the_plain_share_of_all_images() -> None:
    found = measured_agreement(
        toys.measure("b", "uint8", 1, (10, 45, 30), (10, 50, 40)), IDS, mix(10, 50, 40)
    )
    assert found.share == pytest.approx(85 / 100)
    assert found.count == pytest.approx(100)
    assert (found.low, found.high) == pytest.approx(wilson(0.85, 100))
    assert found.estimate == pytest.approx(found.share)


def test_weights_change_share_and_effective_count() -> None:
    # 0.9 * 0.5 + 0.1 * 1 = 0.55; n = 1 / (0.81/10 + 0.01/90) = 12.33.
    found = measured_agreement(
        toys.measure("b", "uint8", 1, (5, 90, 0), (10, 90, 0)), IDS, mix(0.9, 0.1)
    )
    assert found.share == pytest.approx(0.55)
    assert found.count == pytest.approx(1 / (0.081 + 0.01 / 90))


def test_counts_that_decayed_to_almost_nothing_weigh_nothing() -> None:
    share = stratified(np.array([0.5, 0.5]), np.array([1.0, 2e-313]), np.array([1.0, 0.0]))
    assert share == (0.5, 0.0, 1.0)


def test_full_agreement_is_exactly_one_for_any_mix() -> None:
    for weights in ((1, 1, 1), (0.1, 0.2, 0.7), (1e-9, 1, 3)):
        found = measured_agreement(
            toys.measure("d", "fp32", 1, (7, 13, 29), (7, 13, 29)), IDS, mix(*weights)
        )
        assert (found.share, found.high, found.estimate) == (1.0, 1.0, 1.0)
        assert found.within(0.0)


def test_class_without_images_borrows_the_share_and_leaves_the_interval_open() -> None:
    measurement = toys.measure("b", "uint8", 1, (60, 90, 0), (100, 100, 0))
    found = measured_agreement(measurement, IDS, mix(1.0, ids=(2,)))
    assert (found.share, found.low, found.high, found.count) == (0.75, 0.0, 1.0, 0.0)
    assert found.source == "profile (other classes)"
    half = measured_agreement(measurement, IDS, mix(1, 1, ids=(1, 2)))
    low, high = wilson(0.9, 100)
    assert half.share == pytest.approx(0.5 * 0.9 + 0.5 * 0.75)
    assert (half.low, half.high) == pytest.approx((0.5 * low, 0.5 * high + 0.5))
    assert half.source == "profile (partly other classes)"


def test_one_lucky_image_does_not_make_a_bad_codec_accurate() -> None:
    measurement = toys.measure("b", "uint2", 1, (1, 60, 60), (1, 100, 100))
    found = measured_agreement(measurement, IDS, mix(1.0, ids=(0,)))
    assert found.share == 1.0
    assert found.estimate is not None
    assert found.estimate < 0.7
    assert not found.within(0.2)


def test_nothing_seen_is_not_measured() -> None:
    found = measured_agreement(
        toys.measure("b", "uint8", 1, (0, 0, 0), (0, 0, 0)), IDS, mix(1, 1, 1)
    )
    assert found == Agreement()
    assert not found.within(1.0)


def test_prior_strength_by_hand() -> None:
    # Two classes of 10, shares 1 and 0.5: MSB = 2 * 10 * 0.0625 = 1.25, MSW = 2.5/18, n0 = (20 -
    # 200/20)/1 = 10,
    # rho = (1.25 - 0.1389)/(1.25 + 9 * 0.1389) = 0.4444, (1 - rho)/rho = 1.25.
    assert prior_strength(np.asarray([10.0, 10.0]), np.asarray([10.0, 5.0])) == pytest.approx(1.25)
    assert (
        prior_strength(np.asarray([10.0, 10.0]), np.asarray([8.0, 8.0])) == 10.0
    )  # classes do not differ
    assert prior_strength(np.asarray([50.0]), np.asarray([8.0])) == 10.0
    assert prior_strength(np.asarray([1.0, 1.0]), np.asarray([1.0, 0.0])) == 10.0


def test_stratified_of_nothing() -> None:
    found = stratified(np.asarray([1.0]), np.zeros(1), np.zeros(1))
    assert math.isnan(found.value)
    assert (found.n, found.weight) == (0.0, 0.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=6
    )
)
def test_any_counts_give_a_share_within_its_interval(rows: list[tuple[int, int, float]]) -> None:
    images = [a + b for a, b, _ in rows]
    weights = [w + 1e-6 for _, _, w in rows]
    measurement = toys.measure("b", "x", 1, [a for a, _, _ in rows], images)
    found = measured_agreement(measurement, np.arange(len(rows)), mix(*weights))
    if sum(images) == 0:
        assert found.share is None
        return
    assert found.share is not None
    assert found.low is not None
    assert found.high is not None
    assert found.estimate is not None
    assert -1e-12 <= found.low <= found.share + 1e-9 <= found.high + 2e-9 <= 1 + 3e-9
    assert 0 <= found.estimate <= 1 + 1e-12
    assert found.count <= sum(images) + 1e-6
