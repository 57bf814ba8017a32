"""Run-length blocks: lossless, small for many zeros, strict and bounded for hostile bytes."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import WireError
from isplit_plugin.wire import runlength
from isplit_plugin.wire.grouping import group
from isplit_plugin.wire.reader import Reader


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
    block: tuple[int, np.ndarray], rest: bytes
) -> None:
    bits, symbols = block
    data = runlength.encode(symbols, bits)
    assert len(data) <= runlength.max_size(len(symbols), bits)
    reader = Reader(data + rest, "test")
    assert runlength.decode(reader, len(symbols), bits).tolist() == symbols.tolist()
    assert reader.remaining == len(rest)


def quotients_and_remainders(symbols: np.ndarray, k: int) -> tuple[str, list[int]]:
    """The quotients as a string of bits, and the remainders, one symbol at a time."""
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
    k, value_count, quotient_bytes = struct.unpack_from("<BII", data)
    unary, remainders = quotients_and_remainders(symbols, k)
    assert value_count == len(remainders) == np.count_nonzero(symbols)
    number = int(unary[::-1] or "0", 2)
    parts = [number.to_bytes(-(-len(unary) // 8), "little")]
    assert quotient_bytes == len(parts[0])
    if k:
        parts.append(group(np.array(remainders, np.uint8), k).tobytes())
    parts.append(group(symbols[symbols != 0], bits).tobytes())
    assert data[9:] == b"".join(parts)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 0.95, 0.999])
def test_k_takes_the_fewest_bits(share: float) -> None:
    rng = np.random.default_rng(1)
    symbols = rng.integers(1, 16, 4000, dtype=np.uint8) * (rng.random(4000) >= share)
    k = runlength.encode(symbols.astype(np.uint8), 4)[0]
    sizes = {
        other: len(quotients_and_remainders(symbols, other)[0]) + other * np.count_nonzero(symbols)
        for other in runlength.K
    }
    assert sizes[k] == min(sizes.values())


def test_a_block_of_zeros_takes_its_header_alone() -> None:
    assert len(runlength.encode(np.zeros(100_000, np.uint8), 4)) == 9


def block(
    k: int,
    value_count: int,
    quotients: bytes,
    rest: bytes = b"",
    *,
    quotient_bytes: int | None = None,
) -> bytes:
    size = len(quotients) if quotient_bytes is None else quotient_bytes
    return struct.pack("<BII", k, value_count, size) + quotients + rest


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "expected 9 more bytes, 0 left"),
        (b"\x00" * 8, "expected 9 more bytes, 8 left"),
        (block(9, 0, b""), "states k = 9"),
        (block(3, 0, b""), "states k = 3"),
        (block(0, 101, b"\xff" * 13), "states .* 101 values"),
        (block(0, 2**32 - 1, b""), "states .* 4294967295 values"),
        (block(0, 1, b"\x01", quotient_bytes=2**32 - 1), "states .* bytes of quotients"),
        (block(0, 1, b"\x00" * 13 + b"\x01", b"\x05"), "states .* 14 bytes of quotients"),
        (block(0, 1, b"\x01"), "expected 1 more bytes, 0 left"),
        (block(4, 2, b"\x03", b"\x00"), "expected 1 more bytes, 0 left"),
        (block(0, 1, b"\x03", b"\x05"), "2 runs for 1 values"),
        (block(0, 2, b"\x01", b"\x55"), "1 runs for 2 values"),
        (block(0, 1, b"\x01\x00", b"\x05"), "bytes after the last quotient"),
        (block(0, 1, b"\x01", b"\x00"), "a zero among the values"),
        (block(0, 1, b"\x00" * 12 + b"\x10", b"\x05"), "at least 104 symbols, expected 100"),
        (block(4, 1, b"\x40", b"\x04\x05"), "at least 101 symbols, expected 100"),
        (block(8, 1, b"\x01", b"\xff\x05"), "at least 256 symbols, expected 100"),
        (block(0, 1, b"\x01", b"\x15"), "unused bit .* 1 codes of 4 bits"),
        (block(2, 1, b"\x01", b"\x04\x05"), "unused bit .* 1 codes of 2 bits"),
    ],
)
def test_hostile_blocks(data: bytes, error: str) -> None:
    with pytest.raises(WireError, match=error):
        runlength.decode(Reader(data, "test"), 100, 4)


def test_a_bomb_allocates_no_more_than_its_symbols() -> None:
    many = 2**25
    bombs = [
        block(0, many, b"\xff" * 200),
        block(0, 200, b"\x80" * many),
        block(8, 1, b"\x80" * many, b"\0\1"),
    ]
    tracemalloc.start()
    try:
        for bomb in bombs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(WireError):
                runlength.decode(Reader(bomb, "test"), 1000, 4)
            assert tracemalloc.get_traced_memory()[1] - before < 2**18
    finally:
        tracemalloc.stop()


@given(blocks(), st.data())
def test_whatever_goes_in_only_wire_errors_come_out(
    case: tuple[int, np.ndarray], data: st.DataObject
) -> None:
    bits, symbols = case
    raw = bytearray(runlength.encode(symbols, bits))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    count = data.draw(st.sampled_from([len(symbols), 0, 1, len(symbols) + 1]))
    try:
        decoded = runlength.decode(Reader(raw, "test"), count, bits)
    except WireError:
        return
    assert len(decoded) == count
    assert decoded.max(initial=0) < 2**bits
