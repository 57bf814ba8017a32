"""Run-length coding of zeros (Golomb, "Run-length encodings", 1966, with Rice's powers of two, 1979).

A block of symbols becomes the list of those that are not zero, each with the length of the run of zeros before it. A
length is written as its quotient by 2**k in unary and its remainder in k bits; k is the one that takes the fewest
bytes. With k = 0 the quotients are a bitmap: one bit for each symbol.

Layout of a block of ``count`` symbols of ``bits`` bits::

    k u8 | nonzero u32 | quotient bytes u32 | quotients | remainders (k bits each) | values (bits each)

Quotients are that many 0 bits and a 1 bit each, the first in the lowest bit; the run behind the last value is implied.
Everything is done on whole arrays; nothing that a block announces is believed before it is compared with ``count``.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np

from ..errors import WireError
from .bitpack import Bytes, pack, packed_size, unpack

MAX_K: Final = 8
_HEAD: Final = struct.Struct("<BII")
MAX_COUNT: Final = 2**31
"""Symbols of one block at most: its counts travel in 32 bits."""


def max_size(count: int, bits: int) -> int:
    """Bytes that no block of ``count`` symbols from :func:`encode` exceeds: a k > 0 is taken only where it is smaller
    than the bitmap."""
    return _HEAD.size + 1 + packed_size(count, 1) + packed_size(count, bits)


def encode(symbols: Bytes, bits: int) -> bytes:
    """A block of the symbols (count,), each below 2**bits. Raises WireError above MAX_COUNT symbols."""
    if len(symbols) > MAX_COUNT:
        raise WireError(
            f"{len(symbols)} values in one item, run-length coding takes at most {MAX_COUNT}"
        )
    mask = symbols != 0
    nonzero = int(np.count_nonzero(mask))
    k, remainders = 0, b""
    # A remainder bit for each value saves less than one bit for each zero: with k > 0 there is nothing to gain here.
    if 2 * nonzero >= len(symbols):
        values, quotients = (
            symbols[mask],
            np.packbits(mask, bitorder="little").tobytes().rstrip(b"\0"),
        )
    else:
        at = np.flatnonzero(mask).astype(np.int32)
        runs = np.diff(at, prepend=np.int32(-1)) - 1
        k, lengths = _split(runs)
        ones = np.cumsum(lengths + 1, dtype=np.int32) - 1
        unary = np.zeros(int(ones[-1]) + 1 if nonzero else 0, np.bool_)
        unary[ones] = True
        values, quotients = symbols[at], np.packbits(unary, bitorder="little").tobytes()
        if k:
            remainders = pack((runs & ((1 << k) - 1)).astype(np.uint8), k).tobytes()
    head = _HEAD.pack(k, nonzero, len(quotients))
    return b"".join([head, quotients, remainders, pack(values, bits).tobytes()])


def decode(data: memoryview, count: int, bits: int) -> tuple[Bytes, int]:
    """The ``count`` symbols of the block at the start of ``data``, and the bytes it takes. Raises WireError."""
    if len(data) < _HEAD.size:
        raise WireError(f"run-length block: {len(data)} bytes, its head takes {_HEAD.size}")
    k, nonzero, quotient_bytes = _HEAD.unpack_from(data)
    if (
        k > MAX_K
        or nonzero > count
        or quotient_bytes > packed_size(nonzero + (count - nonzero >> k), 1)
    ):
        raise WireError(
            f"run-length block: k {k}, {nonzero} values, {quotient_bytes} bytes of quotients for {count}"
        )
    remainder_at = _HEAD.size + quotient_bytes
    value_at = remainder_at + packed_size(nonzero, k)
    end = value_at + packed_size(nonzero, bits)
    if end > len(data):
        raise WireError(f"run-length block: {len(data)} bytes, it needs {end}")
    if quotient_bytes and not data[remainder_at - 1]:
        raise WireError("run-length block: bytes behind the last quotient")
    # At most a bit for each symbol, as checked above: the array is bounded, and no sum of runs overflows.
    unary = np.unpackbits(
        np.frombuffer(data[_HEAD.size : remainder_at], np.uint8), bitorder="little"
    ).view(np.bool_)
    if np.count_nonzero(unary) != nonzero:
        raise WireError(f"run-length block: {np.count_nonzero(unary)} runs for {nonzero} values")
    values = unpack(data[value_at:end], nonzero, bits)
    if not values.all():
        raise WireError("run-length block: a zero among the values")
    at: np.ndarray[Any, np.dtype[Any]]
    if k:
        runs = np.diff(np.flatnonzero(unary), prepend=-1) - 1
        at = np.cumsum((runs << k) + unpack(data[remainder_at:value_at], nonzero, k) + 1) - 1
        length = int(at[-1]) + 1 if nonzero else 0
    else:
        at, length = unary[:count], len(unary) if unary[count:].any() else count
    if length > count:
        raise WireError(f"run-length block: runs of {length} symbols or more, expected {count}")
    symbols = np.zeros(count, np.uint8)
    if k:
        symbols[at] = values
    else:
        symbols[: len(at)][at] = values
    return symbols, end


def _split(
    runs: np.ndarray[tuple[int], np.dtype[np.int32]],
) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.int32]]]:
    """k and the quotients of the runs: the size is convex in k, so the first k that no longer helps ends the search."""
    best, quotients = 0, runs
    size = int(runs.sum(dtype=np.int64))
    for k in range(1, MAX_K + 1):
        shorter = runs >> k
        trial = int(shorter.sum(dtype=np.int64)) + k * len(runs)
        if trial >= size:
            break
        best, quotients, size = k, shorter, trial
    return best, quotients
