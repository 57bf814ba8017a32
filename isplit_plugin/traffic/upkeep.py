"""Looking after a store: what it holds in a form that anything can read, how large it is, and making it smaller."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from . import tables
from .delta import TIMES
from .devices import Staged, count_seen, seen_from_bytes
from .flush import roll_up
from .histogram import Histogram, unpack, upper_ms
from .moments import Moments

EXPORT_FORMAT: Final = 1


def export_rows(connection: Connection) -> Iterator[dict[str, Any]]:
    """Everything in the store, a row at a time, as JSON types: ``{"table": ..., columns ...}``.

    The first row tells the format. Vectors are lists in the order of the network's points, sums are about its
    ``mean0``; a profile is its file (safetensors) in base64. NaN becomes null.
    """
    found = {row.key: row.value for row in connection.execute(sa.select(tables.meta))}
    yield {"table": tables.meta.name, "format": EXPORT_FORMAT, **found}
    query = sa.select(tables.network.c.network, tables.network.c.points)
    points = {row.network: row.points for row in connection.execute(query)}
    for table in tables.metadata.sorted_tables:
        if table is tables.meta:
            continue
        decode = _DECODE.get(table.name)
        rows = connection.execution_options(yield_per=200).execute(
            sa.select(table).order_by(*table.primary_key)
        )
        for row in rows:
            told = dict(row._mapping)
            if decode is not None:
                told |= decode(row, points)
            yield {
                "table": table.name,
                **{name: _plain(value) for name, value in told.items() if value is not _GONE},
            }


def read_all(connection: Connection) -> None:
    """Read every row. Raises StoreError where one cannot be read."""
    query = sa.select(tables.network.c.network, tables.network.c.points)
    points = {network: number for network, number in connection.execute(query)}  # noqa: C416
    for raw in connection.scalars(sa.select(tables.model.c.manifest)):
        json.loads(raw)
    for row in connection.execute(sa.select(tables.importance)):
        Moments.from_bytes(row.moments, row.epoch, points[row.network])
    for raw in connection.scalars(sa.select(tables.served.c.times)):
        unpack(raw, len(TIMES))
    for row in connection.execute(sa.select(tables.device_bucket)):
        Staged.from_bytes(row.sums, points[row.network], row.device_group, row.source, row.start)
    for raw in connection.scalars(sa.select(tables.device_seen.c.seen)):
        seen_from_bytes(raw)


def size_bytes(connection: Connection) -> int:
    """How much room the store takes on disk, indices included."""
    if connection.dialect.name == "postgresql":
        inspected = sa.inspect(connection)
        names = [
            table.name for table in tables.metadata.sorted_tables if inspected.has_table(table.name)
        ]
        sizes = (
            connection.scalar(sa.select(sa.func.pg_total_relation_size(name))) for name in names
        )
        return sum(int(size or 0) for size in sizes)
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    return int(pages or 0) * int(connection.exec_driver_sql("PRAGMA page_size").scalar() or 0)


def roll_up_all(connection: Connection) -> None:
    """Roll the served rows of every network up to days where they are old enough."""
    for network in connection.scalars(sa.select(tables.network.c.network)).all():
        roll_up(connection, network)


def vacuum(connection: Connection) -> None:
    """Give the room of deleted rows back; outside any transaction."""
    if connection.dialect.name == "postgresql":
        for table in tables.metadata.sorted_tables:
            connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {table.name}")
    else:
        connection.exec_driver_sql("VACUUM")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


_GONE: Final = object()
_Decoded = Mapping[str, Any]


def _network(row: Row[Any], _points: Mapping[str, int]) -> _Decoded:
    return {"mean0": np.frombuffer(row.mean0, "<f8")}


def _model(row: Row[Any], _points: Mapping[str, int]) -> _Decoded:
    return {"manifest": json.loads(row.manifest)}


def _importance(row: Row[Any], points: Mapping[str, int]) -> _Decoded:
    m = Moments.from_bytes(row.moments, row.epoch, points[row.network])
    scalars = {"count": m.count, "weight": m.weight, "weight2": m.weight2}
    return {"moments": _GONE, **scalars, "sum1": m.sum1, "sum2": m.sum2}


def _served(row: Row[Any], _points: Mapping[str, int]) -> _Decoded:
    times = unpack(row.times, len(TIMES))
    return {"times": {name: _histogram(times[i]) for i, name in enumerate(TIMES)}}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    counts = [[upper_ms(bucket), count] for bucket, count in sorted(histogram.counts.items())]
    return {"total_ms": histogram.total_ms, "up_to_ms": counts}


def _device_bucket(row: Row[Any], points: Mapping[str, int]) -> _Decoded:
    staged = Staged.from_bytes(
        row.sums, points[row.network], row.device_group, row.source, row.start
    )
    return {"sums": _GONE, "values": staged.number, "total": staged.total}


def _device_seen(row: Row[Any], _points: Mapping[str, int]) -> _Decoded:
    seen = seen_from_bytes(row.seen)
    hashes = [[f"{number:016x}", hour * 3600] for number, hour in seen.tolist()]
    return {"seen": hashes, "devices": count_seen(seen)}


_DECODE: Final[Mapping[str, Callable[[Row[Any], Mapping[str, int]], _Decoded]]] = {
    tables.network.name: _network,
    tables.model.name: _model,
    tables.importance.name: _importance,
    tables.served.name: _served,
    tables.device_bucket.name: _device_bucket,
    tables.device_seen.name: _device_seen,
}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
