"""Merged equals whole, against numpy and river."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import stats

from isplit_plugin.errors import StoreError
from isplit_plugin.traffic.aggregates.moments import (
    Moments,
    first_known,
    landmark,
    rescale,
    rescale_rows,
)

HALF_LIFE = 3600.0
T0 = 1_700_000_000.0
POINTS = 3

values = st.floats(-1e3, 1e3, allow_nan=False)
curves = st.lists(st.tuples(values, values, values), min_size=1, max_size=25)
ages = st.lists(st.floats(0, 30 * HALF_LIFE), min_size=25, max_size=25)


def merged(parts: list[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def weights(at: np.ndarray, epoch: int) -> np.ndarray:
    return 2.0 ** (at / HALF_LIFE - epoch)


@given(curves, ages, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_partition_in_any_order_is_the_whole(
    drawn: list[tuple[float, ...]], age: list[float], random: Random
) -> None:
    x = np.array(drawn)
    at = T0 + np.array(age[: len(x)])
    parts = [Moments.of(row, t, HALF_LIFE) for row, t in zip(x, at, strict=True)]
    random.shuffle(parts)
    cuts = sorted({0, len(parts), *(random.randrange(len(parts) + 1) for _ in range(3))})
    whole = merged([merged(parts[a:b]) for a, b in pairwise(cuts)])

    epoch = max(landmark(t, HALF_LIFE)[0] for t in at)
    w = weights(at, epoch)
    assert whole.epoch == epoch
    assert whole.count == len(x)
    assert whole.weight == pytest.approx(w.sum(), rel=1e-12)
    assert whole.weight2 == pytest.approx((w**2).sum(), rel=1e-12)
    # Relative to the sum of magnitudes, because terms may cancel.
    assert whole.sum1 == pytest.approx(w @ x, rel=1e-12, abs=1e-12 * (w @ np.abs(x)).max())
    assert whole.sum2 == pytest.approx(w @ x**2, rel=1e-12)


def test_moving_the_landmark_is_exact() -> None:
    moments = Moments.of(np.array([0.1, 0.2, 0.3]), T0, HALF_LIFE)
    there = moments.at_epoch(moments.epoch + 40)
    assert there.weight == moments.weight / 2**40
    assert there.weight2 == moments.weight2 / 2**80
    assert there.count == 1
    assert np.array_equal(there.at_epoch(moments.epoch).vector, moments.vector)


def test_after_h_half_lives_old_traffic_weighs_two_to_the_minus_h() -> None:
    old, new = (Moments.of(np.ones(1), T0 + h * HALF_LIFE, HALF_LIFE) for h in (0, 3))
    assert old.at_epoch(new.epoch).weight / new.weight == pytest.approx(2**-3, rel=1e-12)


def test_centuries_apart_underflows_to_zero_and_never_overflows() -> None:
    ancient, new = Moments.of(np.ones(1), 0.0, 1.0), Moments.of(np.ones(1), 1e10, 1.0)
    both = ancient.merge(new)
    assert both.count == 2
    assert both.weight == new.weight
    assert np.isfinite(both.vector).all()
    assert rescale(1.0, 0, 10**12) == 0.0


@given(curves, st.integers(-(2**40), 2**40))
def test_rows_move_to_any_landmark_without_a_warning(
    drawn: list[tuple[float, ...]], to_epoch: int
) -> None:
    """Warnings are errors here. Rows newer than the landmark overflow where rows are damaged."""
    total = merged([Moments.of(np.array(row), T0, HALF_LIFE) for row in drawn])
    for epoch in (to_epoch, total.epoch - 2000, total.epoch - 600, total.epoch + 2000):
        (moved,) = rescale_rows(total.vector[None], np.array([total.epoch]), epoch)
        assert moved[0] == len(drawn)
        assert moved[1] == rescale(total.weight, total.epoch, epoch)
        assert not np.isnan(moved).any()
    assert rescale(1.0, 5000, 0) == math.inf


def test_against_river_mean_and_variance() -> None:
    """With one landmark and equal weights the sums give river's Mean and Var."""
    x = np.random.default_rng(0).normal(3.0, 2.0, 500)
    mean, var = stats.Mean(), stats.Var(ddof=1)
    for value in x:
        mean.update(value)
        var.update(value)
    mu0 = 2.5
    total = merged([Moments.of(np.array([value - mu0]), T0, HALF_LIFE) for value in x])
    n, w = total.count, total.weight
    shift = total.sum1[0] / w
    assert mu0 + shift == pytest.approx(mean.get(), rel=1e-12)
    assert (total.sum2[0] / w - shift**2) * n / (n - 1) == pytest.approx(var.get(), rel=1e-11)


