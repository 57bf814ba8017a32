"""Codes of 1 to 8 bits in bytes, as many whole codes in each byte as fit.

This is the form for a general entropy coder. Its symbol, a byte, is then a few neighbouring codes,
and never a part of a code. That takes fewer bytes after entropy coding than one code in each byte,
and fewer than codes packed across bytes, whose parts the coder cannot recognise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from .reader import Buffer

Bytes = npt.NDArray[np.uint8]


def grouped_size(count: int, bits: int) -> int:
    """The number of bytes that :func:`group` makes of ``count`` codes."""
    return -(-count // (8 // bits))


def group(codes: Bytes, bits: int) -> Bytes:
    """Group codes (count,), each below ``2**bits``, into bytes (grouped_size(count, bits),).

    The first code takes the lowest bits of the first byte. Unused bits are 0.
    """
    per_byte = 8 // bits
    if per_byte == 1:
        return codes
    if len(codes) % per_byte:
        padded = np.zeros(grouped_size(len(codes), bits) * per_byte, np.uint8)
        padded[: len(codes)] = codes
        codes = padded
    # One word holds the codes of one byte, 8 bits each. Shifts move them together, all words at
    # once, and the lowest byte of the word is the result.
    words = codes.view(f"<u{per_byte}")
    together = words.copy()
    for place in range(1, per_byte):
        together |= words >> ((8 - bits) * place)
    return together.astype(np.uint8)


def ungroup(data: Buffer, count: int, bits: int) -> Bytes:
    """Read back the ``count`` codes of :func:`group`, as a new array.

    Raises WireError for another number of bytes than ``grouped_size(count, bits)``, and where an
    unused bit is set.
    """
    grouped = np.frombuffer(data, np.uint8)
    size = grouped_size(count, bits)
    if len(grouped) != size:
        raise WireError(
            f"expected {size} bytes for {count} codes of {bits} bits, got {len(grouped)}"
        )
    per_byte = 8 // bits
    if per_byte == 1:
        codes = grouped.copy()
    else:
        words = grouped.astype(f"<u{per_byte}")
        apart = words.copy()
        for place in range(1, per_byte):
            apart |= words << ((8 - bits) * place)
        apart &= sum(((1 << bits) - 1) << (8 * place) for place in range(per_byte))
        codes = apart.view(np.uint8)
    used_bits = bits * per_byte
    if size and ((used_bits < 8 and grouped.max() >> used_bits) or codes[count:].any()):
        raise WireError(f"an unused bit is set in the bytes of {count} codes of {bits} bits")
    return codes[:count]
