"""Run-length blocks: exact both ways, small where there are zeros, strict and bounded where they lie."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import WireError
from isplit_plugin.wire import runlength


@st.composite
def blocks(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    """Symbols with runs of zeros of all lengths."""
    bits = draw(st.integers(1, 8))
    parts: list[int] = []
    for _ in range(draw(st.integers(0, 12))):
        parts += [0] * draw(st.one_of(st.integers(0, 3), st.integers(0, 3000)))
        parts += draw(st.lists(st.integers(0, 2**bits - 1), max_size=4))
    return bits, np.array(parts, np.uint8)


@given(blocks(), st.binary(max_size=3))
def test_symbols_come_back_and_the_block_knows_its_end(
    block: tuple[int, np.ndarray], behind: bytes
) -> None:
    bits, symbols = block
    data = runlength.encode(symbols, bits)
    assert len(data) <= runlength.max_size(len(symbols), bits)
    back, used = runlength.decode(memoryview(data + behind), len(symbols), bits)
    assert used == len(data)
    assert back.tolist() == symbols.tolist()


def by_hand(symbols: np.ndarray, k: int) -> tuple[str, list[int]]:
    """Quotient bits as a string and remainders, one symbol at a time."""
    bits, remainders, run = "", [], 0
    for symbol in symbols:
        if symbol:
            bits += "0" * (run >> k) + "1"
            remainders.append(run & ((1 << k) - 1))
            run = 0
        else:
            run += 1
    return bits, remainders


@given(blocks())
def test_the_layout_is_the_documented_one(block: tuple[int, np.ndarray]) -> None:
    bits, symbols = block
    data = runlength.encode(symbols, bits)
    k, nonzero, quotient_bytes = struct.unpack_from("<BII", data)
    unary, remainders = by_hand(symbols, k)
    assert nonzero == len(remainders) == np.count_nonzero(symbols)
    number = int(unary[::-1] or "0", 2)
    assert data[9 : 9 + quotient_bytes] == number.to_bytes(-(-len(unary) // 8), "little")
    number = sum(r << (k * i) for i, r in enumerate(remainders))
    size = -(-k * nonzero // 8)
    assert data[9 + quotient_bytes : 9 + quotient_bytes + size] == number.to_bytes(size, "little")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 0.95, 0.999])
def test_k_is_the_smallest_block(share: float) -> None:
    rng = np.random.default_rng(1)
    symbols = rng.integers(1, 16, 4000, dtype=np.uint8) * (rng.random(4000) >= share)
    chosen = runlength.encode(symbols.astype(np.uint8), 4)[0]
    sizes = [
        len(by_hand(symbols, k)[0]) + k * np.count_nonzero(symbols)
        for k in range(runlength.MAX_K + 1)
    ]
    assert sizes[chosen] == min(sizes)


def test_a_block_of_zeros_takes_its_head_alone() -> None:
    assert len(runlength.encode(np.zeros(100_000, np.uint8), 4)) == 9


def block(
    k: int, nonzero: int, quotients: bytes, rest: bytes = b"", *, announced: int | None = None
) -> bytes:
    return (
        struct.pack("<BII", k, nonzero, len(quotients) if announced is None else announced)
        + quotients
        + rest
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "its head takes 9"),
        (b"\x00" * 8, "its head takes 9"),
        (block(9, 0, b""), "k 9"),
        (block(0, 101, b"\xff" * 13), "101 values"),
        (block(0, 2**32 - 1, b""), "4294967295 values"),
        (block(0, 1, b"\x01", announced=2**32 - 1), "bytes of quotients"),
        (block(0, 1, b"\x00" * 13 + b"\x01", b"\x05"), "bytes of quotients"),
        (block(0, 1, b"\x01"), "it needs 11"),
        (block(3, 2, b"\x03", b"\x00"), "it needs 12"),
        (block(0, 1, b"\x03", b"\x05"), "2 runs for 1 values"),
        (block(0, 2, b"\x01", b"\x55"), "1 runs for 2 values"),
        (block(0, 1, b"\x01\x00", b"\x05"), "bytes behind the last quotient"),
        (block(0, 1, b"\x01", b"\x00"), "a zero among the values"),
        (block(0, 1, b"\x00" * 12 + b"\x10", b"\x05"), "runs of 104 symbols or more, expected 100"),
        (block(7, 1, b"\x01", b"\x64\x05"), "runs of 101 symbols or more, expected 100"),
        (block(8, 1, b"\x01", b"\xff\x05"), "runs of 256 symbols or more, expected 100"),
        (block(0, 1, b"\x01", b"\x15"), "bits behind the last"),
        (block(3, 1, b"\x01", b"\x08\x05"), "bits behind the last"),
    ],
)
def test_hostile_blocks(data: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        runlength.decode(memoryview(data), 100, 4)


def test_a_bomb_allocates_no_more_than_its_symbols() -> None:
    many = 2**25
    tracemalloc.start()
    try:
        for data in (
            block(0, many, b"\xff" * 200),
            block(0, 200, b"\x80" * many),
            block(8, 1, b"\x80" * many, b"\0\1"),
        ):
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            with pytest.raises(WireError):
                runlength.decode(memoryview(data), 1000, 4)
            assert tracemalloc.get_traced_memory()[1] - start < 2**18
    finally:
        tracemalloc.stop()


@given(blocks(), st.data())
def test_whatever_goes_in_only_wire_errors_come_out(
    good: tuple[int, np.ndarray], data: st.DataObject
) -> None:
    bits, symbols = good
    raw = bytearray(runlength.encode(symbols, bits))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    count = data.draw(st.sampled_from([len(symbols), 0, 1, len(symbols) + 1]))
    try:
        back, used = runlength.decode(memoryview(raw), count, bits)
    except WireError:
        return
    assert len(back) == count
    assert used <= len(raw)
    assert back.max(initial=0) < 2**bits
