"""Looking after a store: checking it, exporting it, its size, and making it smaller."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ..errors import StoreError
from .aggregates.devices import DeviceSums
from .aggregates.histogram import Histogram, unpack, upper_ms
from .aggregates.keys import HOUR_S, TIME_KINDS
from .aggregates.moments import Moments
from .aggregates.sketch import count_devices, sketch_from_bytes
from .rows import tables
from .rows.device_label import labels_of
from .rows.exit_sums import sums_from_bytes
from .rows.revisions import read_progress
from .rows.served import roll_up

EXPORT_FORMAT: Final = 1


def export_rows(connection: Connection) -> Iterator[dict[str, Any]]:
    """All rows as JSON types: ``{"table": ..., columns ...}``.

    The first row has the number of the format. Vectors are lists in the order of the network's
    points, sums are about its ``mean0``, a profile is its file (safetensors) in base64. NaN becomes
    null.
    """
    meta = {row.key: row.value for row in connection.execute(sa.select(tables.meta))}
    yield {"table": tables.meta.name, "format": EXPORT_FORMAT, **meta}
    points = _points(connection)
    for table in tables.metadata.sorted_tables:
        if table is tables.meta:
            continue
        query = sa.select(table).order_by(*table.primary_key)
        for row in connection.execution_options(yield_per=200).execute(query):
            columns = _readable(table, row, points)
            yield {
                "table": table.name,
                **{name: _json_value(value) for name, value in columns.items()},
            }


def check_rows(connection: Connection) -> dict[str, int]:
    """Read every row, and return the number of rows by table. Raises StoreError for damage."""
    if connection.dialect.name == "sqlite":
        answers = [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check(3)")]
        if answers != ["ok"]:
            raise StoreError(f"expected a sound file, found: {'; '.join(answers)[:300]}")
    points = _points(connection)
    for table in tables.metadata.sorted_tables:
        if table.name in _DECODERS:
            for row in connection.execute(sa.select(table)):
                _readable(table, row, points)
    count = sa.func.count()
    return {
        table.name: int(connection.scalar(sa.select(count).select_from(table)) or 0)
        for table in tables.metadata.sorted_tables
    }


def size_bytes(connection: Connection) -> int:
    """The bytes of the store on disk, with indices."""
    if connection.dialect.name == "postgresql":
        inspected = sa.inspect(connection)
        names = [table.name for table in tables.metadata.sorted_tables]
        sizes = [
            connection.scalar(sa.select(sa.func.pg_total_relation_size(name)))
            for name in names
            if inspected.has_table(name)
        ]
        return sum(int(size or 0) for size in sizes)
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    page_bytes = connection.exec_driver_sql("PRAGMA page_size").scalar()
    return int(pages or 0) * int(page_bytes or 0)


def roll_up_all(connection: Connection) -> None:
    """Roll up the served rows of every network."""
    for network in connection.scalars(sa.select(tables.network.c.network)).all():
        roll_up(connection, network, read_progress(connection, network).horizon)


def vacuum(connection: Connection) -> None:
    """Give the room of deleted rows back. Not within a transaction."""
    if connection.dialect.name == "postgresql":
        for table in tables.metadata.sorted_tables:
            connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {table.name}")
    else:
        connection.exec_driver_sql("VACUUM")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


# ----------------------------------------------------------------------------------- readable rows


_Columns = dict[str, Any]


def _points(connection: Connection) -> dict[str, int]:
    """The number of points of each network."""
    query = sa.select(tables.network.c.network, tables.network.c.points)
    return {row.network: row.points for row in connection.execute(query)}


def _readable(table: sa.Table, row: Row[Any], points: Mapping[str, int]) -> _Columns:
    """The columns of a row, with readable ones instead of binary ones. Raises StoreError."""
    columns: _Columns = {str(name): value for name, value in row._mapping.items()}
    if table.name in _DECODERS:
        binary, decode = _DECODERS[table.name]
        columns.pop(binary, None)
        columns |= decode(row, points)
    return columns


def _network(row: Row[Any], _points: Mapping[str, int]) -> _Columns:
    return {"mean0": np.frombuffer(row.mean0, "<f8")}


def _model(row: Row[Any], _points: Mapping[str, int]) -> _Columns:
    return {"manifest": json.loads(row.manifest)}


def _importance(row: Row[Any], points: Mapping[str, int]) -> _Columns:
    moments = Moments.from_bytes(row.moments, row.epoch, points[row.network])
    return {
        "count": moments.count,
        "weight": moments.weight,
        "weight2": moments.weight2,
        "sum1": moments.sum1,
        "sum2": moments.sum2,
    }


def _served(row: Row[Any], _points: Mapping[str, int]) -> _Columns:
    histograms = unpack(row.times, len(TIME_KINDS))
    pairs = zip(TIME_KINDS, histograms, strict=True)
    return {"times": {kind: _histogram(histogram) for kind, histogram in pairs}}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    counts = [[upper_ms(bucket), count] for bucket, count in sorted(histogram.counts.items())]
    return {"total_ms": histogram.total_ms, "up_to_ms": counts}


def _device_bucket(row: Row[Any], points: Mapping[str, int]) -> _Columns:
    sums = DeviceSums.from_bytes(
        row.sums, points[row.network], row.device_group, row.source, row.start
    )
    return {"values": sums.number, "total": sums.total}


def _device_sketch(row: Row[Any], _points: Mapping[str, int]) -> _Columns:
    sketch = sketch_from_bytes(row.sketch)
    entries = [[f"{number:016x}", hour * HOUR_S] for number, hour in sketch.tolist()]
    return {"sketch": entries, "devices": count_devices(sketch)}


def _device_label(row: Row[Any], _points: Mapping[str, int]) -> _Columns:
    labels_of(row)
    return {}


def _exit_sums(row: Row[Any], _points: Mapping[str, int]) -> _Columns:
    sums = sums_from_bytes(row.sums)
    return {"features": sums.features, "class_ids": sums.class_ids, "weights": sums.weights}


def _exit_class(row: Row[Any], _points: Mapping[str, int]) -> _Columns:
    return {"devices": count_devices(sketch_from_bytes(row.devices))}


_DECODERS: Final[Mapping[str, tuple[str, Callable[[Row[Any], Mapping[str, int]], _Columns]]]] = {
    tables.network.name: ("mean0", _network),
    tables.model.name: ("manifest", _model),
    tables.importance.name: ("moments", _importance),
    tables.served.name: ("times", _served),
    tables.device_bucket.name: ("sums", _device_bucket),
    tables.device_sketch.name: ("sketch", _device_sketch),
    tables.device_label.name: ("", _device_label),
    tables.exit_sums.name: ("sums", _exit_sums),
    tables.exit_class.name: ("devices", _exit_class),
}
"""By table: its binary column, if any, and what stands for it in an export.

The functions raise StoreError for a damaged row.
"""


def _json_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _json_value(value.tolist())
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, (bytes, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
