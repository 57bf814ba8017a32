"""The error bound, merging, and bytes that are no histograms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isplit_plugin.errors import StoreError
from isplit_plugin.traffic.aggregates.histogram import (
    BUCKETS,
    HIGH_MS,
    LOW_MS,
    RELATIVE_ERROR,
    Histogram,
    pack,
    unpack,
)

times = st.lists(st.floats(LOW_MS, HIGH_MS), min_size=1, max_size=60)


@given(times, st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_a_quantile_is_within_the_stated_error_of_the_observation_of_that_rank(
    drawn: list[float], q: float
) -> None:
    exact = float(np.quantile(drawn, q, method="inverted_cdf"))
    quantile = Histogram.of(drawn).quantile(q)
    assert abs(quantile - exact) <= RELATIVE_ERROR * exact * (1 + 1e-9)


@given(times, times)
@settings(max_examples=100, deadline=None)
def test_merged_is_the_whole(a: list[float], b: list[float]) -> None:
    merged, whole = Histogram.of(a), Histogram.of(a + b)
    merged.update(Histogram.of(b))
    assert merged.counts == whole.counts
    assert merged.mean_ms == pytest.approx(np.mean(a + b), rel=1e-12)
    (again,) = unpack(pack([merged]), 1)
    assert again.counts == merged.counts
    assert again.total_ms == merged.total_ms


def test_what_lies_outside_counts_at_the_ends() -> None:
    histogram = Histogram.of([-5.0, 0.0, 1e-9])
    assert histogram.quantile(1.0) == LOW_MS
    assert Histogram.of([1e12]).quantile(0.5) == pytest.approx(HIGH_MS, rel=RELATIVE_ERROR)
    assert Histogram.of([1e12]).mean_ms == HIGH_MS
    empty = Histogram.of([math.nan, math.inf, -math.inf])
    assert empty.count == 0
    assert math.isnan(empty.mean_ms)
    assert math.isnan(empty.quantile(0.5))
    assert max(Histogram.of([HIGH_MS, 1e300]).counts) < BUCKETS


def test_used_buckets_alone_take_room() -> None:
    assert len(pack([Histogram.of([1.0, 2.0, 2.0])])) == 12 + 2 * 10


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_anything_but_decode_or_raise_a_store_error(raw: bytes) -> None:
    try:
        histograms = unpack(raw, 2)
    except StoreError:
        return
    assert len(histograms) == 2


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b"\xff" * len(raw)]
)
def test_damaged_bytes_are_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(StoreError, match="time histograms: expected 1 of them"):
        unpack(damage(pack([Histogram.of([1.0])])), 1)
