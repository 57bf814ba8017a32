"""Audits keep a release honest."""

from __future__ import annotations

import math
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import DataError
from isplit_plugin.exits import EXPOSURE, FALSE_ALARM, LEAST_SHARE, TOLERANCE, Audits, audit_share


@given(st.integers(0, 30), st.integers(0, 5))
def test_a_batch_is_its_audits_one_by_one_evenly_spread(between: int, disagreeing: int) -> None:
    start = Audits().after(1, 0, 1.0).after(0, 1, 1.0)
    batch = start.after(between * (disagreeing + 1), disagreeing, 0.5)
    single = start
    for audit in ([1] * between + [0]) * (disagreeing + 1):
        if single.audited < batch.audited:
            single = single.after(audit, 1 - audit, 0.5)
    assert (single.audited, single.disagreed) == (batch.audited, batch.disagreed)
    np.testing.assert_allclose(single.detector, batch.detector, rtol=1e-9)
    assert math.isclose(single.exits, batch.exits)


def test_a_sudden_drift_is_caught_within_a_few_audits_however_long_all_was_well() -> None:
    random = np.random.default_rng(0)
    before = Audits().after(100_000, 200, 0.02)
    assert not before.withdrawn
    delays = []
    for _ in range(200):
        audits, delay = before, 0
        while not audits.withdrawn:
            miss = random.random() < 0.5
            audits = audits.after(int(not miss), int(miss), 0.02)
            delay += 1
        delays.append(delay)
    assert median(delays) <= 6
    assert max(delays) < 40


def test_what_is_within_the_tolerance_is_rarely_withdrawn() -> None:
    """At the worst allowed chance, once in a thousand audits at most, on average."""
    random = np.random.default_rng(1)
    lengths = []
    for _ in range(40):
        audits, length = Audits(), 0
        while not audits.withdrawn:
            misses = int(random.random() < TOLERANCE)
            audits = audits.after(1 - misses, misses, 1.0)
            length += 1
        lengths.append(length)
    assert np.mean(lengths) >= 1 / FALSE_ALARM


def test_a_tenth_of_the_tolerance_is_practically_never_withdrawn() -> None:
    random = np.random.default_rng(3)
    for _ in range(8):
        audits = Audits()
        for misses in random.random(3000) < TOLERANCE / 10:
            audits = audits.after(int(not misses), int(misses), 1.0)
            assert not audits.withdrawn


def test_exits_are_estimated_from_audits() -> None:
    audits = Audits().after(10, 0, 1.0).after(4, 1, 0.1)
    assert (audits.exits, audits.wrong, audits.audited, audits.disagreed) == (60, 10, 15, 1)
    low, high = audits.interval()
    assert low < 1 / 15 < high


def test_the_share_of_audits_falls_with_exits() -> None:
    shares = [audit_share(10.0**power) for power in range(8)]
    assert shares == sorted(shares, reverse=True)
    assert audit_share(0) == audit_share(EXPOSURE / TOLERANCE) == 1.0
    assert shares[-1] == LEAST_SHARE
    assert audit_share(10_000, 0.02) == audit_share(20_000, 0.01)


def test_bad_values_are_refused() -> None:
    for agreeing, disagreeing, share in ((-1, 0, 1.0), (0, -1, 1.0), (1, 0, 0.0), (1, 0, 1.1)):
        with pytest.raises(DataError, match="audits: expected"):
            Audits().after(agreeing, disagreeing, share)
    for exits in (-1.0, math.nan, math.inf):
        with pytest.raises(DataError, match="exits: expected"):
            audit_share(exits)


def test_many_disagreements_at_once_do_not_overflow() -> None:
    audits = Audits().after(0, 10**9, 1.0).after(10**9, 0, 1.0)
    assert np.isfinite(audits.detector).all()
