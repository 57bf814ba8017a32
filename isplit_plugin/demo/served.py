"""The device's own figures by cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_TIMES = ("head_ms", "encode_ms", "round_trip_ms", "tail_ms")


class ServedCut(NamedTuple):
    """The photos of one cut: their number, correct answers, mean bytes and median times."""

    cut: str
    photos: int
    correct: int
    bytes_sent: float
    head_ms: float
    encode_ms: float
    round_trip_ms: float
    tail_ms: float


def by_cut(rows: Sequence[dict[str, Any]]) -> list[ServedCut]:
    """Figures of each cut, in the order in which the cuts were first used."""
    summary = []
    for cut in dict.fromkeys(row["cut"] for row in rows):
        at_cut = [row for row in rows if row["cut"] == cut]
        bytes_sent = float(np.mean([row["bytes_sent"] for row in at_cut]))
        medians = [float(np.median([row[name] for row in at_cut])) for name in _TIMES]
        summary.append(ServedCut(cut, len(at_cut), correct(at_cut), bytes_sent, *medians))
    return summary


def correct(rows: Sequence[dict[str, Any]]) -> int:
    """The number of rows whose prediction is the true class."""
    return sum(row["true_class"] == row["predicted_class"] for row in rows)
