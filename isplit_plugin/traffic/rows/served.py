"""Served rows: requests, bytes and times by cut, device group and hour.

Hours older than two days are added up to days, and days older than 90 are deleted; both are counted
from the horizon (:mod:`.revisions`).
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ...advice import ALL_GROUPS, ServedRow, Times, median_ranks
from ...schema import Cut
from ..aggregates.counts import ServedCounts
from ..aggregates.histogram import Histogram, pack, unpack, unpack_sum
from ..aggregates.keys import DAY_S, HOUR_S, TIME_KINDS, ServedKey
from . import tables
from .sql import cut_columns, cut_of, rows_by, upsert

KEEP_HOURS_S: Final = 2 * DAY_S
KEEP_DAYS_S: Final = 90 * DAY_S


_ALL: Final = rows_by(tables.served, "network").order_by(*tables.served.primary_key)
_OF_GROUP: Final = rows_by(tables.served, "network", "device_group").order_by(
    *tables.served.primary_key
)


class Group(NamedTuple):
    """A device group.

    Attributes:
        newest: the epoch second at which its newest bucket began.
        signed: whether the operator put devices into it.
    """

    name: str
    requests: int
    errors: int
    newest: float
    signed: bool


def write_served(
    connection: Connection,
    network: str,
    served: dict[ServedKey, ServedCounts],
    horizon: float | None,
) -> None:
    """Add counts to the rows of their hours."""
    rows = []
    new_hour = False
    for key, counts in served.items():
        columns = _columns(network, key.cut, key.group, HOUR_S, key.bucket)
        stored = read_counts(connection, columns)
        new_hour |= stored is None
        merged = stored or ServedCounts()
        merged.add(counts)
        rows.append(served_row(columns, merged))
    upsert(connection, tables.served, rows)
    if new_hour:
        roll_up(connection, network, horizon)


def roll_up(connection: Connection, network: str, horizon: float | None) -> None:
    """Add the hours that are older than two days to their days, and delete old days."""
    if horizon is None:
        return
    table = tables.served
    of_network = table.c.network == network
    newest = int(horizon // HOUR_S) * HOUR_S
    is_old_hour = sa.and_(
        of_network,
        table.c.span_s == HOUR_S,
        table.c.bucket < newest // DAY_S * DAY_S - KEEP_HOURS_S,
    )
    days: dict[ServedKey, ServedCounts] = {}
    for row in connection.execute(sa.select(table).where(is_old_hour)):
        key = ServedKey(cut_of(row), row.device_group, row.bucket // DAY_S * DAY_S)
        days.setdefault(key, ServedCounts()).add(counts_of(row))
    rows = []
    for key, counts in days.items():
        columns = _columns(network, key.cut, key.group, DAY_S, key.bucket)
        stored = read_counts(connection, columns)
        if stored is not None:
            counts.add(stored)
        rows.append(served_row(columns, counts))
    upsert(connection, table, rows)
    connection.execute(table.delete().where(is_old_hour))
    connection.execute(table.delete().where(of_network, table.c.bucket < newest - KEEP_DAYS_S))


def read_served(
    connection: Connection, network: str, group: str, as_of: float
) -> tuple[ServedRow, ...]:
    """The requests of each cut and device group, with the times of the last two days."""
    query = _ALL if group == ALL_GROUPS else _OF_GROUP
    buckets: dict[tuple[Cut, str], list[Row[Any]]] = {}
    for row in connection.execute(query, {"network": network, "device_group": group}):
        buckets.setdefault((cut_of(row), row.device_group), []).append(row)
    return tuple(
        _served_row(cut, device_group, rows, as_of - KEEP_HOURS_S)
        for (cut, device_group), rows in sorted(buckets.items())
    )


def read_groups(connection: Connection, network: str) -> tuple[Group, ...]:
    """The device groups of the days that are kept, by name."""
    table = tables.served
    sums = sa.select(
        table.c.device_group,
        sa.func.sum(table.c.requests),
        sa.func.sum(table.c.errors),
        sa.func.max(table.c.bucket),
    )
    sums = sums.where(table.c.network == network)
    rows = connection.execute(
        sums.group_by(table.c.device_group).order_by(table.c.device_group)
    ).all()
    names = tables.name
    query = sa.select(names.c.name).where(
        names.c.network == network, names.c.kind == "signed_group"
    )
    signed = set(connection.scalars(query))
    return tuple(
        Group(name, int(requests), int(errors), float(newest), name in signed)
        for name, requests, errors, newest in rows
    )


def read_drops(connection: Connection, network: str) -> int:
    """Observations that were dropped in the days that are kept."""
    table = tables.served
    query = sa.select(sa.func.sum(table.c.drops)).where(table.c.network == network)
    return int(connection.scalar(query) or 0)


def _served_row(cut: Cut, group: str, rows: list[Row[Any]], since: float) -> ServedRow:
    recent = [row for row in rows if row.bucket >= since]
    histograms = _sum_of_times(recent or rows)
    if len(recent) < len(rows) and not all(histogram.counts for histogram in histograms):
        # Nobody reported one kind of time lately: take all that were ever reported.
        ever = _sum_of_times(rows)
        pairs = zip(histograms, ever, strict=True)
        histograms = [last if last.counts else before for last, before in pairs]
    return ServedRow(
        cut,
        group,
        requests=float(sum(row.requests for row in rows)),
        errors=float(sum(row.errors for row in rows)),
        bytes=float(sum(row.bytes for row in rows)),
        **dict(zip(TIME_KINDS, map(_times, histograms), strict=True)),
    )


def _sum_of_times(rows: list[Row[Any]]) -> list[Histogram]:
    newest = max(row.bucket for row in rows)
    settled = [row.times for row in rows if row.bucket < newest]
    changing = [row.times for row in rows if row.bucket == newest]
    return unpack_sum(settled, len(TIME_KINDS), changing=changing)


def _times(histogram: Histogram) -> Times:
    if not histogram.counts:
        return Times()
    low, high = median_ranks(histogram.count)
    return Times(
        float(histogram.count),
        histogram.mean_ms,
        histogram.quantile(0.5),
        histogram.quantile(low) if low > 0 else 0.0,
        histogram.quantile(high) if high < 1 else math.inf,
    )


def read_counts(connection: Connection, columns: dict[str, Any]) -> ServedCounts | None:
    """The counts in the row with the key ``columns``; ``None`` without such a row."""
    row = connection.execute(rows_by(tables.served, *columns), columns).first()
    return None if row is None else counts_of(row)


def counts_of(row: Row[Any]) -> ServedCounts:
    """The counts in a row. Raises StoreError."""
    times = unpack(row.times, len(TIME_KINDS))
    return ServedCounts(row.requests, row.errors, row.bytes, row.drops, times)


def _columns(network: str, cut: Cut, group: str, span_s: int, bucket: int) -> dict[str, Any]:
    return {
        "network": network,
        **cut_columns(cut),
        "device_group": group,
        "span_s": span_s,
        "bucket": bucket,
    }


def served_row(columns: dict[str, Any], counts: ServedCounts) -> dict[str, Any]:
    """The row of these counts, with the key ``columns``."""
    return {
        **columns,
        "requests": counts.requests,
        "errors": counts.errors,
        "bytes": counts.bytes,
        "drops": counts.drops,
        "times": pack(counts.times),
    }