def test_against_river_exponentially_weighted_mean() -> None:
    """Observations at steps of half-life / k smooth with the fading factor 1 - 2^(-1/k)."""
    k, x = 8, np.random.default_rng(1).normal(size=400)
    ewm = stats.EWMean(fading_factor=1 - 2 ** (-1 / k))
    for value in x:
        ewm.update(value)
    at = T0 + np.arange(len(x)) * HALF_LIFE / k
    total = merged([Moments.of(np.array([v]), t, HALF_LIFE) for v, t in zip(x, at, strict=True)])
    # river starts at the first value and does not divide by the sum of weights: after 50 half-lives
    # the difference is 1e-15.
    assert total.sum1[0] / total.weight == pytest.approx(ewm.get(), rel=1e-10)


def test_weighted_within_class_sum_is_unbiased() -> None:
    """E[within] = dof * covariance also where observations weigh differently."""
    random = np.random.default_rng(3)
    at = T0 + np.linspace(0, 5 * HALF_LIFE, 12)
    ratios = []
    for _ in range(3000):
        x = random.normal(size=(12, 1))
        total = merged([Moments.of(v, t, HALF_LIFE) for v, t in zip(x, at, strict=True)])
        within, dof = (
            total.sum2[0] - total.sum1[0] ** 2 / total.weight,
            total.weight - total.weight2 / total.weight,
        )
        ratios.append(within / dof)
    assert np.mean(ratios) == pytest.approx(1.0, abs=4 * np.std(ratios) / math.sqrt(len(ratios)))


@given(curves, st.tuples(values, values, values))
@settings(max_examples=100, deadline=None)
def test_a_moved_shift_is_as_if_it_had_been_there_from_the_start(
    drawn: list[tuple[float, ...]], move: tuple[float, ...]
) -> None:
    x = np.array(drawn)
    by = np.array(move)
    at_old = merged([Moments.of(row, T0, HALF_LIFE) for row in x])
    at_new = merged([Moments.of(row - by, T0, HALF_LIFE) for row in x])
    scale = np.abs(x).max() + np.abs(by).max() + 1
    assert at_old.shifted(by).sum1 == pytest.approx(at_new.sum1, abs=1e-12 * scale * len(x))
    assert at_old.shifted(by).sum2 == pytest.approx(at_new.sum2, abs=1e-11 * scale**2 * len(x))


@pytest.mark.parametrize(
    ("curve", "start"),
    [
        ([1.0, 2.0], 0),
        ([math.nan, 2.0], 1),
        ([math.nan, math.nan], None),
        ([1.0, math.nan], None),
        ([math.inf, 1.0], None),
        ([math.nan, math.inf], None),
        ([math.nan, 1.0, math.nan, 1.0], None),
    ],
)
def test_a_curve_is_known_from_one_point_on(curve: list[float], start: int | None) -> None:
    assert first_known(np.array(curve)) == start


def test_bytes_of_another_length_are_refused() -> None:
    moments = Moments.of(np.arange(POINTS, dtype=float), T0, HALF_LIFE)
    assert np.array_equal(
        Moments.from_bytes(moments.to_bytes(), moments.epoch, POINTS).vector, moments.vector
    )
    with pytest.raises(StoreError, match="expected 88 bytes"):
        Moments.from_bytes(moments.to_bytes(), 0, 4)
    with pytest.raises(StoreError, match="cannot merge"):
        moments.merge(Moments.zero(4, 0))


def test_rows_with_different_landmarks_are_told_at_one() -> None:
    parts = [Moments.of(np.array([1.0, 2.0]), T0 + h * HALF_LIFE, HALF_LIFE) for h in (0, 2, 5)]
    epochs = np.array([p.epoch for p in parts])
    rows = rescale_rows(np.array([p.vector for p in parts]), epochs, parts[-1].epoch)
    assert np.array_equal(rows, np.array([p.at_epoch(parts[-1].epoch).vector for p in parts]))
