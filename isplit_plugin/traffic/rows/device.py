"""Device rows: the sums of devices in open buckets, and sketches of the devices in closed ones.

A bucket is open until the newest observation lies in the second bucket after it. Until then the
curves of each device add up in a row. Then the bucket closes: the mean of each row is added to the
moments as one observation, which weighs the less, the more hours the device already has of that
class (:mod:`.device_hours`), and the row is deleted. A view adds the means of open buckets in the
same way, so that closing a bucket does not change it. A curve that comes later counts in the oldest
open bucket, where its device has one mean as well.

The rows are bounded: ``MAX_DEVICES`` devices for a class in a bucket, ``MAX_DEVICE_ROWS`` rows of a
network. Everything above belongs to the device ``OTHER_DEVICE``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ...advice import ALL_GROUPS
from ...errors import StoreError
from ..aggregates.devices import OTHER_DEVICE, DeviceKey, DeviceSums, oldest_open_bucket
from ..aggregates.keys import Population
from ..aggregates.moments import F64, Moments, landmark, rescale
from ..aggregates.sketch import DeviceSketch, merge_sketches, sketch_from_bytes, sketch_of
from . import tables
from .device_hours import Damping, hour_key, with_levels, write_levels
from .sql import Room, chunks, in_group, population_columns, population_of, rows_by, upsert

MAX_DEVICES: Final = 256
"""Devices with a mean of their own for one class in one bucket."""
MAX_DEVICE_ROWS: Final = 20_000
KEEP_HALF_LIVES: Final = 8
"""Half-lives after which a device that was not seen again is no longer counted."""
_WITH_LEVELS: Final = with_levels(tables.device_bucket)


@dataclass(frozen=True, eq=False)
class DeviceMeans:
    """Device means of one population, added by class; every mean is one observation.

    Attributes:
        epoch: the landmark of the vectors.
        ids: (K,) class ids, sorted.
        vectors: (K, 3 + 2 P) vectors of :class:`.moments.Moments`.
        sketches: K sketches of the devices of each class.
    """

    epoch: int
    ids: npt.NDArray[np.int64]
    vectors: F64
    sketches: tuple[DeviceSketch, ...]

    def moments(self) -> dict[int, Moments]:
        """The moments of each class."""
        pairs = zip(self.ids.tolist(), self.vectors, strict=True)
        return {class_id: Moments(self.epoch, vector) for class_id, vector in pairs}


def read_device_means(
    connection: Connection, network: str, group: str, mean0: F64, half_life_s: float
) -> dict[Population, DeviceMeans]:
    """The means in the open buckets of one device group, or of all groups."""
    # All groups, for a device may have used another one in the bucket before.
    rows = connection.execute(_WITH_LEVELS, {"network": network}).all()
    damping = _damping(rows, half_life_s)
    if group != ALL_GROUPS:
        rows = [row for row in rows if row.device_group == group]
    return _means_of(rows, damping, mean0, half_life_s)


def write_device_sums(
    connection: Connection,
    network: str,
    device_sums: Mapping[DeviceKey, DeviceSums],
    points: int,
    oldest_open: float,
) -> None:
    """Add sums to the rows of open buckets. Sums of closed buckets go to ``oldest_open``."""
    table = tables.device_bucket
    places: dict[tuple[int, str, int], dict[str, DeviceSums]] = {}
    for key, sums in sorted(device_sums.items(), key=lambda item: item[0]):
        place = (int(max(key.bucket, oldest_open)), key.target, key.class_id)
        by_device = places.setdefault(place, {})
        before = by_device.get(key.device)
        by_device[key.device] = sums if before is None else before.merge(sums)
    if not places:
        return
    room = Room(connection, table, network, MAX_DEVICE_ROWS)
    rows: list[dict[str, Any]] = []
    for (bucket, target), group in groupby(sorted(places), key=lambda place: place[:2]):
        columns = {"network": network, "bucket": bucket, "target": target}
        for ids in chunks([class_id for _, _, class_id in group]):
            stored = _read_sums(connection, columns, ids, points)
            for class_id in ids:
                fresh = places[bucket, target, class_id]
                changed = _merge(stored.get(class_id, {}), fresh, room)
                rows += _rows({**columns, "class_id": class_id}, changed)
    upsert(connection, table, rows)


def close_buckets(  # noqa: PLR0917
    connection: Connection,
    network: str,
    mean0: F64,
    half_life_s: float,
    newest: float,
    horizon: float,
) -> dict[Population, DeviceMeans]:
    """Delete the rows of the buckets that are no longer open, and return their means.

    ``newest``: the time of the newest observation. ``horizon``: the time from which the age of the
    devices in sketches counts.
    """
    table = tables.device_bucket
    is_closed = sa.and_(
        table.c.network == network, table.c.bucket < oldest_open_bucket(newest, half_life_s)
    )
    rows = connection.execute(_WITH_LEVELS.where(is_closed), {"network": network}).all()
    damping = _damping(rows, half_life_s)
    means = _means_of(rows, damping, mean0, half_life_s)
    if means:
        connection.execute(table.delete().where(is_closed))
        write_levels(connection, network, damping.levels, newest, half_life_s)
        _write_sketches(connection, network, means, horizon - KEEP_HALF_LIVES * half_life_s)
    return means


class DeviceSets(NamedTuple):
    """Of each class of a population: how many of its observations are device means, of whom.

    Attributes:
        means: the number of means by class id.
        sketches: sketches of their devices by class id.
    """

    means: dict[int, int]
    sketches: dict[int, list[DeviceSketch]]


def read_device_sets(
    connection: Connection,
    network: str,
    group: str,
    open_means: Mapping[Population, DeviceMeans],
) -> dict[Population, DeviceSets]:
    """The devices behind the rows of each population, with those of open buckets."""
    table = tables.device_sketch
    sets: dict[Population, DeviceSets] = {}
    for row in connection.execute(sa.select(table).where(in_group(table, network, group))):
        devices = sets.setdefault(population_of(row), DeviceSets({}, {}))
        devices.means[row.class_id] = row.means
        devices.sketches[row.class_id] = [sketch_from_bytes(row.sketch)]
    for population, means in open_means.items():
        devices = sets.setdefault(population, DeviceSets({}, {}))
        numbers = means.vectors[:, 0].tolist()
        for class_id, number, sketch in zip(
            means.ids.tolist(), numbers, means.sketches, strict=True
        ):
            devices.means[class_id] = devices.means.get(class_id, 0) + int(number)
            devices.sketches.setdefault(class_id, []).append(sketch)
    return sets


# ------------------------------------------------------------------------------------------- means


def _damping(rows: Iterable[Row[Any]], half_life_s: float) -> Damping:
    try:
        return Damping(((hour_key(row), row.bucket, row.level) for row in rows), half_life_s)
    except TypeError as error:
        raise StoreError(f"device means: expected buckets in seconds, got {error}") from error


def _means_of(
    rows: Iterable[Row[Any]], damping: Damping, mean0: F64, half_life_s: float
) -> dict[Population, DeviceMeans]:
    """The mean of each row, as an observation at the begin of its bucket. Raises StoreError.

    Rows are added in a fixed order, so that equal contents give equal sums to the last bit.
    """
    keyed = [
        _MeanRow(
            population_of(row),
            row.class_id,
            row.bucket,
            row.device,
            row.sums,
            damping.factor(hour_key(row), row.bucket),
        )
        for row in rows
    ]
    keyed.sort(key=lambda row: row[:4])
    return {
        population: _population_means(list(group), mean0, half_life_s)
        for population, group in groupby(keyed, key=lambda row: row.population)
    }


class _MeanRow(NamedTuple):
    population: Population
    class_id: int
    bucket: int
    device: str
    sums: bytes
    factor: float


def _population_means(rows: list[_MeanRow], mean0: F64, half_life_s: float) -> DeviceMeans:
    """The means of the rows of one population, sorted by class."""
    points = len(mean0)
    _, classes, buckets, devices, raws, factors = zip(*rows, strict=True)
    if any(len(raw) != 16 * points for raw in raws):
        raise StoreError(f"device means: expected {16 * points} bytes ({points} points) in each")
    sums = np.frombuffer(b"".join(raws), "<f8").astype(np.float64).reshape(-1, 2, points)
    number = sums[:, 0]
    total = sums[:, 1]
    deviation = np.where(number > 0, total / np.maximum(number, 1.0) - mean0, 0.0)
    landmarks = {bucket: landmark(bucket, half_life_s) for bucket in set(buckets)}
    epoch = max(bucket_epoch for bucket_epoch, _ in landmarks.values())
    weight_of = {
        bucket: rescale(weight, bucket_epoch, epoch)
        for bucket, (bucket_epoch, weight) in landmarks.items()
    }
    weight = np.array([weight_of[bucket] for bucket in buckets]) * np.array(factors)
    weighted = weight[:, None] * deviation
    scalars = np.stack([np.ones(len(rows)), weight, weight * weight], axis=1)
    vectors = np.concatenate([scalars, weighted, weighted * deviation], axis=1)
    ids, first = np.unique(np.array(classes, np.int64), return_index=True)
    ends = [*first[1:].tolist(), len(rows)]
    sketches = tuple(
        sketch_of(zip(devices[begin:end], buckets[begin:end], strict=True))
        for begin, end in zip(first.tolist(), ends, strict=True)
    )
    return DeviceMeans(epoch, ids, np.add.reduceat(vectors, first, axis=0), sketches)


# -------------------------------------------------------------------------------------------- rows


def _read_sums(
    connection: Connection, columns: dict[str, Any], ids: Sequence[int], points: int
) -> dict[int, dict[str, DeviceSums]]:
    """The stored sums by class and device."""
    table = tables.device_bucket
    query = rows_by(table, *columns, among="class_id")
    stored: dict[int, dict[str, DeviceSums]] = {}
    for row in connection.execute(query, {**columns, "among": ids}):
        sums = DeviceSums.from_bytes(row.sums, points, row.device_group, row.source, row.start)
        stored.setdefault(row.class_id, {})[row.device] = sums
    return stored


def _merge(
    stored: dict[str, DeviceSums], fresh: dict[str, DeviceSums], room: Room
) -> dict[str, DeviceSums]:
    """The rows of one class in one bucket that change."""
    changed: dict[str, DeviceSums] = {}
    number = len(stored)
    for device, sums in fresh.items():
        name = device
        if device not in stored and (number >= MAX_DEVICES or room.left <= 0):
            name = OTHER_DEVICE
        before = changed.get(name, stored.get(name))
        if before is None:
            number += 1
            room.left -= 1
        changed[name] = sums if before is None else before.merge(sums)
    return changed


def _rows(columns: dict[str, Any], by_device: dict[str, DeviceSums]) -> list[dict[str, Any]]:
    return [
        {
            **columns,
            "device": device,
            "device_group": sums.group,
            "source": sums.source,
            "start": sums.start,
            "sums": sums.to_bytes(),
        }
        for device, sums in by_device.items()
    ]


def _write_sketches(
    connection: Connection, network: str, means: dict[Population, DeviceMeans], not_before: float
) -> None:
    """Add the devices of closed buckets to their sketches, and forget old devices."""
    table = tables.device_sketch
    rows = []
    for population, closed in means.items():
        columns = population_columns(network, population)
        for indices in chunks(range(len(closed.ids))):
            ids = [int(closed.ids[index]) for index in indices]
            query = rows_by(table, *columns, among="class_id")
            found = connection.execute(query, {**columns, "among": ids})
            stored = {row.class_id: row for row in found}
            for index, class_id in zip(indices, ids, strict=True):
                number = int(closed.vectors[index, 0])
                sketches = [closed.sketches[index]]
                if class_id in stored:
                    number += stored[class_id].means
                    sketches.append(sketch_from_bytes(stored[class_id].sketch))
                sketch = merge_sketches(sketches, not_before=not_before).tobytes()
                rows.append({**columns, "class_id": class_id, "means": number, "sketch": sketch})
    upsert(connection, table, rows)
