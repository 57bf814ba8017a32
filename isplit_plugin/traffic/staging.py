"""The means of devices in buckets that are still open, and what becomes of them when a bucket closes.

A bucket is open until the newest observation lies in the second one after it. Until then each device's values add up
in a row of its own; then its mean is added to the decayed moments as one observation and the row goes. A view adds the
open means in the same way, so it tells the same before and after. Values that come later than that count in the oldest
open bucket, where their device has one mean as well.

The rows are bounded: ``MAX_DEVICES`` devices for a class in a bucket, ``MAX_STAGED`` rows of a network; what is above
belongs to one device called ``other``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ..errors import StoreError
from . import tables
from .database import upsert
from .delta import Population
from .devices import (
    KEEP_HALF_LIVES,
    MAX_DEVICES,
    OTHER_DEVICE,
    Seen,
    Staged,
    StagedKey,
    bucket_of,
    bucket_s,
    merge_seen,
    seen_from_bytes,
    seen_of,
)
from .moments import F64, landmark, rescale

MAX_STAGED: Final = 20_000
_CHUNK: Final = 500


@dataclass(frozen=True, eq=False)
class Means:
    """Device means of one population, as observations: class ids (K,), vectors (K, 3 + 2 P) of
    :class:`.moments.Moments` relative to ``epoch``; the devices of each class."""

    epoch: int
    ids: npt.NDArray[np.int64]
    vectors: F64
    seen: tuple[Seen, ...]


def open_from(newest: float, half_life_s: float) -> int:
    """The begin of the oldest bucket that is open when ``newest`` is the newest observation's time."""
    return bucket_of(newest, half_life_s) - bucket_s(half_life_s)


def means_of(rows: Iterable[Row[Any]], mean0: F64, half_life_s: float) -> dict[Population, Means]:
    """One observation for each row of the table: its mean, at its bucket's begin. Raises StoreError."""
    points = len(mean0)
    keyed = sorted(
        (
            ((r.device_group, r.source, r.target, r.start), r.class_id, r.bucket, r.device, r.sums)
            for r in rows
        ),
        key=itemgetter(
            slice(4)
        ),  # in a fixed order, so that the same contents give the same sums to the last bit
    )
    found = {}
    for where, some in groupby(keyed, key=itemgetter(0)):
        mine = list(some)
        if any(len(row[4]) != 16 * points for row in mine):
            raise StoreError(
                f"device means: expected {16 * points} bytes ({points} points) in each"
            )
        sums = (
            np.frombuffer(b"".join(row[4] for row in mine), "<f8")
            .astype(np.float64)
            .reshape(-1, 2, points)
        )
        number, total = sums[:, 0], sums[:, 1]
        x = np.where(number > 0, total / np.maximum(number, 1.0) - mean0, 0.0)
        marks = {bucket: landmark(bucket, half_life_s) for bucket in {row[2] for row in mine}}
        epoch = max(mark for mark, _ in marks.values())
        weight = {bucket: rescale(w, mark, epoch) for bucket, (mark, w) in marks.items()}
        w = np.array([weight[row[2]] for row in mine])
        wx = w[:, None] * x
        vectors = np.concatenate(
            [np.stack([np.ones(len(w)), w, w * w], axis=1), wx, wx * x], axis=1
        )
        ids, first = np.unique(np.array([row[1] for row in mine], np.int64), return_index=True)
        ends = [*first[1:].tolist(), len(mine)]
        seen = tuple(
            seen_of((row[3], row[2]) for row in mine[a:b])
            for a, b in zip(first.tolist(), ends, strict=True)
        )
        found[Population(*where)] = Means(epoch, ids, np.add.reduceat(vectors, first, axis=0), seen)
    return found


def read_means(
    connection: Connection, network: str, group: str | None, mean0: F64, half_life_s: float
) -> dict[Population, Means]:
    """The open means of one device group (``None``: of all), by population."""
    table = tables.device_bucket
    query = sa.select(table).where(table.c.network == network)
    if group is not None:
        query = query.where(table.c.device_group == group)
    return means_of(connection.execute(query), mean0, half_life_s)


def stage(
    connection: Connection,
    network: str,
    fresh: Mapping[StagedKey, Staged],
    mean0: F64,
    *,
    known: float,
    newest: float,
    half_life_s: float,
) -> dict[Population, Means]:
    """Add ``fresh`` to the buckets that were open when ``known`` was the newest time, close those that are over by
    ``newest`` and return what was in them."""
    opened = open_from(known, half_life_s) if math.isfinite(known) else -math.inf
    told: dict[StagedKey, Staged] = {}
    for key, staged in fresh.items():
        _add(told, key._replace(bucket=int(max(key.bucket, opened))), staged)
    if told:
        _write(connection, network, told, len(mean0))
    table = tables.device_bucket
    since = open_from(newest, half_life_s)
    over = (table.c.network == network, table.c.bucket < since)
    means = means_of(connection.execute(sa.select(table).where(*over)), mean0, half_life_s)
    if not means:
        return {}
    connection.execute(table.delete().where(*over))
    _write_seen(connection, network, means, newest - KEEP_HALF_LIVES * half_life_s)
    return means


