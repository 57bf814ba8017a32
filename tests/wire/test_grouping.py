"""Grouped codes, against the definition written with plain integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import WireError
from isplit_plugin.wire.grouping import group, grouped_size, ungroup

BITS = st.integers(1, 8)


@st.composite
def coded(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    """Bits, and codes of that many bits."""
    bits = draw(BITS)
    return bits, np.array(draw(st.lists(st.integers(0, 2**bits - 1), max_size=70)), np.uint8)


@given(coded())
def test_each_byte_holds_as_many_whole_codes_as_fit(case: tuple[int, np.ndarray]) -> None:
    bits, codes = case
    per_byte = 8 // bits
    expected = [
        sum(int(code) << (bits * place) for place, code in enumerate(codes[i : i + per_byte]))
        for i in range(0, len(codes), per_byte)
    ]
    grouped = group(codes, bits)
    assert grouped.tolist() == expected
    assert len(grouped) == grouped_size(len(codes), bits)
    assert ungroup(grouped.tobytes(), len(codes), bits).tolist() == codes.tolist()


@given(BITS, st.binary(max_size=40), st.integers(0, 100))
def test_bytes_are_refused_or_have_one_reading(bits: int, data: bytes, count: int) -> None:
    try:
        codes = ungroup(data, count, bits)
    except WireError:
        return
    assert len(codes) == count
    assert group(codes, bits).tobytes() == data  # nothing hides in the unused bits


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_can_be_written_to(bits: int) -> None:
    codes = (np.arange(16) % 2**bits).astype(np.uint8)
    assert ungroup(group(codes, bits).tobytes(), 16, bits).flags.writeable


@pytest.mark.parametrize(
    ("data", "count", "bits"),
    [
        (b"\x40", 3, 2),  # behind the last code
        (b"\x40", 2, 3),  # above the two codes of a byte
        (b"\x08", 1, 3),  # a second code where there is one
        (b"\x20", 1, 5),  # above the only code of a byte
    ],
)
def test_unused_bits_must_be_zero(data: bytes, count: int, bits: int) -> None:
    with pytest.raises(WireError, match=f"unused bit .* {count} codes of {bits} bits"):
        ungroup(data, count, bits)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_the_number_of_bytes_must_fit(bits: int) -> None:
    size = grouped_size(9, bits)
    for wrong in (size - 1, size + 1, 0):
        message = f"expected {size} bytes for 9 codes of {bits} bits, got {wrong}"
        with pytest.raises(WireError, match=message):
            ungroup(bytes(wrong), 9, bits)
