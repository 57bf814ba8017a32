"""Interleaved rANS: exact for all symbols, near the ideal, and safe with any bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.transforms import integer_tables

from isplit_plugin.errors import WireError
from isplit_plugin.wire.reader import Reader
from isplit_plugin.wire.transform import rans
from isplit_plugin.wire.transform.bits import pack_bits, unpack_bits

TABLES = rans.Tables(integer_tables())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 700), st.sampled_from([1, 2, 16, 128, 256]), st.integers(0, 2**32), st.booleans()
)
def test_any_symbols_come_back(count: int, lanes: int, seed: int, rare: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 40, count)
    # Rare symbols cost the most bits, and frequent ones the fewest.
    symbols = rng.integers(20 if rare else 0, 38 if rare else 2, count).astype(np.uint8)
    seeds = rng.integers(0, 2**16, lanes).astype(np.uint32)
    data = rans.encode(TABLES, symbols, rows, seeds)
    reader = Reader(data, "test")
    back, back_seeds = rans.decode(TABLES, reader, rows, lanes)
    reader.finish()
    assert (back == symbols).all()
    assert (back_seeds == seeds).all()


def test_a_lane_costs_about_half_a_byte() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 40, 20_000)
    symbols = TABLES.symbol[(rows << rans.PRECISION) + rng.integers(0, 1 << rans.PRECISION, 20_000)]
    ideal = TABLES.cost[rows * TABLES.alphabet + symbols].sum() / 8
    for lanes in (1, 16, 256):
        size = len(rans.encode(TABLES, symbols, rows, np.zeros(lanes, np.uint32)))
        carried = 2 * lanes  # the seeds
        assert 0 <= size - carried - ideal < 0.8 * lanes + 0.001 * ideal + 2


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400), st.sampled_from([1, 8, 256]))
def test_any_bytes_decode_or_raise_a_wire_error(data: bytes, count: int, lanes: int) -> None:
    rows = np.arange(count) % 40
    try:
        symbols, seeds = rans.decode(TABLES, Reader(data, "test"), rows, lanes)
    except WireError:
        return
    assert len(symbols) == count
    assert len(seeds) == lanes
    assert (seeds < 2**16).all()


@pytest.mark.parametrize(
    "frequencies",
    [
        np.full((1, 4), 2**12 - 1),
        np.array([[2**14, 0]]),
        np.array([[-1, 2**14 + 1]]),
        np.zeros((0, 4)),
        np.full(4, 2**12),
    ],
)
def test_frequencies_that_are_none_are_refused(frequencies: np.ndarray) -> None:
    with pytest.raises(ValueError, match="frequencies"):
        rans.Tables(frequencies.astype(np.int64))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 32), st.integers(0, 2**32 - 1)), max_size=50))
def test_bits_come_back(numbers: list[tuple[int, int]]) -> None:
    widths = np.array([width for width, _ in numbers], np.int64)
    values = np.array([value & ((1 << width) - 1) for width, value in numbers], np.uint64)
    data = pack_bits(values, widths)
    assert len(data) == -(-int(widths.sum()) // 8)
    assert (unpack_bits(data, widths) == values).all()