def _write(
    connection: Connection, network: str, fresh: dict[StagedKey, Staged], points: int
) -> None:
    table = tables.device_bucket
    mine = table.c.network == network
    room = MAX_STAGED - int(
        connection.scalar(sa.select(sa.func.count()).select_from(table).where(mine)) or 0
    )
    places: dict[tuple[int, str, int], dict[str, Staged]] = {}
    for key, staged in sorted(fresh.items()):
        places.setdefault((key.bucket, key.target, key.class_id), {})[key.device] = staged
    rows: list[dict[str, Any]] = []
    for (bucket, target), some in groupby(sorted(places), key=lambda place: place[:2]):
        for ids in _chunks([class_id for *_, class_id in some]):
            here = (
                mine,
                table.c.bucket == bucket,
                table.c.target == target,
                table.c.class_id.in_(ids),
            )
            known: dict[int, dict[str, Staged]] = {class_id: {} for class_id in ids}
            for key, staged in _staged(connection.execute(sa.select(table).where(*here)), points):
                known[key.class_id][key.device] = staged
            for class_id in ids:
                changed, room = _merge(known[class_id], places[bucket, target, class_id], room)
                place = {
                    "network": network,
                    "bucket": bucket,
                    "target": target,
                    "class_id": class_id,
                }
                rows += [
                    {**place, **_columns(device, staged)} for device, staged in changed.items()
                ]
    upsert(connection, table, rows)


def _merge(
    known: dict[str, Staged], fresh: dict[str, Staged], room: int
) -> tuple[dict[str, Staged], int]:
    """The rows of one class in one bucket that change, and the room that is left for new ones."""
    changed: dict[str, Staged] = {}
    number = len(known)
    for device, staged in fresh.items():
        name = device
        if device not in known and (number >= MAX_DEVICES or room <= 0):
            name = OTHER_DEVICE
        before = changed.get(name, known.get(name))
        if before is None:
            number, room = number + 1, room - 1
        changed[name] = staged if before is None else before.merge(staged)
    return changed, room


def _write_seen(
    connection: Connection, network: str, means: dict[Population, Means], not_before: float
) -> None:
    table = tables.device_seen
    rows = []
    for population, mean in means.items():
        place = {"network": network, **columns_of(population)}
        for at in _chunks(range(len(mean.ids))):
            ids = [int(mean.ids[i]) for i in at]
            where = [table.c[name] == value for name, value in place.items()]
            query = sa.select(table.c.class_id, table.c.means, table.c.seen).where(
                *where, table.c.class_id.in_(ids)
            )
            known = {row.class_id: row for row in connection.execute(query)}
            for i, class_id in zip(at, ids, strict=True):
                number, parts = int(mean.vectors[i, 0]), [mean.seen[i]]
                if class_id in known:
                    number += known[class_id].means
                    parts.append(seen_from_bytes(known[class_id].seen))
                seen = merge_seen(parts, not_before=not_before)
                rows.append(
                    {**place, "class_id": class_id, "means": number, "seen": seen.tobytes()}
                )
    upsert(connection, table, rows)


def populations_of(
    connection: Connection, network: str, group: str | None = None
) -> list[Population]:
    """The populations of one device group (``None``: of all) with importance, in order."""
    table = tables.importance
    key = (table.c.device_group, table.c.source, table.c.target, table.c.start)
    query = sa.select(*key).distinct().where(table.c.network == network).order_by(*key)
    if group is not None:
        query = query.where(table.c.device_group == group)
    return [Population(*row) for row in connection.execute(query)]


def columns_of(population: Population) -> dict[str, Any]:
    """The columns of a table that is kept by population."""
    group, source, target, start = population
    return {"device_group": group, "source": source, "target": target, "start": start}


def _columns(device: str, staged: Staged) -> dict[str, Any]:
    where = {"device_group": staged.group, "source": staged.source, "start": staged.start}
    return {"device": device, **where, "sums": staged.to_bytes()}


def _staged(rows: Iterable[Row[Any]], points: int) -> Iterator[tuple[StagedKey, Staged]]:
    for row in rows:
        staged = Staged.from_bytes(row.sums, points, row.device_group, row.source, row.start)
        yield StagedKey(row.target, row.class_id, row.bucket, row.device), staged


def _add(to: dict[StagedKey, Staged], key: StagedKey, staged: Staged) -> None:
    to[key] = to[key].merge(staged) if key in to else staged


def _chunks(items: Sequence[int]) -> Iterator[Sequence[int]]:
    return (items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))
