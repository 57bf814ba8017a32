"""Writing a delta: read the rows it touches, add, write back, within one transaction that no other writer overlaps.

Served rows lie in buckets of an hour, rolled up to days after two days and dropped after 90, counted from the newest
observation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Row, Table

from ..errors import StoreError
from ..schema import Cut
from . import tables
from .database import cut_columns, cut_of, upsert
from .delta import (
    CAPS,
    HOUR_S,
    TIMES,
    Delta,
    Names,
    Outcome,
    OutcomeKey,
    Population,
    Served,
    ServedKey,
    shift_from,
)
from .histogram import pack, unpack
from .labels import write_pending
from .moments import F64, Moments
from .staging import columns_of, populations_of, stage

DAY_S: Final = 24 * HOUR_S
KEEP_HOURS_S: Final = 2 * DAY_S
KEEP_DAYS_S: Final = 90 * DAY_S
_CHUNK: Final = 500


def write_delta(
    connection: Connection, revision: int, network: str, delta: Delta
) -> dict[str, set[str]]:
    """Add ``delta`` to the rows of ``network`` and return the names it knows by now, by kind.

    Raises StoreError where the network was never put or has another number of points.
    """
    mean0 = mean0_of(connection, network)
    if mean0.shape != delta.mean0.shape:
        raise StoreError(f"network {network}: expected {len(mean0)} points, got {len(delta.mean0)}")
    known = _fit_names(connection, network, delta)
    told = delta.renamed({kind: names.fit for kind, names in known.items()}).about(mean0)
    points = len(mean0)
    close_buckets(connection, network, told)
    _write_moments(connection, network, told, points)
    _write_served(connection, network, told)
    _write_outcomes(connection, network, told)
    write_pending(connection, network, told.waiting, told.as_of)
    touch(connection, network, revision, told.as_of)
    return {kind: names.known for kind, names in known.items()}


def close_buckets(connection: Connection, network: str, delta: Delta) -> None:
    """Keep the device means of ``delta``, and add those of buckets that are over to its moments."""
    found = connection.scalar(
        sa.select(tables.progress.c.as_of).where(tables.progress.c.network == network)
    )
    known = -np.inf if found is None else found
    newest = max(delta.as_of, known)
    if not np.isfinite(newest):
        return
    times = {"known": known, "newest": newest, "half_life_s": delta.half_life_s}
    closed = stage(connection, network, delta.staged, delta.mean0, **times)
    for population, means in closed.items():
        for class_id, vector in zip(means.ids.tolist(), means.vectors, strict=True):
            moments, key = Moments(means.epoch, vector), (population, class_id)
            delta.moments[key] = (
                delta.moments[key].merge(moments) if key in delta.moments else moments
            )


def mean0_of(connection: Connection, network: str) -> F64:
    """The network's shift (P,). Raises StoreError where the network was never put."""
    found = connection.scalar(
        sa.select(tables.network.c.mean0).where(tables.network.c.network == network)
    )
    if found is None:
        raise StoreError(
            f"network {network[:80]}: expected to be in the store, is not: put_network comes first"
        )
    return np.frombuffer(found, "<f8").astype(np.float64)


def touch(connection: Connection, network: str, revision: int, as_of: float = -np.inf) -> None:
    """Note that the network's rows changed, and how far time has come."""
    table = tables.progress
    known = connection.scalar(sa.select(table.c.as_of).where(table.c.network == network))
    newest = max(as_of, -np.inf if known is None else known)
    row = {
        "network": network,
        "revision": revision,
        "as_of": newest if np.isfinite(newest) else None,
    }
    upsert(connection, table, [row])


def _fit_names(connection: Connection, network: str, delta: Delta) -> dict[str, Names]:
    table = tables.name
    known: dict[str, set[str]] = {kind: set() for kind in CAPS}
    for kind, name in connection.execute(
        sa.select(table.c.kind, table.c.name).where(table.c.network == network)
    ):
        known.setdefault(kind, set()).add(name)
    before = {kind: set(names) for kind, names in known.items()}
    names = {kind: Names(known[kind], CAPS[kind]) for kind in CAPS}
    used = set()
    keys: list[ServedKey | OutcomeKey] = [*delta.served, *delta.outcomes]
    for key in keys:
        used |= {
            ("split_point", key.cut.split_point),
            ("codec", key.cut.coding),
            ("group", key.group),
        }
    used |= {("group", population.group) for population, _ in delta.moments}
    used |= {("group", staged.group) for staged in delta.staged.values()}
    for kind, value in sorted(used):
        names[kind].fit(value)
    new = [(kind, value) for kind in CAPS for value in sorted(names[kind].known - before[kind])]
    upsert(
        connection,
        table,
        [{"network": network, "kind": kind, "name": value} for kind, value in new],
    )
    return names


def _write_moments(connection: Connection, network: str, delta: Delta, points: int) -> None:
    by_population: dict[Population, dict[int, Moments]] = {}
    for (population, class_id), moments in delta.moments.items():
        by_population.setdefault(population, {})[class_id] = moments
    table = tables.importance
    rows: list[dict[str, Any]] = []
    for population, fresh in by_population.items():
        merged = dict(fresh)
        for some in _chunks(sorted(fresh)):
            query = sa.select(table.c.class_id, table.c.epoch, table.c.moments)
            query = query.where(_is(table, network, population), table.c.class_id.in_(some))
            for class_id, epoch, raw in connection.execute(query):
                merged[class_id] = Moments.from_bytes(raw, epoch, points).merge(fresh[class_id])
        key = _columns(network, population)
        rows += [
            {**key, "class_id": c, "epoch": m.epoch, "moments": m.to_bytes()}
            for c, m in merged.items()
        ]
    upsert(connection, table, rows)


