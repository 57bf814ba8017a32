"""Run-length coding of zeros (Golomb, "Run-length encodings", 1966; Rice's powers of two, 1979).

A block of symbols becomes the list of its values, the symbols that are not zero, each with the
length of the run of zeros before it. A length is written as its quotient by 2**k in unary and its
remainder in k bits. Of k = 0, 1, 2, 4 and 8, whose remainders fill bytes, the one that takes the
fewest bits is used. With k = 0 the quotients are a bitmap: one bit for each symbol.

Layout of a block of ``count`` symbols of ``bits`` bits, little-endian::

    k u8 | values u32 | quotient bytes u32 | quotients | remainders (k bits) | values (bits)

A quotient is that many 0 bits and a 1 bit, the first in the lowest bit. Remainders and values are
grouped (:mod:`.grouping`), ready for an entropy coder. The run after the last value is implied.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from .grouping import Bytes, group, grouped_size, ungroup
from .reader import Reader

K: Final = (0, 1, 2, 4, 8)
"""The possible widths of a remainder, in bits."""
MAX_COUNT: Final = 2**31
"""The largest number of symbols in one block: its counts travel in 32 bits."""

_HEADER: Final = struct.Struct("<BII")


def max_size(count: int, bits: int) -> int:
    """An upper bound of the bytes of a block of ``count`` symbols.

    k > 0 is used only where quotients and remainders take fewer bits than the bitmap.
    """
    return _HEADER.size + 1 + grouped_size(count, 1) + grouped_size(count, bits)


def encode(symbols: Bytes, bits: int) -> bytes:
    """Write symbols (count,), each below 2**bits. Raises WireError above MAX_COUNT symbols."""
    count = len(symbols)
    if count > MAX_COUNT:
        raise WireError(
            f"run-length coding takes at most {MAX_COUNT} values in one item, got {count}"
        )
    mask = symbols != 0
    # k > 0 takes one more bit for each value, and saves at most one bit for each zero.
    if 2 * int(np.count_nonzero(mask)) >= count:
        k = 0
        values = symbols[mask]
        quotients = np.packbits(mask, bitorder="little").tobytes().rstrip(b"\0")
        remainders = b""
    else:
        positions = np.flatnonzero(mask).astype(np.int32)
        values = symbols[positions]
        k, quotients, remainders = _encode_runs(np.diff(positions, prepend=np.int32(-1)) - 1)
    header = _HEADER.pack(k, len(values), len(quotients))
    return b"".join([header, quotients, remainders, group(values, bits).tobytes()])


def decode(reader: Reader, count: int, bits: int) -> Bytes:
    """Read one block of ``count`` symbols.

    Raises WireError. No size that the block states is used before it is compared with ``count``.
    """
    k, value_count, quotient_bytes = reader.unpack(_HEADER)
    largest = grouped_size(value_count + (count - value_count >> k), 1)
    if k not in K or value_count > count or quotient_bytes > largest:
        raise WireError(
            f"{reader.subject}: a run-length block of {count} symbols states k = {k}, "
            f"{value_count} values and {quotient_bytes} bytes of quotients"
        )
    unary = _read_unary(reader, quotient_bytes, value_count)
    remainders = reader.take(grouped_size(value_count, k)) if k else memoryview(b"")
    values = ungroup(reader.take(grouped_size(value_count, bits)), value_count, bits)
    if not values.all():
        raise WireError(f"{reader.subject}: a zero among the values of a run-length block")
    symbols = np.zeros(count, np.uint8)
    if k:
        quotients = np.diff(np.flatnonzero(unary), prepend=-1) - 1
        runs = (quotients << k) + ungroup(remainders, value_count, k)
        positions = np.cumsum(runs + 1) - 1
        _check_length(int(positions[-1]) + 1 if value_count else 0, count, reader)
        symbols[positions] = values
    else:
        _check_length(len(unary) if unary[count:].any() else count, count, reader)
        bitmap = unary[:count]
        symbols[: len(bitmap)][bitmap] = values
    return symbols


def _encode_runs(runs: npt.NDArray[np.int32]) -> tuple[int, bytes, bytes]:
    """k, quotients and remainders of the lengths of runs."""
    k, quotients = _choose_k(runs)
    ends = np.cumsum(quotients + 1, dtype=np.int32)
    unary = np.zeros(int(ends[-1]) if len(ends) else 0, np.bool_)
    unary[ends - 1] = True
    remainders = b""
    if k:
        remainders = group((runs & ((1 << k) - 1)).astype(np.uint8), k).tobytes()
    return k, np.packbits(unary, bitorder="little").tobytes(), remainders


def _choose_k(runs: npt.NDArray[np.int32]) -> tuple[int, npt.NDArray[np.int32]]:
    """The k that takes the fewest bits, and the quotients.

    The size is convex in k, so the search ends at the first k that takes no fewer bits.
    """
    best = K[0]
    best_quotients = runs
    best_size = int(runs.sum(dtype=np.int64))
    for k in K[1:]:
        quotients = runs >> k
        size = int(quotients.sum(dtype=np.int64)) + k * len(runs)
        if size >= best_size:
            break
        best, best_quotients, best_size = k, quotients, size
    return best, best_quotients


def _read_unary(reader: Reader, size: int, value_count: int) -> npt.NDArray[np.bool_]:
    """The bits of the quotients, one 1 for each value. The caller has bounded ``size``."""
    quotients = reader.take(size)
    if size and not quotients[-1]:
        raise WireError(f"{reader.subject}: bytes after the last quotient of a run-length block")
    unary = np.unpackbits(np.frombuffer(quotients, np.uint8), bitorder="little").view(np.bool_)
    runs = int(np.count_nonzero(unary))
    if runs != value_count:
        raise WireError(
            f"{reader.subject}: {runs} runs for {value_count} values in a run-length block"
        )
    return unary


def _check_length(length: int, count: int, reader: Reader) -> None:
    if length > count:
        raise WireError(
            f"{reader.subject}: a run-length block of at least {length} symbols, expected {count}"
        )
