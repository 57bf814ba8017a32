"""Packed codes: Python's big integers are the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import WireError
from isplit_plugin.wire import bitpack

BITS = st.integers(1, 8)


@st.composite
def codes(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    bits = draw(BITS)
    return bits, np.array(draw(st.lists(st.integers(0, 2**bits - 1), max_size=70)), np.uint8)


@given(codes())
def test_packing_is_one_long_integer(coded: tuple[int, np.ndarray]) -> None:
    bits, values = coded
    number = sum(int(v) << (bits * i) for i, v in enumerate(values))
    packed = bitpack.pack(values, bits)
    assert len(packed) == bitpack.packed_size(len(values), bits) == -(-len(values) * bits // 8)
    assert packed.tobytes() == number.to_bytes(len(packed), "little")
    assert bitpack.unpack(packed.tobytes(), len(values), bits).tolist() == values.tolist()


@given(codes())
def test_grouping_puts_whole_codes_into_bytes(coded: tuple[int, np.ndarray]) -> None:
    bits, values = coded
    each = 8 // bits
    by_hand = [
        sum(int(v) << (bits * i) for i, v in enumerate(values[at : at + each]))
        for at in range(0, len(values), each)
    ]
    grouped = bitpack.group(values, bits)
    assert grouped.tolist() == by_hand
    assert len(grouped) == bitpack.grouped_size(len(values), bits)
    assert bitpack.ungroup(grouped.tobytes(), len(values), bits).tolist() == values.tolist()


@given(BITS, st.binary(max_size=40), st.integers(0, 100))
def test_every_byte_string_is_refused_or_comes_back(bits: int, data: bytes, count: int) -> None:
    for read, write in ((bitpack.unpack, bitpack.pack), (bitpack.ungroup, bitpack.group)):
        try:
            values = read(data, count, bits)
        except WireError:
            continue
        assert len(values) == count
        assert (
            write(values, bits).tobytes() == data
        )  # one reading only: nothing hides in the padding


@pytest.mark.parametrize("bits", range(1, 9))
def test_what_is_read_may_be_written_to(bits: int) -> None:
    values = (np.arange(16) % 2**bits).astype(np.uint8)
    assert bitpack.unpack(bitpack.pack(values, bits).tobytes(), 16, bits).flags.writeable
    assert bitpack.ungroup(bitpack.group(values, bits).tobytes(), 16, bits).flags.writeable


def test_bits_behind_the_last_code_are_refused() -> None:
    with pytest.raises(WireError, match="bits behind the last of 3 codes of 2 bits"):
        bitpack.unpack(b"\x40", 3, 2)
    with pytest.raises(WireError, match="more than codes of 3 bits"):
        bitpack.ungroup(b"\x40", 2, 3)
    with pytest.raises(WireError, match="more than codes of 3 bits"):
        bitpack.ungroup(b"\x08", 1, 3)
    with pytest.raises(WireError, match="2 bytes for 3 codes of 2 bits, expected 1"):
        bitpack.unpack(b"\x00\x00", 3, 2)
