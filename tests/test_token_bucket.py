"""A bucket's level over time, against the arithmetic by hand."""

from __future__ import annotations

import math

from isplit_plugin.token_bucket import TokenBucket


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_starts_full_and_refills_up_to_its_capacity() -> None:
    clock = _Clock()
    bucket = TokenBucket(rate=0.5, capacity=10.0, clock=clock)
    assert bucket.level() == 10.0
    bucket.take(4.0)
    clock.now += 3.0
    assert bucket.level() == 7.5
    clock.now += 1000.0
    assert bucket.level() == 10.0


def test_a_bucket_runs_into_debt_and_says_how_long_it_lasts() -> None:
    clock = _Clock()
    bucket = TokenBucket(rate=0.5, capacity=10.0, clock=clock)
    bucket.take(12.0)
    assert bucket.level() == -2.0
    assert bucket.seconds_until(0.0) == 4.0
    clock.now += 4.0
    assert bucket.level() == 0.0
    assert bucket.seconds_until(0.0) == 0.0
    assert bucket.seconds_until(1.0) == 2.0


def test_a_bucket_without_a_rate_never_refills() -> None:
    clock = _Clock()
    bucket = TokenBucket(rate=0.0, capacity=1.0, clock=clock)
    bucket.take(1.0)
    clock.now += 1e9
    assert bucket.level() == 0.0
    assert bucket.seconds_until(1.0) == math.inf
