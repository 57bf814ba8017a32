"""What the demo's device was served, summed up by choice: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Served(NamedTuple):
    """One (split point, codec) pair: photos, how many of them right, mean bytes sent, median milliseconds."""

    split_point: str
    codec: str
    photos: int
    right: int
    bytes_sent: float
    head_ms: float
    encode_ms: float
    round_trip_ms: float
    tail_ms: float


def by_choice(rows: Sequence[dict[str, Any]]) -> list[Served]:
    """The device's rows by pair, in the order in which the pairs were first used."""
    found = []
    for pair in dict.fromkeys((r["split_point"], r["codec"]) for r in rows):
        mine = [r for r in rows if (r["split_point"], r["codec"]) == pair]
        medians = (float(np.median([r[k] for r in mine])) for k in Served._fields[5:])
        found.append(
            Served(
                *pair,
                len(mine),
                right_of(mine),
                float(np.mean([r["bytes_sent"] for r in mine])),
                *medians,
            )
        )
    return found


def right_of(rows: Sequence[dict[str, Any]]) -> int:
    """How many predictions are the true class."""
    return sum(r["true_class"] == r["predicted_class"] for r in rows)
