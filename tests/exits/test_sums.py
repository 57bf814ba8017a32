"""Sums that add up, whoever counted what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isplit_plugin.errors import DataError, ExitError
from isplit_plugin.exits import ExitSums
from isplit_plugin.schema import Cut
from isplit_plugin.traffic.aggregates.moments import landmark

CUT = Cut("layer2", "uint8+zstd")
FEATURES = 5
F64 = npt.NDArray[np.float64]


def empty(epoch: int = 0) -> ExitSums:
    return ExitSums.empty("hash", CUT, np.full(FEATURES, -4.0), np.full(FEATURES, 6.0), epoch=epoch)


def assert_equal_sums(one: ExitSums, other: ExitSums) -> None:
    assert one.epoch == other.epoch
    np.testing.assert_array_equal(one.class_ids, other.class_ids)
    np.testing.assert_allclose(one.rows, other.rows, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.products, other.products, rtol=1e-9, atol=1e-9)


photos = st.lists(
    st.tuples(
        hnp.arrays(np.float64, FEATURES, elements=st.floats(-8, 8)),
        st.integers(0, 3),
        st.floats(0, 40),  # arrival in half-lives
        st.integers(0, 2),  # the worker that counts it
    ),
    max_size=30,
)


@given(photos, st.permutations(range(3)))
def test_any_partition_gives_the_same_sums(
    traffic: list[tuple[F64, int, float, int]], order: list[int]
) -> None:
    whole, parts = empty(epoch=40), [empty() for _ in range(3)]
    for z, class_id, at, worker in traffic:
        epoch, weight = landmark(at, 1.0)
        whole.add(z, class_id, np.ldexp(weight, epoch - 40))
        # A worker moves its landmark as time goes on, exactly as the moments of importance do.
        parts[worker] = parts[worker].at_epoch(max(epoch, parts[worker].epoch))
        parts[worker].add(z, class_id, np.ldexp(weight, epoch - parts[worker].epoch))
    merged = empty()
    for number in order:
        merged = merged.merge(ExitSums.from_bytes(parts[number].to_bytes()))
    assert_equal_sums(merged.at_epoch(40), whole)


@given(photos)
def test_many_at_once_are_one_after_the_other(traffic: list[tuple[F64, int, float, int]]) -> None:
    one_by_one, together = empty(), empty()
    for z, class_id, _, worker in traffic:
        one_by_one.add(z, class_id, 1.0 + worker)
    if traffic:
        values, ids, _, workers = zip(*traffic, strict=True)
        together.add(np.stack(values), np.array(ids), 1.0 + np.array(workers))
    assert_equal_sums(one_by_one, together)


def test_within_is_the_scatter_about_the_means_of_the_classes() -> None:
    random = np.random.default_rng(1)
    z, ids = random.normal(size=(200, FEATURES)), random.integers(0, 4, 200)
    z += ids[:, None]
    sums = empty()
    sums.add(z, ids)
    z = np.clip(z, -4, 6)
    scatter = sum(np.cov(z[ids == c].T, bias=True) * np.count_nonzero(ids == c) for c in range(4))
    np.testing.assert_allclose(sums.within(), scatter, atol=1e-9)
    np.testing.assert_allclose(sums.means()[2], z[ids == 2].mean(axis=0))
    np.testing.assert_allclose(sums.without([1]).within(), scatter, atol=1e-9)
    assert list(sums.without([1]).class_ids) == [0, 2, 3]


def test_values_are_clipped_to_the_bounds() -> None:
    bounded, wild = empty(), empty()
    bounded.add(np.full(FEATURES, 6.0), 1)
    wild.add(np.full(FEATURES, 1e30), 1)
    assert_equal_sums(bounded, wild)


@pytest.mark.parametrize(
    ("z", "class_id", "weight"),
    [
        (np.full(FEATURES, np.nan), 1, 1.0),
        (np.full(FEATURES, np.inf), 1, 1.0),
        (np.zeros(FEATURES + 1), 1, 1.0),
        (np.zeros(FEATURES), -1, 1.0),
        (np.zeros(FEATURES), 1.5, 1.0),
        (np.zeros(FEATURES), 1, 0.0),
        (np.zeros(FEATURES), 1, np.inf),
        (np.zeros((2, FEATURES)), np.zeros(3, int), 1.0),
    ],
)
def test_bad_values_are_refused_and_change_nothing(z: F64, class_id: int, weight: float) -> None:
    sums = empty()
    with pytest.raises(DataError, match="expected"):
        sums.add(z, class_id, weight)
    assert_equal_sums(sums, empty())


def test_sums_of_something_else_do_not_merge() -> None:
    wider = ExitSums.empty("hash", CUT, np.full(FEATURES, -5.0), np.full(FEATURES, 6.0))
    other_cut = ExitSums.empty("hash", Cut("layer3", "fp16"), wider.low, wider.high)
    for other in (wider, other_cut):
        with pytest.raises(DataError, match="same network, cut, pooling and bounds"):
            empty().merge(other)


@given(st.binary(max_size=200), st.data())
def test_foreign_bytes_are_refused(noise: bytes, data: st.DataObject) -> None:
    sums = empty()
    sums.add(np.arange(FEATURES), 3)
    raw = sums.to_bytes()
    at = data.draw(st.integers(0, len(raw) - 1))
    flipped = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
    for hostile in (noise, raw[:at], flipped):
        with pytest.raises(ExitError):
            ExitSums.from_bytes(hostile)
