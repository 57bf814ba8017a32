"""Codes of 1 to 8 bits, packed without gaps: eight codes in as many bytes as a code has bits, the first code lowest.

Eight bytes are one 64-bit word; three steps of shift and mask move its codes together (or apart), all words at once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from .tensor import Buffer

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[Any]

# Lanes of 8, 16 and 32 bits; the masks keep the even ones.
_LANES: Final = ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF))


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take."""
    return (count * bits + 7) // 8


def pack(codes: Bytes, bits: int) -> Bytes:
    """Codes (count,) below 2**bits as (packed_size(count, bits),) bytes; the bits behind the last code are 0."""
    if bits == 8:
        return codes
    count = len(codes)
    padded = np.zeros(-(-count // 8) * 8, np.uint8)
    padded[:count] = codes
    words: Words = padded.view("<u8")
    for (lane, even), scale in zip(_LANES, (1, 2, 4), strict=True):
        odd = words >> np.uint64(lane - bits * scale)
        words &= np.uint64(even)
        odd &= np.uint64((even << lane & 2**64 - 1) >> lane - bits * scale)
        words |= odd
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8)[:, :bits]).reshape(-1)[
        : packed_size(count, bits)
    ]


def unpack(data: Buffer, count: int, bits: int) -> Bytes:
    """The ``count`` codes of exactly ``packed_size(count, bits)`` bytes; writable. Raises WireError otherwise, and
    where a bit behind the last code is set."""
    expected = packed_size(count, bits)
    if len(data) != expected:
        raise WireError(f"{len(data)} bytes for {count} codes of {bits} bits, expected {expected}")
    if expected and (used := count * bits % 8) and data[expected - 1] >> used:
        raise WireError(f"bits behind the last of {count} codes of {bits} bits")
    raw = np.frombuffer(data, np.uint8)
    if bits == 8:
        return raw.copy()
    groups = -(-count // 8)
    padded = np.zeros(groups * bits, np.uint8)
    padded[:expected] = raw
    wide = np.zeros((groups, 8), np.uint8)
    wide[:, :bits] = padded.reshape(groups, bits)
    words: Words = wide.reshape(-1).view("<u8")
    for (lane, _), scale in zip(reversed(_LANES), (4, 2, 1), strict=True):
        width = bits * scale
        low = _repeat((1 << width) - 1, 2 * lane)
        odd = words << np.uint64(lane - width)
        words &= np.uint64(low)
        odd &= np.uint64(low << lane)
        words |= odd
    return words.view(np.uint8)[:count]


def grouped_size(count: int, bits: int) -> int:
    """Bytes that :func:`group` makes of ``count`` codes."""
    return -(-count // (8 // bits))


def group(codes: Bytes, bits: int) -> Bytes:
    """As many whole codes in each byte as fit, the first lowest, the bits above them 0.

    In front of an entropy coder: its symbol, a byte, then is a few neighbours at once, never a part of a code. That
    takes fewer bytes than the order-0 entropy of single codes, where packing across bytes hides them from the coder.
    """
    if bits == 3:
        grouped = codes[0::2].copy()
        grouped[: len(codes) // 2] |= codes[1::2] << 3
        return grouped
    return codes if bits > 4 else pack(codes, bits)


def ungroup(data: Buffer, count: int, bits: int) -> Bytes:
    """The ``count`` codes of exactly ``grouped_size(count, bits)`` bytes; writable. Raises WireError otherwise, and
    where a bit that belongs to no code is set."""
    if bits in (1, 2, 4):
        return unpack(data, count, bits)
    raw = np.frombuffer(data, np.uint8)
    if len(raw) != grouped_size(count, bits):
        raise WireError(
            f"{len(raw)} bytes for {count} codes of {bits} bits, expected {grouped_size(count, bits)}"
        )
    if bits == 3:
        codes = np.empty(2 * len(raw), np.uint8)
        codes[0::2], codes[1::2] = raw & 7, raw >> 3
    else:
        codes = raw.copy()
    if count and (codes.max() >> bits or codes[count:].any()):
        raise WireError(f"a byte holds more than codes of {bits} bits")
    return codes[:count]


def _repeat(pattern: int, every: int) -> int:
    """A 64-bit word of ``pattern`` in every lane of ``every`` bits."""
    return sum(pattern << at for at in range(0, 64, every))
