"""Intervals against closed-form numbers, and against coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.advice.intervals import Z95, newcombe, wilson


def test_wilson_solves_the_score_equation() -> None:
    # The ends p are where (share - p)^2 = z^2 p (1 - p) / n: independent of how the interval is
    # computed.
    for share, n in ((0.9, 50), (0.5, 10), (0.02, 300), (0.99, 1000)):
        for end in wilson(share, n):
            assert (share - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / n, rel=1e-9)


def test_wilson_of_published_examples() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits / n, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_full_agreement_ends_at_one() -> None:
    low, high = wilson(1.0, 96)
    assert high == 1.0
    assert low == pytest.approx(96 / (96 + Z95**2))


@pytest.mark.parametrize("n", [0.0, -1.0, math.nan])
def test_wilson_of_nothing_is_open(n: float) -> None:
    assert wilson(0.5, n) == (0.0, 1.0)


def test_newcombe_of_published_examples() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10.
    for one, n1, two, n2, low, high in (
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (10, 10, 0, 10, 0.6075, 1.0000),
    ):
        assert newcombe(one / n1, n1, two / n2, n2) == pytest.approx((low, high), abs=5e-5)


@given(st.floats(0, 1), st.floats(0.5, 1e6), st.floats(0, 1), st.floats(0.5, 1e6))
def test_intervals_hold_their_estimate(p1: float, n1: float, p2: float, n2: float) -> None:
    low, high = wilson(p1, n1)
    assert 0 <= low <= p1 + 1e-12
    assert p1 - 1e-12 <= high <= 1
    low, high = newcombe(p1, n1, p2, n2)
    assert -1 <= low <= p1 - p2 + 1e-12
    assert p1 - p2 - 1e-12 <= high <= 1


def test_wilson_covers_95_percent() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for truth in rng.uniform(0.8, 0.99, 3000):
        low, high = wilson(rng.binomial(60, truth) / 60, 60)
        covered.append(low <= truth <= high)
    assert 0.935 < np.mean(covered) < 0.975
