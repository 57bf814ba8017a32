"""What a soak concludes from its samples, and the clocks that it shifts."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak.clock import Clocks
from benchmarks.soak.verdict import MAX_SLOPE, Memory, process_figures
from benchmarks.soak.watch import Sample, descriptors_grow, slope

MB = 2**20


def _samples(
    seconds: int, *, mb_per_hour: float, noise_mb: float = 0.0, step_mb: float = 0.0
) -> list[Sample]:
    """One sample a second. ``step_mb``: memory grows in steps of this size, as allocators do."""
    rng = np.random.default_rng(1)
    samples = []
    for second in range(seconds):
        mb = 200 + mb_per_hour * second / 3600 + noise_mb * float(rng.normal())
        if step_mb:
            mb = math.floor(mb / step_mb) * step_mb
        samples.append(Sample(float(second), int(mb * MB), int(mb * MB), 30))
    return samples


@pytest.mark.parametrize("true", [0.0, 3.0, 60.0, -10.0])
def test_the_trend_is_inside_its_interval(true: float) -> None:
    trend = slope(_samples(600, mb_per_hour=true, noise_mb=0.1))
    assert trend.low < true < trend.high
    assert trend.mb_per_hour == pytest.approx(true, abs=3)


def test_memory_that_stands_still_has_no_trend() -> None:
    assert slope(_samples(300, mb_per_hour=0.0)) == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)


def test_a_leak_is_proven_and_an_hour_shows_that_there_is_none() -> None:
    assert slope(_samples(240, mb_per_hour=60.0, noise_mb=0.05)).low > MAX_SLOPE
    assert slope(_samples(3600, mb_per_hour=0.0, noise_mb=0.5)).high < MAX_SLOPE


def test_memory_is_judged_by_its_interval_and_only_after_ten_minutes() -> None:
    def judged(seconds: int, mb_per_hour: float, noise_mb: float = 0.02) -> Memory:
        samples = _samples(seconds, mb_per_hour=mb_per_hour, noise_mb=noise_mb)
        return process_figures("worker", samples, 0.0).memory

    assert judged(300, 60.0) is Memory.UNDECIDED
    assert judged(720, 60.0) is Memory.GROWS
    assert judged(720, 0.5) is Memory.FLAT
    assert judged(720, 5.0, noise_mb=1.0) is Memory.UNDECIDED


def test_a_step_and_a_moment_with_much_memory_are_no_leak() -> None:
    samples = _samples(720, mb_per_hour=0.0, noise_mb=0.02)
    changed = [
        sample._replace(rss=sample.rss + MB * (number < 60) + 40 * MB * (300 < number < 320))
        for number, sample in enumerate(samples)
    ]
    assert process_figures("worker", changed, 0.0).memory is Memory.FLAT


def test_one_step_in_a_short_time_proves_nothing() -> None:
    """Half a megabyte at once, in four minutes, is no leak of 5 MB an hour yet."""
    samples = _samples(240, mb_per_hour=0.0)
    stepped = [
        sample._replace(rss=sample.rss + (MB // 2) * (number > 120))
        for number, sample in enumerate(samples)
    ]
    trend = slope(stepped)
    assert trend.low < MAX_SLOPE < trend.high


def test_too_few_samples_show_nothing() -> None:
    trend = slope(_samples(10, mb_per_hour=1000.0))
    assert math.isnan(trend.mb_per_hour)
    figures = process_figures("worker", _samples(10, mb_per_hour=1000.0), 0.0)
    assert figures.memory is Memory.UNDECIDED
    assert figures.to_json()["slope"][1:] == [None, None]


def test_the_warm_up_does_not_count() -> None:
    warm_up = [Sample(float(second), (100 + second) * MB, MB, second) for second in range(100)]
    steady = [Sample(100.0 + second, 200 * MB, MB, 40) for second in range(200)]
    figures = process_figures("worker", warm_up + steady, 100.0)
    assert figures.samples == 200
    assert figures.slope == (0.0, 0.0, 0.0)
    assert figures.descriptors == (40, 40)
    assert not figures.descriptors_grow


def test_descriptors_may_come_and_go_but_not_grow() -> None:
    def of(*counts: int) -> list[Sample]:
        return [Sample(float(second), MB, MB, count) for second, count in enumerate(counts)]

    assert not descriptors_grow(of(*[30, 33, 30, 31] * 10))
    assert not descriptors_grow(of(*[30] * 39, 60))  # a moment
    assert descriptors_grow(of(*range(30, 70)))
    assert not descriptors_grow(of(1, 2, 3))


def test_the_clock_of_a_process_is_shifted_and_set_right(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path)
    script = "import time\nwhile input() == 'time': print(time.time(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **clocks.environment()},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for shift in (0.0, 3600.0, -3600.0, 0.0):
            clocks.shift(process.pid, shift)
            process.stdin.write("time\n")
            process.stdin.flush()
            assert float(process.stdout.readline()) - time.time() == pytest.approx(shift, abs=600)
        process.stdin.write("end\n")
