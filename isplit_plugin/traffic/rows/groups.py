"""The names of device groups: slots for those that the operator signed, and slots for all others.

Anybody may name a group, so the slots of unsigned names are free again for others once nobody used
the name for a day. What was counted under an expired name then counts under ``OTHER``. Signed names
have slots of their own, which no unsigned name takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from ..aggregates.counts import ServedCounts
from ..aggregates.devices import DeviceClassKey
from ..aggregates.keys import DAY_S, OTHER, OutcomeKey
from ..aggregates.moments import Moments
from ..aggregates.sketch import merge_sketches, sketch_from_bytes
from . import tables
from .device_label import sound_labels, write_device_labels
from .importance import write_moments
from .mix import Share, write_mix, write_votes
from .outcome import outcome_of, write_outcomes
from .revisions import note_rewritten, read_revision
from .served import counts_of, read_counts, served_row
from .sql import cut_of, equals, population_of, upsert

EXPIRE_S: Final[Mapping[str, float]] = {"group": DAY_S, "signed_group": 90 * DAY_S}
"""Seconds after which an unused name of each kind gives its slot to another one."""


def expired_names(seen: Mapping[str, float], kind: str, now: float) -> list[str]:
    """The names of one kind whose slots are free for others, the least recently used first."""
    old = [name for name, time in seen.items() if time < now - EXPIRE_S[kind]]
    return sorted(old, key=lambda name: (seen[name], name))


def fold_group(connection: Connection, network: str, points: int, group: str) -> None:
    """Count under ``OTHER`` what was counted under ``group``, and forget that name.

    Its standing picks are deleted.
    """
    revision = read_revision(connection)
    _fold_importance(connection, network, points, group, revision)
    _fold_sketches(connection, network, group)
    _fold_outcomes(connection, network, group, revision)
    _fold_served(connection, network, group)
    _fold_mix(connection, network, group)
    for table in (tables.device_bucket, tables.request):
        update = table.update().where(_of(table, network, group))
        connection.execute(update.values(device_group=OTHER))
    _delete_picks(connection, network, group)
    note_rewritten(connection, network)
    names = tables.name
    kinds = names.c.kind.in_(tuple(EXPIRE_S))
    connection.execute(
        names.delete().where(names.c.network == network, kinds, names.c.name == group)
    )


def _fold_importance(
    connection: Connection, network: str, points: int, group: str, revision: int
) -> None:
    moments = {}
    for row in _take_rows(connection, tables.importance, network, group):
        population = population_of(row)._replace(group=OTHER)
        moments[population, row.class_id] = Moments.from_bytes(row.moments, row.epoch, points)
    write_moments(connection, network, moments, revision)


def _fold_sketches(connection: Connection, network: str, group: str) -> None:
    table = tables.device_sketch
    rows: list[dict[str, Any]] = []
    for row in _take_rows(connection, table, network, group):
        columns = {**row._asdict(), "device_group": OTHER}
        key = {column.name: columns[column.name] for column in table.primary_key.columns}
        before = connection.execute(sa.select(table).where(equals(table, key))).first()
        if before is not None:
            sketches = [sketch_from_bytes(before.sketch), sketch_from_bytes(row.sketch)]
            columns["means"] += before.means
            columns["sketch"] = merge_sketches(sketches).tobytes()
        rows.append(columns)
    upsert(connection, table, rows)


def _fold_outcomes(connection: Connection, network: str, group: str, revision: int) -> None:
    outcomes = {
        OutcomeKey(cut_of(row), OTHER, row.class_id): outcome_of(row)
        for row in _take_rows(connection, tables.outcome, network, group)
    }
    write_outcomes(connection, network, outcomes, revision)
    labels = {
        key._replace(device_group=OTHER): counts
        for key, counts, _ in sound_labels(
            _take_rows(connection, tables.device_label, network, group)
        )
    }
    write_device_labels(connection, network, labels, -math.inf)


def _fold_served(connection: Connection, network: str, group: str) -> None:
    table = tables.served
    rows = []
    for row in _take_rows(connection, table, network, group):
        columns = {**row._asdict(), "device_group": OTHER}
        key = {column.name: columns[column.name] for column in table.primary_key.columns}
        merged = read_counts(connection, key) or ServedCounts()
        merged.add(counts_of(row))
        rows.append(served_row(key, merged))
    upsert(connection, table, rows)


def _fold_mix(connection: Connection, network: str, group: str) -> None:
    shares = {
        (OTHER, row.class_id): Share(row.epoch, row.weight, row.weight2)
        for row in _take_rows(connection, tables.mix, network, group)
    }
    write_mix(connection, network, shares)
    votes = {
        DeviceClassKey(row.bucket, row.device, OTHER, row.class_id): row.number
        for row in _take_rows(connection, tables.device_class, network, group)
    }
    write_votes(connection, network, votes, -math.inf)


def _delete_picks(connection: Connection, network: str, group: str) -> None:
    for table in (tables.standing, tables.change):
        connection.execute(table.delete().where(_of(table, network, group)))


def _take_rows(
    connection: Connection, table: sa.Table, network: str, group: str
) -> list[sa.Row[Any]]:
    """Read the rows of a group and delete them: they must not take room from what they become."""
    query = sa.select(table).where(_of(table, network, group))
    rows = list(connection.execute(query.order_by(*table.primary_key)))
    connection.execute(table.delete().where(_of(table, network, group)))
    return rows


def _of(table: sa.Table, network: str, group: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.network == network, table.c.device_group == group)
