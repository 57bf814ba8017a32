"""Device hours: in how many buckets a device was heard of a class, decayed.

Within a bucket a device counts once, but one that talks around the clock has many buckets. So its
mean of a bucket weighs ``1 / (1 + h)``, where h is the decayed number of buckets that it already
has. The weights of one device sum to about 1, however long it talks: in the steady state of n
buckets in a half-life, h is about n / ln 2 and the sum h / (1 + h).

The number is kept as its **level**: h at the time t is ``2^(level - t / half-life)``. Rows above
``MAX_DEVICE_HOURS`` are deleted, the lowest level first, so that nobody becomes unknown by being
loud.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from . import tables
from .sql import upsert

MAX_DEVICE_HOURS: Final = 100_000
"""Rows of a network."""
KEEP_HALF_LIVES: Final = 8
_SLACK: Final = 1.02
_NEVER: Final = -1e300

MIX_TARGET: Final = "mix"
"""The target of the rows that count a device whatever the class was; they have the class -1."""
LABEL_TARGET: Final = "label "
"""What the targets of labels begin with; the cut follows."""


class HourKey(NamedTuple):
    """A device, and what it was heard of."""

    target: str
    class_id: int
    device: str


def with_levels(
    table: sa.Table,
    *,
    target: str | sa.ColumnElement[str] | None = None,
    class_id: int | None = None,
) -> sa.Select[Any]:
    """The query for the rows of ``:network`` in a table of open buckets, with the column ``level``.

    ``target``, ``class_id``: of the device hours, where they are not columns of the table.
    """
    hours = tables.device_hours
    on = sa.and_(
        hours.c.network == table.c.network,
        hours.c.device == table.c.device,
        hours.c.target == (table.c.target if target is None else target),
        hours.c.class_id == (table.c.class_id if class_id is None else class_id),
    )
    query = sa.select(*table.c, hours.c.level).select_from(table.outerjoin(hours, on))
    return query.where(table.c.network == sa.bindparam("network"))


class Damping:
    """The weight of each bucket of each device, from the buckets that it had before.

    Parameters:
        buckets: keys, buckets (epoch seconds) and stored levels (``None`` without one).
        half_life_s: the half-life of the weights, in seconds.

    Attributes:
        levels: the level of each key after these buckets.
    """

    def __init__(
        self, buckets: Iterable[tuple[HourKey, int, float | None]], half_life_s: float
    ) -> None:
        self.levels: dict[HourKey, float] = {}
        self._factors: dict[tuple[HourKey, int], float] = {}
        for key, bucket, stored in sorted(buckets, key=lambda item: (item[1], item[0])):
            if (key, bucket) in self._factors:
                continue
            level = self.levels.get(key, _NEVER if stored is None else stored)
            now = bucket / half_life_s
            self._factors[key, bucket] = 1 / (1 + 2.0 ** min(level - now, 1000.0))
            self.levels[key] = float(np.logaddexp2(level, now))

    def factor(self, key: HourKey, bucket: int) -> float:
        """What the bucket of a device weighs, from 0 to 1."""
        return self._factors[key, bucket]


def hour_key(row: Row[Any]) -> HourKey:
    """The key of a row of :data:`.tables.device_bucket`."""
    return HourKey(row.target, row.class_id, row.device)


def write_levels(
    connection: Connection,
    network: str,
    levels: Mapping[HourKey, float],
    newest: float,
    half_life_s: float,
) -> None:
    """Write the levels of closed buckets, and delete those that are low or too many."""
    table = tables.device_hours
    rows = [{"network": network, **key._asdict(), "level": level} for key, level in levels.items()]
    upsert(connection, table, rows)
    of_network = table.c.network == network
    faded = newest / half_life_s - KEEP_HALF_LIVES
    connection.execute(table.delete().where(of_network, table.c.level < faded))
    count = sa.select(sa.func.count()).select_from(table).where(of_network)
    number = int(connection.scalar(count) or 0)
    if number <= MAX_DEVICE_HOURS * _SLACK:
        return
    keys = (table.c.target, table.c.class_id, table.c.device)
    lowest = sa.select(*keys).where(of_network).order_by(table.c.level, *keys)
    excess = lowest.limit(number - MAX_DEVICE_HOURS)
    connection.execute(table.delete().where(of_network, sa.tuple_(*keys).in_(excess)))
