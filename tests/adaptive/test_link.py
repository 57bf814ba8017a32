"""The estimate of the link: what it finds on constant links, after steps, and beside outliers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.adaptive import FixedLink, LinkFilter

SIZES = (4_000.0, 14_000.0)


def feed(
    link: LinkFilter, mbps: float, rtt_ms: float, count: int, *, start_s: float = 0.0, seed: int = 0
) -> float:
    """``count`` requests of two sizes, five a second, with 10 % noise. Returns the end's time."""
    random = np.random.default_rng(seed)
    for number in range(count):
        nbytes = SIZES[number % 2]
        ms = FixedLink(mbps, rtt_ms).expected_ms(np.array([nbytes]))[0]
        link.observe(nbytes, float(ms * np.exp(0.1 * random.standard_normal())), start_s)
        start_s += 0.2
    return start_s


@pytest.mark.parametrize("mbps", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("rtt_ms", [10.0, 40.0])
def test_a_constant_link_is_found(mbps: float, rtt_ms: float) -> None:
    link = LinkFilter()
    feed(link, mbps, rtt_ms, 30)
    estimate = link.estimate()
    assert estimate.bandwidth_known
    assert estimate.bandwidth_mbps == pytest.approx(mbps, rel=0.35)
    nbytes = np.array([3_000.0, 10_000.0, 30_000.0])
    expected = FixedLink(mbps, rtt_ms).expected_ms(nbytes)
    np.testing.assert_allclose(link.expected_ms(nbytes), expected, rtol=0.35)


def test_small_requests_do_not_tell_the_bandwidth() -> None:
    link = LinkFilter()
    for number in range(50):
        link.observe(300, 30.0, number / 10)
    estimate = link.estimate()
    assert not estimate.bandwidth_known
    assert estimate.rtt_ms == pytest.approx(30, rel=0.2)
    assert "bandwidth not known yet" in str(estimate)


@pytest.mark.parametrize(("before", "after"), [(20.0, 0.5), (0.5, 20.0)])
def test_two_requests_reveal_a_step(before: float, after: float) -> None:
    link = LinkFilter()
    end_s = feed(link, before, 20.0, 20)
    nbytes = np.array([14_000.0])
    old, new = (FixedLink(mbps, 20.0).expected_ms(nbytes)[0] for mbps in (before, after))
    feed(link, after, 20.0, 2, start_s=end_s)
    expected = link.expected_ms(nbytes)[0]
    assert abs(math.log(expected / new)) < abs(math.log(expected / old))


def test_one_outlier_moves_little() -> None:
    link = LinkFilter()
    end_s = feed(link, 5.0, 20.0, 20)
    nbytes = np.array([14_000.0])
    before = link.expected_ms(nbytes)[0]
    link.observe(14_000, 3_000.0, end_s)
    feed(link, 5.0, 20.0, 2, start_s=end_s + 1)
    assert link.expected_ms(nbytes)[0] == pytest.approx(before, rel=0.5)


def test_a_request_that_was_given_up_says_that_the_link_is_slow() -> None:
    link = LinkFilter()
    end_s = feed(link, 20.0, 20.0, 20)
    nbytes = np.array([14_000.0])
    before = link.expected_ms(nbytes)[0]
    for number in range(3):
        link.observe_longer(14_000, 2_000.0, end_s + number)
    assert link.expected_ms(nbytes)[0] > 10 * before


def test_without_requests_the_estimate_returns_to_the_prior() -> None:
    link, fresh = LinkFilter(4.0, 50.0), LinkFilter(4.0, 50.0)
    nbytes = np.array([2_000.0, 20_000.0])
    end_s = feed(link, 0.1, 200.0, 20)
    assert link.expected_ms(nbytes)[1] > 3 * fresh.expected_ms(nbytes)[1]
    link.pass_time(end_s + 600)
    np.testing.assert_allclose(link.expected_ms(nbytes), fresh.expected_ms(nbytes), rtol=1e-3)


def test_a_clock_that_goes_back_is_no_time() -> None:
    link = LinkFilter()
    link.observe(14_000, 100.0, 1e6)
    before = link.estimate()
    link.pass_time(-1e9)
    assert link.estimate() == before
    link.observe(14_000, 100.0, -1e9)
    assert link.estimate().observations == 2


@given(st.floats(), st.floats(), st.floats(allow_nan=False))
def test_impossible_observations_leave_a_valid_estimate(
    nbytes: float, ms: float, at_s: float
) -> None:
    link = LinkFilter()
    link.observe(nbytes, ms, at_s)
    link.observe_longer(nbytes, ms, at_s)
    sizes = np.array([0.0, 1e4, 1e9])
    assert np.isfinite(link.expected_ms(sizes)).all()
    within = link.probability_within(sizes, np.array([10.0, 100.0, -1.0]))
    assert ((within >= 0) & (within <= 1)).all()
    assert within[2] == 0


@given(st.floats(1, 1e6), st.floats(1, 1e5), st.floats(1.01, 10))
def test_a_later_limit_and_a_smaller_request_are_likelier(
    nbytes: float, limit_ms: float, factor: float
) -> None:
    link = LinkFilter()
    feed(link, 3.0, 30.0, 6)
    sizes = np.array([nbytes, nbytes, nbytes / factor])
    limits = np.array([limit_ms, limit_ms * factor, limit_ms])
    base, later, smaller = link.probability_within(sizes, limits)
    assert later >= base - 1e-12
    assert smaller >= base - 1e-12


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_prior_needs_positive_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="bandwidth_mbps: expected a positive number"):
        LinkFilter(bandwidth_mbps=value)
    with pytest.raises(ValueError, match="rtt_ms: expected a positive number"):
        LinkFilter(rtt_ms=value)
