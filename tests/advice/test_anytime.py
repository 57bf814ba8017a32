"""Bounds that hold at all times: 200 runs of 10,000 observations each, looked at after every one of
them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from isplit_plugin.advice.anytime import TIGHTEST, bound_factor, median_ranks

RUNS, SIZE = 200, 10_000
N = np.arange(1, SIZE + 1, dtype=np.float64)


def running(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted running mean, its standard error from the running variance, and the sum of squared
    weights.
    """
    weight, weight2 = np.cumsum(w), np.cumsum(w * w)
    mean = np.cumsum(w * x, axis=1) / weight
    variance = np.maximum(np.cumsum(w * x * x, axis=1) / weight - mean**2, 0)
    n = weight**2 / weight2
    return mean, np.sqrt(variance / np.maximum(n - 1, 1)), weight2


def test_a_mean_is_within_its_bound_at_all_times_and_not_within_an_ordinary_interval() -> None:
    rng = np.random.default_rng(1)
    x = rng.gamma(0.5, 1.0, (RUNS, SIZE)) - rng.gamma(
        0.5, 1.0, (RUNS, SIZE)
    )  # skewed parts, as importance is
    mean, error, weight2 = running(x, np.ones(SIZE))
    enough = N >= 100
    left = (np.abs(mean) > bound_factor(weight2, 0.05) * error)[:, enough].any(axis=1)
    assert left.mean() < 0.05
    ordinary = (np.abs(mean) > 1.96 * error)[:, enough].any(axis=1)
    assert ordinary.mean() > 0.3  # the reason for all this: looked at for ever, 95 % is not 5 %


def test_it_holds_with_forward_decay_over_many_half_lives() -> None:
    rng = np.random.default_rng(2)
    x = rng.gamma(0.5, 1.0, (RUNS, SIZE)) - 0.5
    half_life = 500.0  # observations: 20 half-lives in all
    ages = (N - 1) / half_life
    w = 2.0**ages
    mean, error, weight2 = running(x, w)
    bound = np.array(
        [
            bound_factor(v / top**2, 0.05, half_lives=age)
            for v, top, age in zip(weight2, w, ages, strict=True)
        ]
    )
    enough = N >= 100
    assert (np.abs(mean) > bound * error)[:, enough].any(axis=1).mean() < 0.05
    # With the beginning forgotten, the ordinary interval fails in nearly every run.
    assert (np.abs(mean) > 1.96 * error)[:, enough].any(axis=1).mean() > 0.8


def test_a_difference_is_found_within_a_stated_number_of_observations() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0.2, 1.0, (RUNS, SIZE))  # a fifth of a standard deviation
    mean, error, weight2 = running(x, np.ones(SIZE))
    found = (mean - bound_factor(weight2, 0.05 / 153) * error) > 0
    first = np.argmax(found, axis=1)
    assert found.any(axis=1).all()
    assert np.quantile(first, 0.95) < 1500


def test_the_median_is_between_its_ranks_at_all_times() -> None:
    rng = np.random.default_rng(4)
    below = np.cumsum(rng.random((RUNS, SIZE)) < 0.5, axis=1) / N
    low, high = np.array([median_ranks(n, 0.05) for n in N]).T
    assert ((below < low) | (below > high)).any(axis=1).mean() < 0.05
    ordinary = 0.98 / np.sqrt(N)
    assert (np.abs(below - 0.5) > ordinary)[:, 30:].any(axis=1).mean() > 0.3


def test_the_factor_by_hand() -> None:
    # V = nu: sqrt(2 (log 2 + 2 log(1 / alpha'))), alpha' = 6 / pi^2 alpha in the first half-life.
    spent = 0.05 * 6 / math.pi**2
    assert float(bound_factor(TIGHTEST, 0.05)) == pytest.approx(
        math.sqrt(2 * (math.log(2) + 2 * math.log(1 / spent)))
    )
    second = math.sqrt(2 * (math.log(2) + 2 * math.log(4 / spent)))
    assert float(bound_factor(TIGHTEST, 0.05, half_lives=1.0)) == pytest.approx(second)
    # Half a half-life later, the weights of its beginning have halved twice (they are squared:
    # 4^0.5).
    assert float(bound_factor(TIGHTEST / 2, 0.05, half_lives=1.5)) == pytest.approx(second)
    assert float(bound_factor(0.0, 0.05)) == math.inf


def test_few_times_tell_nothing_about_a_median() -> None:
    assert median_ranks(0) == (0.0, 1.0)
    assert median_ranks(5) == (0.0, 1.0)
    low, high = median_ranks(1000)
    assert 0.4 < low < 0.5 < high < 0.6


def test_how_often_an_ordinary_interval_fails_under_repeated_looks() -> None:
    # The figures of docs/explanation/statistics.md: in 66 % of runs, in 50 % from the 100th look
    # on.
    rng = np.random.default_rng(5)
    ever = late = 0
    for _ in range(1000):
        outside = np.abs(np.cumsum(rng.standard_normal(SIZE))) > 1.96 * np.sqrt(N)
        ever += int(outside.any())
        late += int(outside[99:].any())
    assert 0.62 < ever / 1000 < 0.70
    assert 0.46 < late / 1000 < 0.54
