"""Interleaved range asymmetric numeral systems (rANS), many lanes at once in numpy.

rANS (Duda, "Asymmetric numeral systems", 2013, arXiv:1311.2540, section 3.2; interleaving: Giesen,
2014, arXiv:1402.3392) keeps what is coded in an integer state x. A symbol with frequency f of
2**PRECISION, below which the frequencies of the other symbols add up to s, turns x into::

    (x // f << PRECISION) + s + x % f

and 16 bits leave x first where it would not fit into 32 bits. Here L states take turns, one for
each lane, so numpy moves L symbols in one step. A state has 32 bits and is at least 2**16. It
begins with 16 bits that the caller wants to send besides (:attr:`Encoded.raw_bits`), so a lane
costs half a byte, not four.

All arithmetic is on integers: equal symbols give equal bytes on every machine.

Layout, where a lane's ``size`` is the number of bits in its last state below the leading
one, 16 to 31::

    size - 16 of each lane, 4 bits | states without the leading one, size bits | words u16
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...errors import WireError
from ..reader import Reader
from .bits import pack_bits, unpack_bits

PRECISION: Final = 14
"""The frequencies of a table add up to 2**PRECISION."""
MAX_LANES: Final = 256
RAW_BITS: Final = 16
"""The bits that each lane carries besides its symbols."""
BITS_FOR_LANE: Final = 112
"""There is at most one lane for each 112 bits. A lane costs about 4 bits, so the lanes take 2 to 4
per cent; half as many lanes would take twice the time."""

_LOW: Final = np.uint32(1 << 16)
_SHIFT: Final = np.uint32(PRECISION)
_MASK: Final = np.uint32((1 << PRECISION) - 1)
_WORD: Final = np.uint32(16)

Symbols = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]
Integers = npt.NDArray[np.uint32]


class Tables:
    """Frequency tables, ready for coding.

    Parameters:
        frequencies: (T, A), T tables for the A symbols of an alphabet, A <= 256. Each row adds up
            to 2**PRECISION. A symbol with frequency 0 cannot be coded.

    Raises ValueError for other frequencies, and where one symbol has them all.
    """

    def __init__(self, frequencies: npt.NDArray[np.integer[Any]]) -> None:
        if frequencies.ndim != 2 or not len(frequencies) or frequencies.shape[1] > 256:
            raise ValueError(f"frequencies: expected (tables, symbols), got {frequencies.shape}")
        wide = frequencies.astype(np.int64)
        if wide.min() < 0 or wide.max() >= 1 << PRECISION:
            raise ValueError(f"frequencies: expected 0 to {(1 << PRECISION) - 1}")
        if (wide.sum(axis=1) != 1 << PRECISION).any():
            raise ValueError(f"frequencies: expected rows that add up to {1 << PRECISION}")
        self.alphabet = frequencies.shape[1]
        self.frequency: Integers = wide.astype(np.uint32).ravel()
        self.start: Integers = (wide.cumsum(axis=1) - wide).astype(np.uint32).ravel()
        tables = len(frequencies)
        symbols = np.tile(np.arange(self.alphabet, dtype=np.uint8), tables)
        self.symbol: Symbols = np.repeat(symbols, wide.ravel())
        """The symbol of each of the 2**PRECISION slots, one table after the other."""
        self.cost = -np.log2(np.maximum(wide, 1) / (1 << PRECISION)).astype(np.float32).ravel()
        """Bits of each symbol, for estimates only."""


def choose_lanes(estimated_bits: float) -> int:
    """The number of lanes for a code of this size, a power of two."""
    wanted = int(estimated_bits) // BITS_FOR_LANE
    return 1 << min(max(wanted, 1), MAX_LANES).bit_length() - 1


def encode(tables: Tables, symbols: Symbols, rows: Rows, seeds: Integers) -> bytes:
    """Code symbols (n,), each by its table in ``rows`` (n,). No symbol may have the frequency 0.

    ``seeds``: (lanes,), RAW_BITS bits for each lane.
    """
    lanes = len(seeds)
    index = rows * tables.alphabet + symbols
    frequency, start = tables.frequency[index], tables.start[index]
    limit = frequency << np.uint32(32 - PRECISION)
    others = np.uint32(1 << PRECISION) - frequency
    state = seeds.astype(np.uint32) | _LOW
    words = np.empty(len(symbols), np.uint16)
    leaves = np.empty(len(symbols), np.bool_)
    quotients = np.empty(lanes, np.uint32)
    # The last symbol first: the decoder takes them back in order.
    for low in reversed(range(0, len(symbols), lanes)):
        end = min(low + lanes, len(symbols))
        x, quotient, mask = state[: end - low], quotients[: end - low], leaves[low:end]
        np.greater_equal(x, limit[low:end], out=mask)
        words[low:end] = x  # the low 16 bits
        np.right_shift(x, _WORD, out=x, where=mask)
        # x // f << PRECISION, and x % f, are x + x // f * (2**PRECISION - f).
        np.floor_divide(x, frequency[low:end], out=quotient)
        np.multiply(quotient, others[low:end], out=quotient)
        np.add(x, quotient, out=x)
        np.add(x, start[low:end], out=x)
    return _write_states(state) + words[leaves].astype("<u2").tobytes()


def decode(tables: Tables, reader: Reader, rows: Rows, lanes: int) -> tuple[Symbols, Integers]:
    """Read the symbols (n,) of these tables, and the seeds (lanes,).

    Raises WireError where the bytes are not those of :func:`encode`. Time and memory depend on n
    and on the number of bytes that are there, never on what they say.
    """
    state = _read_states(reader, lanes)
    words = np.frombuffer(reader.peek(reader.remaining // 2 * 2), "<u2").astype(np.uint32)
    count = len(rows)
    symbols = np.empty(count, np.uint8)
    slots, starts = rows << PRECISION, rows * tables.alphabet
    used = 0
    for low in range(0, count, lanes):
        end = min(low + lanes, count)
        x = state[: end - low]
        slot = x & _MASK
        symbol = tables.symbol[slots[low:end] + slot]
        symbols[low:end] = symbol
        index = starts[low:end] + symbol
        x >>= _SHIFT
        x *= tables.frequency[index]
        x += slot
        x -= tables.start[index]
        (empty,) = np.nonzero(x < _LOW)
        if len(empty):
            new = words[used : used + len(empty)]
            if len(new) < len(empty):
                raise WireError(f"{reader.subject}: the code ends early")
            used += len(empty)
            x[empty] = (x[empty] << _WORD) | new
    reader.take(2 * used)
    if (state >> _WORD != 1).any():
        raise WireError(f"{reader.subject}: the code does not end where its symbols end")
    return symbols, state & np.uint32(0xFFFF)


def _write_states(state: Integers) -> bytes:
    # The number of bits below the leading one; exact, for a float64 holds 32 bits.
    sizes = np.frexp(state.astype(np.float64))[1] - 1
    values = state.astype(np.uint64) - (np.uint64(1) << sizes.astype(np.uint64))
    both = np.concatenate([(sizes - 16).astype(np.uint64), values])
    return pack_bits(both, np.concatenate([np.full(len(state), 4), sizes]))


def _read_states(reader: Reader, lanes: int) -> Integers:
    nibbles = np.frombuffer(reader.peek(-(-lanes // 2)), np.uint8)
    four = np.full(lanes, 4)
    sizes = unpack_bits(nibbles.tobytes(), four)[:lanes].astype(np.int64) + 16
    widths = np.concatenate([four, sizes])
    data = reader.take(-(-int(widths.sum()) // 8))
    values = unpack_bits(data, widths)[lanes:]
    return (values + (np.uint64(1) << sizes.astype(np.uint64))).astype(np.uint32)
