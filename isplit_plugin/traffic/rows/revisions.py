"""The revision of the store and the progress of its networks.

Rows are deleted by their age, which is counted from the **horizon** of a network. It follows the
newest observation, except for a day after each gap of more than a day: meanwhile it stays at the
last observation before the gap. So a clock that jumps ahead deletes nothing before a day is over,
in which ``isplit store check`` finds the jump and ``isplit store repair`` mends it.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ..aggregates.keys import DAY_S
from . import tables
from .sql import upsert

GAP_S: Final = float(DAY_S)
"""Seconds without traffic after which the horizon waits for as many seconds of traffic."""


class Progress(NamedTuple):
    """How far the traffic of a network has come.

    Attributes:
        as_of: the time of the newest observation, in epoch seconds; ``None`` without traffic.
        resumed: the time of the first observation after the last gap.
        horizon: the time from which ages are counted where rows are deleted.
        requests: how many wait for their labels; counting them each time would take longer than
            all else in a flush.
    """

    as_of: float | None = None
    resumed: float | None = None
    horizon: float | None = None
    requests: int = 0

    def after(self, at: float) -> Progress:
        """The progress after observations up to the time ``at``; infinite where there were none."""
        if not math.isfinite(at):
            return self
        if self.as_of is None or self.resumed is None or self.horizon is None:
            return Progress(at, at, at, self.requests)
        as_of = max(self.as_of, at)
        if as_of - self.as_of > GAP_S:
            return Progress(as_of, as_of, self.as_of, self.requests)
        horizon = as_of if as_of - self.resumed >= GAP_S else self.horizon
        return Progress(as_of, self.resumed, horizon, self.requests)


def meta_value(key: str) -> sa.Select[Any]:
    """The query for one value of the table ``isplit_meta``."""
    return sa.select(tables.meta.c.value).where(tables.meta.c.key == key)


class ViewHead(NamedTuple):
    """What a view needs to know of a network and the store before it reads rows.

    Attributes:
        store_id, revision: of the store.
        as_of: the time of the network's newest observation; ``None`` without traffic.
        rewritten: the revision of its last loss of importance or outcome rows.
        mean0: the bytes of its shift; ``None`` for a network that is not in the store.
        has_devices: whether any row of the network is about devices.
    """

    store_id: int
    revision: int
    as_of: float | None
    rewritten: int
    mean0: bytes | None
    has_devices: bool

    @property
    def text(self) -> str:
        """``<store id, hexadecimal>.<revision>``: a different text for different contents."""
        return f"{self.store_id:x}.{self.revision}"


def _head_query() -> sa.Select[Any]:
    network: sa.BindParameter[str] = sa.bindparam("network")
    progress, networks = tables.progress, tables.network
    of_network = progress.c.network == network
    columns = [
        meta_value("store_id"),
        meta_value("revision"),
        sa.select(progress.c.as_of).where(of_network),
        sa.select(progress.c.rewritten).where(of_network),
        sa.select(networks.c.mean0).where(networks.c.network == network),
    ]
    of_devices = (
        tables.device_bucket,
        tables.device_sketch,
        tables.device_class,
        tables.mix,
        tables.device_label,
    )
    any_row = sa.or_(*(sa.exists().where(table.c.network == network) for table in of_devices))
    return sa.select(*(column.scalar_subquery() for column in columns), any_row)


_HEAD: Final = _head_query()


def read_head(connection: Connection, network: str) -> ViewHead:
    """The head of a view."""
    row = connection.execute(_HEAD, {"network": network}).one()
    store_id, revision, as_of, rewritten, mean0, has_devices = row
    numbers = (int(store_id or 0), int(revision or 0))
    return ViewHead(*numbers, as_of, int(rewritten or 0), mean0, bool(has_devices))


def raise_revision(connection: Connection) -> int:
    """Raise the revision by one and return it.

    This is the first statement of every writing transaction: its row is the lock of the writers.
    """
    connection.execute(_RAISE)
    return read_revision(connection)


_REVISION: Final = meta_value("revision")
_RAISE: Final = (
    tables.meta.update()
    .where(tables.meta.c.key == "revision")
    .values(value=tables.meta.c.value + 1)
)
_PROGRESS: Final = sa.select(*(tables.progress.c[name] for name in Progress._fields)).where(
    tables.progress.c.network == sa.bindparam("network")
)


def read_revision(connection: Connection, network: str | None = None) -> int:
    """The revision of the store, or of one network's contents."""
    if network is None:
        return int(connection.scalar(_REVISION) or 0)
    table = tables.progress
    query = sa.select(table.c.revision).where(table.c.network == network)
    return int(connection.scalar(query) or 0)


def read_progress(connection: Connection, network: str) -> Progress:
    """The progress of a network; one without traffic has that of the default values."""
    row = connection.execute(_PROGRESS, {"network": network}).first()
    return Progress() if row is None else Progress(*row)


def note_change(
    connection: Connection, network: str, revision: int, progress: Progress | None = None
) -> None:
    """Note that the contents of a network changed, and its progress, if it has traffic."""
    progress = progress or read_progress(connection, network)
    row = {"network": network, "revision": revision, **progress._asdict()}
    upsert(connection, tables.progress, [row], once={"rewritten": revision})


def note_rewritten(connection: Connection, network: str) -> None:
    """Note that importance or outcome rows of a network were deleted.

    Whoever keeps rows reads all of them again then (:mod:`isplit_plugin.traffic.live_rows`).
    """
    table = tables.progress
    update = table.update().where(table.c.network == network)
    connection.execute(update.values(rewritten=read_revision(connection)))


def note_moved(connection: Connection, network: str) -> None:
    """Count a delta whose times were moved to the store's clock."""
    table = tables.progress
    count = table.update().where(table.c.network == network)
    connection.execute(count.values(moved_deltas=table.c.moved_deltas + 1))
