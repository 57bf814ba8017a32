"""Numbers of different widths as one string of bits, the first bit in the lowest bit of a byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..reader import Buffer

Numbers = npt.NDArray[np.uint64]
Widths = npt.NDArray[np.integer[Any]]


def pack_bits(values: Numbers, widths: Widths) -> bytes:
    """Write values (n,), each in its number of bits, 0 to 32. Unused bits of the last byte are 0.

    A value must fit into its bits.
    """
    return np.packbits(to_bits(values, widths), bitorder="little").tobytes()


def unpack_bits(data: Buffer, widths: Widths) -> Numbers:
    """The inverse of :func:`pack_bits`. Bits behind the end of ``data`` count as 0."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return from_bits(bits, widths)


def to_bits(values: Numbers, widths: Widths) -> npt.NDArray[np.uint8]:
    """The bits of the values one after the other, the lowest first."""
    source, place = _places(widths)
    return ((values[source] >> place) & np.uint64(1)).astype(np.uint8)


def from_bits(bits: npt.NDArray[np.uint8], widths: Widths) -> Numbers:
    """The inverse of :func:`to_bits`. Missing bits count as 0."""
    total = int(widths.sum())
    if len(bits) < total:
        bits = np.concatenate([bits, np.zeros(total - len(bits), np.uint8)])
    source, place = _places(widths)
    values = np.zeros(len(widths), np.uint64)
    np.bitwise_or.at(values, source, bits[:total].astype(np.uint64) << place)
    return values


def _places(widths: Widths) -> tuple[npt.NDArray[np.intp], Numbers]:
    """For each bit, the number that it belongs to and its place there."""
    source = np.repeat(np.arange(len(widths)), widths)
    ends = np.cumsum(widths)
    place = np.arange(len(source)) - np.repeat(ends - widths, widths)
    return source, place.astype(np.uint64)
