"""Picks in force and their changes, shared by all workers and hosts.

A change is written only over the state that it was worked out from: where another process was first, nothing is
written, and the caller reads again. The last ``KEEP_CHANGES`` changes of a model version and group are kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from ..advice import PickChange, StandingState
from ..errors import StoreError
from . import tables
from .database import upsert

KEEP_CHANGES: Final = 200


def read_standing(
    connection: Connection, model: str, version: str, group: str
) -> StandingState | None:
    """What is in force, ``None`` before the first time."""
    raw = connection.scalar(
        sa.select(tables.standing.c.state).where(*_key(tables.standing, model, version, group))
    )
    return None if raw is None else StandingState.from_json(raw)


def write_standing(  # noqa: PLR0917
    connection: Connection,
    model: str,
    version: str,
    group: str,
    before: StandingState | None,
    after: StandingState,
    changes: Sequence[PickChange],
) -> bool:
    """Put ``after`` into force instead of ``before``; ``False`` where something else is in force by now."""
    if read_standing(connection, model, version, group) != before:
        return False
    place = {"model": model, "version": version, "device_group": group}
    upsert(
        connection, tables.standing, [{**place, "number": after.changes, "state": after.to_json()}]
    )
    rows = [
        {**place, "number": c.number, "at": c.at, "entry": json.dumps(c.to_json())} for c in changes
    ]
    upsert(connection, tables.change, rows)
    table = tables.change
    old = table.c.number <= after.changes - KEEP_CHANGES
    connection.execute(table.delete().where(*_key(table, model, version, group), old))
    return True


def read_changes(
    connection: Connection, model: str, version: str, group: str
) -> tuple[PickChange, ...]:
    """The changes that are kept, the newest first."""
    table = tables.change
    query = (
        sa.select(table.c.entry)
        .where(*_key(table, model, version, group))
        .order_by(table.c.number.desc())
    )
    try:
        return tuple(PickChange.from_json(json.loads(raw)) for raw in connection.scalars(query))
    except ValueError as error:
        raise StoreError(f"expected a change, found {error}") from error


def _key(table: sa.Table, model: str, version: str, group: str) -> list[sa.ColumnElement[bool]]:
    return [table.c.model == model, table.c.version == version, table.c.device_group == group]
