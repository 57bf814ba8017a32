"""Standing picks and their changes, shared by all workers and hosts.

A pick is replaced only if it is still the one that the change was computed from. Otherwise another
process was first: nothing is written, and the caller reads again. The last ``KEEP_CHANGES`` changes
of a model version, its network and a device group are kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from ...advice import PickChange, StandingState
from ...errors import StoreError
from ...schema import Manifest
from . import tables
from .sql import equals, upsert

KEEP_CHANGES: Final = 200


def read_standing(connection: Connection, manifest: Manifest, group: str) -> StandingState | None:
    """The standing pick; ``None`` before the first. Raises StoreError."""
    raw = connection.scalar(
        sa.select(tables.standing.c.state).where(_of(tables.standing, manifest, group))
    )
    return None if raw is None else StandingState.from_json(raw)


def write_standing(  # noqa: PLR0917
    connection: Connection,
    manifest: Manifest,
    group: str,
    before: StandingState | None,
    after: StandingState,
    changes: Sequence[PickChange],
) -> bool:
    """Replace the standing pick ``before``; ``False`` if another one stands by now."""
    if read_standing(connection, manifest, group) != before:
        return False
    columns = _columns(manifest, group)
    row = {**columns, "number": after.changes, "state": after.to_json()}
    upsert(connection, tables.standing, [row])
    rows = [
        {
            **columns,
            "number": change.number,
            "at": change.at,
            "entry": json.dumps(change.to_json()),
        }
        for change in changes
    ]
    upsert(connection, tables.change, rows)
    table = tables.change
    is_old = table.c.number <= after.changes - KEEP_CHANGES
    connection.execute(table.delete().where(_of(table, manifest, group), is_old))
    return True


def read_changes(connection: Connection, manifest: Manifest, group: str) -> tuple[PickChange, ...]:
    """The last changes, the newest first. Raises StoreError."""
    table = tables.change
    query = (
        sa.select(table.c.entry).where(_of(table, manifest, group)).order_by(table.c.number.desc())
    )
    try:
        return tuple(PickChange.from_json(json.loads(raw)) for raw in connection.scalars(query))
    except ValueError as error:
        raise StoreError(f"expected a change, got {error}") from error


def _of(table: sa.Table, manifest: Manifest, group: str) -> sa.ColumnElement[bool]:
    return equals(table, _columns(manifest, group))


def _columns(manifest: Manifest, group: str) -> dict[str, str]:
    return {
        "model": manifest.model,
        "version": manifest.version,
        "network": manifest.network_hash,
        "device_group": group,
    }
