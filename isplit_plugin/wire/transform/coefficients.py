"""The lossless stage: integer coefficients as bytes, each by the frequency table of its class.

A coefficient's magnitude becomes a symbol of :mod:`.rans` and, from 8 on, extra bits: two symbols
for each octave. Its sign is a bit of its own. Signs and extra bits are the raw bits: those of the
first lanes travel inside the states of the coder, the others behind its words. Layout::

    log2 of the number of lanes, u8 | states and words (rans) | raw bits that are left
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ...errors import WireError
from ..reader import Reader
from . import rans
from .bits import from_bits, to_bits
from .rans import RAW_BITS, Rows, Symbols, Tables

Coefficients = npt.NDArray[np.int32]
Magnitudes = npt.NDArray[np.int64]

MAX_MAGNITUDE: Final = 2**18 - 1
"""The largest magnitude of a coefficient."""
ALPHABET: Final = 38
"""The number of symbols: 8 small magnitudes, and two for each octave from 8 to 2**18."""

_SMALL: Final = 8
_SMALL_OCTAVE: Final = 3


def symbols_of(magnitudes: Magnitudes) -> Symbols:
    """The symbol of each magnitude (n,), 0 to MAX_MAGNITUDE."""
    symbols = magnitudes.astype(np.uint8)
    (large,) = np.nonzero(magnitudes >= _SMALL)
    if len(large):
        values = magnitudes[large]
        octave = _octaves(values)
        upper_half = (values >> (octave - 1)) & 1
        symbols[large] = _SMALL + 2 * (octave - _SMALL_OCTAVE) + upper_half
    return symbols


def encode(coefficients: Coefficients, rows: Rows, tables: Tables) -> bytes:
    """Write coefficients (n,), each with the table in ``rows`` (n,).

    Every frequency of ``tables`` must be at least 1. Raises WireError for a magnitude above
    MAX_MAGNITUDE.
    """
    magnitudes = np.abs(coefficients.astype(np.int64))
    if len(magnitudes) and magnitudes.max() > MAX_MAGNITUDE:
        raise WireError(f"a coefficient of {magnitudes.max()}, at most {MAX_MAGNITUDE}")
    symbols = symbols_of(magnitudes)
    raw = _raw_bits(coefficients, magnitudes, symbols)
    estimated_bits = float(tables.cost[rows * tables.alphabet + symbols].sum())
    lanes = rans.choose_lanes(min(estimated_bits, len(raw) * rans.BITS_FOR_LANE / RAW_BITS))
    seeded = raw[: lanes * RAW_BITS]
    if len(seeded) < lanes * RAW_BITS:
        seeded = np.concatenate([seeded, np.zeros(lanes * RAW_BITS - len(seeded), np.uint8)])
    seeds = np.packbits(seeded, bitorder="little").view("<u2").astype(np.uint32)
    code = rans.encode(tables, symbols, rows, seeds)
    rest = np.packbits(raw[lanes * RAW_BITS :], bitorder="little")
    return b"".join([bytes([lanes.bit_length() - 1]), code, rest.tobytes()])


def decode(reader: Reader, rows: Rows, tables: Tables) -> Coefficients:
    """Read back the coefficients (n,) of these tables. Raises WireError.

    Bytes may be hostile: time and memory depend on n and on the number of bytes alone.
    """
    (log2_lanes,) = reader.take(1)
    if log2_lanes > rans.MAX_LANES.bit_length() - 1:
        raise WireError(f"{reader.subject}: 2**{log2_lanes} lanes, at most {rans.MAX_LANES}")
    symbols, seeds = rans.decode(tables, reader, rows, 1 << log2_lanes)
    magnitudes = symbols.astype(np.int32)
    (present,) = np.nonzero(symbols)
    (large,) = np.nonzero(symbols >= _SMALL)
    steps = magnitudes[large] - _SMALL
    widths = (steps >> 1) + (_SMALL_OCTAVE - 1)
    raw = _read_raw_bits(reader, seeds, len(present) + int(widths.sum()))
    magnitudes[large] = ((2 + (steps & 1)) << widths) + from_bits(raw[len(present) :], widths)
    negative = present[raw[: len(present)] == 1]
    magnitudes[negative] = -magnitudes[negative]
    return magnitudes


def max_size(count: int) -> int:
    """An upper bound of the bytes of ``count`` coefficients."""
    # At most PRECISION bits for a symbol, 17 raw bits for a coefficient, and the states.
    return 1 + count * (rans.PRECISION + 18) // 8 + 5 * rans.MAX_LANES + 8


def _octaves(values: Magnitudes) -> Magnitudes:
    """floor(log2) of integers from 1 on; exact, because a float64 holds them."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1


def _raw_bits(
    coefficients: Coefficients, magnitudes: Magnitudes, symbols: Symbols
) -> npt.NDArray[np.uint8]:
    signs: npt.NDArray[np.uint8] = (coefficients[symbols != 0] < 0).view(np.uint8)
    (large,) = np.nonzero(symbols >= _SMALL)
    if not len(large):
        return signs
    widths = _octaves(magnitudes[large]) - 1
    extra = magnitudes[large] & ((1 << widths) - 1)
    return np.concatenate([signs, to_bits(extra.astype(np.uint64), widths)])


def _read_raw_bits(
    reader: Reader, seeds: npt.NDArray[np.uint32], count: int
) -> npt.NDArray[np.uint8]:
    """All raw bits: from the seeds, and from what is left of the bytes."""
    seeded = np.unpackbits(seeds.astype("<u2").view(np.uint8), bitorder="little")
    size = -(-max(count - len(seeded), 0) // 8)
    rest = np.unpackbits(np.frombuffer(reader.take(size), np.uint8), bitorder="little")
    bits = np.concatenate([seeded, rest])
    if bits[count:].any():
        raise WireError(f"{reader.subject}: an unused bit is set")
    return bits[:count]


def ideal_bits(magnitudes: Magnitudes, rows: Rows, tables: Tables) -> float:
    """The bits of magnitudes (n,) and their signs under the tables (Shannon 1948)."""
    symbols = symbols_of(magnitudes)
    large = magnitudes[symbols >= _SMALL]
    raw = np.count_nonzero(symbols) + int((_octaves(large) - 1).sum())
    return float(tables.cost[rows * tables.alphabet + symbols].sum()) + raw


def bucket_bounds() -> npt.NDArray[np.float64]:
    """(ALPHABET + 1,): the smallest magnitude of each symbol, and one above the largest."""
    octaves = np.arange(_SMALL_OCTAVE, 18)
    halves = np.stack([2.0**octaves, 1.5 * 2.0**octaves], axis=1).ravel()
    return np.concatenate([np.arange(_SMALL, dtype=np.float64), halves, [MAX_MAGNITUDE + 1.0]])