def _write_served(connection: Connection, network: str, delta: Delta) -> None:
    table = tables.served
    rows = []
    new_hour = False
    for key, fresh in delta.served.items():
        query = sa.select(table).where(_is(table, network, _served_columns(key)))
        known = connection.execute(query).first()
        new_hour |= known is None
        merged = Served()
        if known is not None:
            merged = served_of(known)
        merged.update(fresh)
        rows.append(_served_row(network, _served_columns(key), merged))
    upsert(connection, table, rows)
    if new_hour:
        roll_up(connection, network)


def roll_up(connection: Connection, network: str) -> None:
    """Add hours that are older than two days to their days, and drop days older than 90."""
    table = tables.served
    mine = table.c.network == network
    newest = connection.scalar(sa.select(sa.func.max(table.c.bucket)).where(mine)) or 0
    old = (mine, table.c.span_s == HOUR_S, table.c.bucket < newest // DAY_S * DAY_S - KEEP_HOURS_S)
    days: dict[tuple[Cut, str, int], Served] = {}
    for row in connection.execute(sa.select(table).where(*old)):
        day = (cut_of(row), row.device_group, row.bucket // DAY_S * DAY_S)
        days.setdefault(day, Served()).update(served_of(row))
    rows = []
    for (cut, group, bucket), fresh in days.items():
        key = {
            **cut_columns(cut),
            "device_group": group,
            "span_s": DAY_S,
            "bucket": bucket,
        }
        known = connection.execute(sa.select(table).where(_is(table, network, key))).first()
        if known is not None:
            fresh.update(served_of(known))
        rows.append(_served_row(network, key, fresh))
    upsert(connection, table, rows)
    connection.execute(table.delete().where(*old))
    connection.execute(table.delete().where(mine, table.c.bucket < newest - KEEP_DAYS_S))


def served_of(row: Row[Any]) -> Served:
    """A served row as it was written. Raises StoreError where its histograms are unreadable."""
    return Served(row.requests, row.errors, row.bytes, row.drops, unpack(row.times, len(TIMES)))


def _write_outcomes(connection: Connection, network: str, delta: Delta) -> None:
    table = tables.outcome
    by_place: dict[tuple[Cut, str], dict[int, Outcome]] = {}
    for key, outcome in delta.outcomes.items():
        by_place.setdefault((key.cut, key.group), {})[key.class_id] = outcome
    rows: list[dict[str, Any]] = []
    for (cut, group), fresh in by_place.items():
        place = {**cut_columns(cut), "device_group": group}
        for some in _chunks(sorted(fresh)):
            query = sa.select(table).where(_is(table, network, place), table.c.class_id.in_(some))
            for row in connection.execute(query):
                known = Outcome(row.epoch, row.number, row.predictions, row.labelled, row.correct)
                fresh[row.class_id].update(known)
        for class_id, o in fresh.items():
            sums = {
                "epoch": o.epoch,
                "number": o.count,
                "predictions": o.predictions,
                "labelled": o.labelled,
                "correct": o.correct,
            }
            rows.append({"network": network, **place, "class_id": class_id, **sums})
    upsert(connection, table, rows)


def move_shift(connection: Connection, network: str, old: F64, new: F64) -> None:
    """Tell all sums of ``network`` about the shift ``new`` instead of ``old``."""
    points = len(old)
    table = tables.importance
    for population in populations_of(connection, network):
        by = shift_from(population.start, new - old)
        query = sa.select(table.c.class_id, table.c.epoch, table.c.moments)
        query = query.where(_is(table, network, population))
        rows = {c: Moments.from_bytes(raw, e, points) for c, e, raw in connection.execute(query)}
        key = _columns(network, population)
        moved = {c: m.shifted(by) for c, m in rows.items()}
        both = [
            {**key, "class_id": c, "epoch": m.epoch, "moments": m.to_bytes()}
            for c, m in moved.items()
        ]
        upsert(connection, table, both)


def _is(table: Table, network: str, key: Population | dict[str, Any]) -> sa.ColumnElement[bool]:
    columns = _columns(network, key) if isinstance(key, Population) else {"network": network, **key}
    return sa.and_(*(table.c[name] == value for name, value in columns.items()))


def _columns(network: str, population: Population) -> dict[str, Any]:
    return {"network": network, **columns_of(population)}


def _served_columns(key: ServedKey) -> dict[str, Any]:
    return {
        **cut_columns(key.cut),
        "device_group": key.group,
        "span_s": HOUR_S,
        "bucket": key.bucket,
    }


def _served_row(network: str, key: dict[str, Any], served: Served) -> dict[str, Any]:
    counts = {
        "requests": served.requests,
        "errors": served.errors,
        "bytes": served.bytes,
        "drops": served.drops,
    }
    return {"network": network, **key, **counts, "times": pack(served.times)}


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[i : i + _CHUNK] for i in range(0, len(ids), _CHUNK))
