"""The lossless stage: any coefficients come back, in few bytes, and any bytes are survived."""

from __future__ import annotations

import contextlib
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.transforms import integer_tables

from isplit_plugin.errors import WireError
from isplit_plugin.wire.reader import Reader
from isplit_plugin.wire.transform import coefficients as stage
from isplit_plugin.wire.transform.rans import Tables

TABLES = Tables(integer_tables())
MAX = stage.MAX_MAGNITUDE


def coded(values: np.ndarray, rows: np.ndarray) -> bytes:
    return stage.encode(values.astype(np.int32), rows, TABLES)


def decoded(data: bytes, rows: np.ndarray) -> np.ndarray:
    reader = Reader(data, "test")
    values = stage.decode(reader, rows, TABLES)
    reader.finish()
    return values


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(-9, 9), st.integers(-MAX, MAX), st.sampled_from([MAX, -MAX])),
            st.integers(0, 39),
        ),
        max_size=300,
    )
)
def test_any_coefficients_come_back(pairs: list[tuple[int, int]]) -> None:
    values = np.array([value for value, _ in pairs], np.int64)
    rows = np.array([row for _, row in pairs], np.intp)
    data = coded(values, rows)
    assert (decoded(data, rows) == values).all()
    assert len(data) <= stage.max_size(len(values))


def test_every_magnitude_around_a_power_of_two_comes_back() -> None:
    values = np.unique(
        [sign * (2**power + by) for power in range(18) for by in (-1, 0, 1) for sign in (-1, 1)]
    )
    values = values[np.abs(values) <= MAX]
    rows = np.zeros(len(values), np.intp)
    assert (decoded(coded(values, rows), rows) == values).all()


def test_a_magnitude_that_is_too_large_is_refused() -> None:
    with pytest.raises(WireError, match="at most 262143"):
        coded(np.array([MAX + 1]), np.zeros(1, np.intp))


@pytest.mark.parametrize("scale", [0.2, 0.7, 3, 40])
def test_the_code_is_within_8_per_cent_and_32_bytes_of_the_ideal(scale: float) -> None:
    rng = np.random.default_rng(3)
    for count in (50, 1000, 9000):
        values = np.rint(rng.laplace(0, scale, count)).astype(np.int32)
        rows = np.full(count, min(int(2 * scale), 39), np.intp)
        symbols = stage.symbols_of(np.abs(values).astype(np.int64))
        bits = TABLES.cost[rows * TABLES.alphabet + symbols].sum()
        raw = len(stage._raw_bits(values, np.abs(values).astype(np.int64), symbols))
        ideal = (bits + raw) / 8
        assert len(coded(values, rows)) <= 1.08 * ideal + 32


GOLDEN = {
    # count -> SHA-256: the same on every platform, because all is integer arithmetic
    0: "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119",
    7: "27320a98c3a2fc9fd0b64cbbf5b498b8560f76c407d39061ce5a856441c7932d",
    5000: "e223faf3fcbbcb5b985a02338b652c25009866eb214d3276d8984c100bff567d",
}


def golden_values(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and classes by a linear congruence (Park & Miller 1988)."""
    state, values, rows = 1, [], []
    for _ in range(count):
        state = state * 48271 % 2147483647
        magnitude = (state >> 8) % (1 << (state % 7 if state % 97 else 18))
        values.append(-magnitude if state & 64 else magnitude)
        rows.append(state % 40)
    return np.array(values, np.int32), np.array(rows, np.intp)


@pytest.mark.parametrize("count", GOLDEN)
def test_golden_bytes(count: int) -> None:
    values, rows = golden_values(count)
    data = coded(values, rows)
    assert hashlib.sha256(data).hexdigest() == GOLDEN[count]
    assert (decoded(data, rows) == values).all()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 500))
def test_any_bytes_decode_or_raise_a_wire_error(data: bytes, count: int) -> None:
    try:
        values = decoded(data, np.arange(count, dtype=np.intp) % 40)
    except WireError:
        return
    assert np.abs(values).max(initial=0) <= MAX


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_code_decodes_or_raises_a_wire_error(data: st.DataObject) -> None:
    values, rows = golden_values(300)
    code = bytearray(coded(values, rows))
    cut = data.draw(st.integers(0, len(code)))
    position = data.draw(st.integers(0, len(code) - 1))
    code[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        decoded(bytes(coded(values, rows)[:cut]) if cut < len(code) else b"", rows)
    with contextlib.suppress(WireError):
        assert len(decoded(bytes(code), rows)) == len(values)
