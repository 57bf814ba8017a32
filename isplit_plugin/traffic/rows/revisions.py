"""The revision of the store and the progress of its networks."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from . import tables
from .sql import upsert


def meta_value(key: str) -> sa.Select[Any]:
    """The query for one value of the table ``isplit_meta``."""
    return sa.select(tables.meta.c.value).where(tables.meta.c.key == key)


def raise_revision(connection: Connection) -> int:
    """Raise the revision by one and return it.

    This is the first statement of every writing transaction: its row is the lock of the writers.
    """
    value = tables.meta.c.value
    update = tables.meta.update().where(tables.meta.c.key == "revision")
    connection.execute(update.values(value=value + 1))
    return read_revision(connection)


def read_revision(connection: Connection, network: str | None = None) -> int:
    """The revision of the store, or of one network's contents."""
    query = meta_value("revision")
    if network is not None:
        table = tables.progress
        query = sa.select(table.c.revision).where(table.c.network == network)
    return int(connection.scalar(query) or 0)


def revision_text(connection: Connection) -> str:
    """``<store id, hexadecimal>.<revision>``: a different text for different contents."""
    store_id = int(connection.scalar(meta_value("store_id")) or 0)
    return f"{store_id:x}.{read_revision(connection)}"


def newest_time(connection: Connection, network: str) -> float | None:
    """The time of a network's newest observation, in epoch seconds; ``None`` without traffic."""
    table = tables.progress
    newest: float | None = connection.scalar(
        sa.select(table.c.as_of).where(table.c.network == network)
    )
    return newest


def note_change(
    connection: Connection, network: str, revision: int, as_of: float = -math.inf
) -> None:
    """Note that the contents of a network changed, with observations up to the time ``as_of``."""
    before = newest_time(connection, network)
    newest = as_of if before is None else max(as_of, before)
    row = {
        "network": network,
        "revision": revision,
        "as_of": newest if math.isfinite(newest) else None,
    }
    upsert(connection, tables.progress, [row])
