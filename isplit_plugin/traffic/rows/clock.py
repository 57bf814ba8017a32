"""The clock of the store, by which the times of all workers are bounded.

PostgreSQL has a clock of its own, one for all hosts. An SQLite file has the clock of its host.
"""

from __future__ import annotations

import math
import time
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

MAX_SKEW_S: Final = 300.0
"""How far a worker's clock may be from the store's before the times of its deltas are moved."""


def store_time(connection: Connection) -> float:
    """The time by the store's clock, in epoch seconds."""
    if connection.dialect.name == "postgresql":
        now = connection.scalar(sa.select(sa.extract("epoch", sa.func.clock_timestamp())))
        return float(now or 0.0)
    return host_time()


def host_time() -> float:
    """The time by the clock of this host, in epoch seconds."""
    return time.time()


def skew_of(connection: Connection, as_of: float) -> float:
    """By how many seconds the times of a delta are ahead of the store's clock; 0 within the limit.

    The difference of the two clocks is measured, so it does not matter how long a delta waited. A
    time that is ahead for another reason is ahead by what it exceeds the store's clock.

    Parameters:
        as_of: the newest time in the delta; infinite in one without times.
    """
    now = store_time(connection)
    skew = host_time() - now
    if abs(skew) <= MAX_SKEW_S:
        skew = 0.0
    if math.isfinite(as_of) and as_of - skew > now + MAX_SKEW_S:
        skew = as_of - now
    return skew
