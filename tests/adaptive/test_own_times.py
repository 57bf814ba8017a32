"""The device's own times: measured where it was, and else worked out from advice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.adaptive import Option, OwnTimes
from isplit_plugin.schema import Cut

EARLY = Cut("layer1", "uint8")
LATE = Cut("layer2", "uint8")
FILE = Cut("input", "file")
# Advised: 10, 40 and 2 ms.
ADVISED = [Option(EARLY, 9, 10, 1), Option(LATE, 5, 40, 1), Option(FILE, 20, 2, 1)]


def measured(cut: Cut, *run_ms: float, prepare_ms: float = 0.0) -> OwnTimes:
    """After a first run, which does not count."""
    times = OwnTimes()
    for ms in (1e6, *run_ms):
        times.add(cut, prepare_ms, ms, 0.0)
    return times


def test_without_a_measurement_advice_is_taken_with_doubt() -> None:
    expected = OwnTimes().expected(ADVISED, 0.0)
    assert {cut: time.ms for cut, time in expected.items()} == {EARLY: 10, LATE: 40, FILE: 2}
    assert {time.doubt for time in expected.values()} == {3.0}


def test_the_first_run_loads_the_head_and_does_not_count() -> None:
    times = OwnTimes()
    times.add(EARLY, 0.0, 500.0, 0.0)
    assert times.measured_ms(EARLY) is None
    times.add(EARLY, 1.0, 30.0, 0.0)
    assert times.measured_ms(EARLY) == 31.0


def test_a_slower_device_is_slower_at_every_cut_but_prepares_once() -> None:
    """Three times slower than advised, and 7 ms of preparation that advice does not know."""
    expected = measured(EARLY, 30.0, 30.0, prepare_ms=7.0).expected(ADVISED, 0.0)
    assert expected[EARLY] == (37.0, 1.0)
    assert expected[LATE] == (7.0 + 120.0, 3.0)  # four times as much work as was seen
    assert expected[FILE] == (6.0, 2.0)  # a file is sent as it is


def test_long_runs_say_more_about_the_device_than_short_ones() -> None:
    """The file takes 40 times as long as advised, which is 78 ms; the head is as fast as advised."""
    times = measured(LATE, 40.0, 40.0)
    times.add(FILE, 0.0, 80.0, 0.0)
    times.add(FILE, 0.0, 80.0, 0.0)
    assert times.expected(ADVISED, 0.0)[EARLY].ms == pytest.approx(10 * 120 / 42)


def test_one_slow_run_moves_little() -> None:
    times = measured(EARLY, 30.0, 31.0, 900.0, 29.0, 30.0)
    assert times.measured_ms(EARLY) == 30.0


def test_old_times_are_in_doubt_again() -> None:
    times = measured(EARLY, 30.0, 30.0)
    assert times.expected(ADVISED, 599.0)[EARLY].doubt == 1.0
    assert times.expected(ADVISED, 600.0)[EARLY].doubt == 1.5


def test_unknown_advice_stays_unknown() -> None:
    unknown = [Option(EARLY, 9, math.nan, 1), Option(LATE, 5, 40, 1)]
    assert math.isnan(OwnTimes().expected(unknown, 0.0)[EARLY].ms)
    assert measured(EARLY, 3.0, 3.0).expected(unknown, 0.0)[EARLY].ms == 3.0


@given(st.floats(), st.floats())
def test_impossible_times_are_ignored(prepare_ms: float, run_ms: float) -> None:
    times = OwnTimes()
    for _ in range(3):
        times.add(EARLY, prepare_ms, run_ms, 0.0)
    ms = times.measured_ms(EARLY)
    assert ms is None or ms >= 0
    assert times.expected(ADVISED, 0.0)[LATE].ms >= 0
