"""Importance rows: moments by population and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy import Connection

from ...advice import ALL_GROUPS
from ...errors import StoreError
from ..aggregates.keys import Population
from ..aggregates.moments import F64, HEADER, Moments, rescale_rows, shift_from
from . import tables
from .device import DeviceMeans
from .sql import chunks, equals, in_group, population_columns, upsert


class ClassSums:
    """The sums of all classes of one population, relative to one landmark.

    Attributes:
        ids: (K,) class ids, sorted.
        vectors: (K, 3 + 2 P) vectors of :class:`.moments.Moments`.
    """

    def __init__(self, points: int, epoch: int) -> None:
        self._epoch = epoch
        self.ids: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.vectors: F64 = np.zeros((0, HEADER + 2 * points))

    def add(self, ids: npt.NDArray[np.int64], vectors: F64, epochs: npt.NDArray[np.int64]) -> None:
        """Add vectors (K, 3 + 2 P) of distinct classes, with the landmarks ``epochs`` (K,)."""
        vectors = rescale_rows(vectors, epochs, self._epoch)
        if not len(self.ids):
            self.ids = ids
            self.vectors = vectors
            return
        all_ids = np.union1d(self.ids, ids)
        sums = np.zeros((len(all_ids), vectors.shape[1]))
        sums[np.searchsorted(all_ids, self.ids)] += self.vectors
        sums[np.searchsorted(all_ids, ids)] += vectors
        self.ids = all_ids
        self.vectors = sums


def write_moments(
    connection: Connection, network: str, moments: Mapping[tuple[Population, int], Moments]
) -> None:
    """Add moments, by population and class, to their rows."""
    table = tables.importance
    populations: dict[Population, dict[int, Moments]] = {}
    for (population, class_id), more in moments.items():
        populations.setdefault(population, {})[class_id] = more
    rows: list[dict[str, Any]] = []
    for population, by_class in populations.items():
        columns = population_columns(network, population)
        for ids in chunks(sorted(by_class)):
            condition = sa.and_(equals(table, columns), table.c.class_id.in_(ids))
            for row in connection.execute(sa.select(table).where(condition)):
                points = by_class[row.class_id].points
                stored = Moments.from_bytes(row.moments, row.epoch, points)
                by_class[row.class_id] = stored.merge(by_class[row.class_id])
        rows += _rows(columns, by_class)
    upsert(connection, table, rows)


def move_shift(connection: Connection, network: str, old: F64, new: F64) -> None:
    """Change all moments of a network from the shift ``old`` to the shift ``new``."""
    table = tables.importance
    for population in _read_populations(connection, network, ALL_GROUPS):
        columns = population_columns(network, population)
        by = shift_from(population.start, new - old)
        moved = {
            row.class_id: Moments.from_bytes(row.moments, row.epoch, len(old)).shifted(by)
            for row in connection.execute(sa.select(table).where(equals(table, columns)))
        }
        upsert(connection, table, _rows(columns, moved))


def read_sums(  # noqa: PLR0917
    connection: Connection,
    network: str,
    group: str,
    epoch: int,
    points: int,
    device_means: Mapping[Population, DeviceMeans],
) -> dict[Population, ClassSums]:
    """The sums of each population, with the means of open buckets, relative to ``epoch``.

    Populations come in a fixed order, so that equal contents give equal sums to the last bit.
    """
    sums = {
        population: _read_population(connection, network, population, points, epoch)
        for population in _read_populations(connection, network, group)
    }
    for population, means in device_means.items():
        epochs = np.full(len(means.ids), means.epoch)
        classes = sums.setdefault(population, ClassSums(points, epoch))
        classes.add(means.ids, means.vectors, epochs)
    return sums


def _read_populations(connection: Connection, network: str, group: str) -> list[Population]:
    table = tables.importance
    key = (table.c.device_group, table.c.source, table.c.target, table.c.start)
    query = sa.select(*key).distinct().where(in_group(table, network, group)).order_by(*key)
    return [Population(*row) for row in connection.execute(query)]


def _read_population(
    connection: Connection, network: str, population: Population, points: int, epoch: int
) -> ClassSums:
    table = tables.importance
    query = sa.select(table.c.class_id, table.c.epoch, table.c.moments)
    query = query.where(equals(table, population_columns(network, population)))
    rows = connection.execute(query.order_by(table.c.class_id)).all()
    ids, epochs, raws = zip(*rows, strict=True)
    sums = ClassSums(points, epoch)
    sums.add(np.array(ids, np.int64), _vectors(raws, points), np.array(epochs, np.int64))
    return sums


def _vectors(raws: Sequence[bytes], points: int) -> F64:
    width = HEADER + 2 * points
    if any(len(raw) != 8 * width for raw in raws):
        raise StoreError(f"importance rows: expected {8 * width} bytes ({points} points) in each")
    vectors = np.frombuffer(b"".join(raws), "<f8").reshape(len(raws), width)
    return vectors.astype(np.float64, copy=False)


def _rows(columns: dict[str, Any], by_class: Mapping[int, Moments]) -> list[dict[str, Any]]:
    return [
        {**columns, "class_id": class_id, "epoch": sums.epoch, "moments": sums.to_bytes()}
        for class_id, sums in by_class.items()
    ]
