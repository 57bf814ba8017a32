"""Importance rows: moments by population and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ...advice import ALL_GROUPS
from ...errors import StoreError
from ..aggregates.keys import Population
from ..aggregates.moments import F64, HEADER, Moments, rescale_rows, shift_from
from . import tables
from .device import DeviceMeans
from .revisions import read_revision
from .sql import chunks, population_columns, population_of, rows_by, upsert

_CHANGED: Final = sa.select(tables.importance).where(
    tables.importance.c.network == sa.bindparam("network"),
    tables.importance.c.revision > sa.bindparam("since"),
)


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
    connection: Connection,
    network: str,
    moments: Mapping[tuple[Population, int], Moments],
    revision: int,
) -> None:
    """Add moments, by population and class, to their rows.

    ``revision``: that of the transaction.
    """
    table = tables.importance
    populations: dict[Population, dict[int, Moments]] = {}
    for (population, class_id), more in moments.items():
        populations.setdefault(population, {})[class_id] = more
    rows: list[dict[str, Any]] = []
    for population, by_class in populations.items():
        columns = population_columns(network, population)
        for ids in chunks(sorted(by_class)):
            query = rows_by(table, *columns, among="class_id")
            for row in connection.execute(query, {**columns, "among": ids}):
                points = by_class[row.class_id].points
                stored = Moments.from_bytes(row.moments, row.epoch, points)
                by_class[row.class_id] = stored.merge(by_class[row.class_id])
        rows += _rows(columns, by_class, revision)
    upsert(connection, table, rows)


def move_shift(connection: Connection, network: str, old: F64, new: F64) -> None:
    """Change all moments of a network from the shift ``old`` to the shift ``new``."""
    table = tables.importance
    key = (table.c.device_group, table.c.source, table.c.target, table.c.start)
    query = sa.select(*key).distinct().where(table.c.network == network)
    revision = read_revision(connection)
    for population in [Population(*row) for row in connection.execute(query)]:
        columns = population_columns(network, population)
        by = shift_from(population.start, new - old)
        moved = {
            row.class_id: Moments.from_bytes(row.moments, row.epoch, len(old)).shifted(by)
            for row in connection.execute(rows_by(table, *columns), columns)
        }
        upsert(connection, table, _rows(columns, moved, revision))


class ImportanceTable:
    """The importance rows of a network as arrays, brought up to date row by row.

    Parameters:
        points: the number of points of the network.

    Attributes:
        populations: the rows of each population.
    """

    def __init__(self, points: int) -> None:
        self._points = points
        self.populations: dict[Population, PopulationRows] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(rows.vectors.nbytes for rows in self.populations.values())

    def update(self, connection: Connection, network: str, since: int) -> None:
        """Read the rows that changed after the revision ``since``. Raises StoreError."""
        changed: dict[Population, list[Row[Any]]] = {}
        for row in connection.execute(_CHANGED, {"network": network, "since": since}):
            changed.setdefault(population_of(row), []).append(row)
        for population, rows in changed.items():
            rows.sort(key=lambda row: row.class_id)
            fresh = PopulationRows(
                np.array([row.class_id for row in rows], np.int64),
                np.array([row.epoch for row in rows], np.int64),
                _vectors([row.moments for row in rows], self._points),
            )
            before = self.populations.get(population)
            self.populations[population] = fresh if before is None else before.updated(fresh)

    def sums(
        self, group: str, epoch: int, device_means: Mapping[Population, DeviceMeans]
    ) -> dict[Population, ClassSums]:
        """The sums of each population of a group or of all, with the means of open buckets.

        They are relative to the landmark ``epoch``. Populations come in a fixed order, so that
        equal contents give equal sums to the last bit.
        """
        sums: dict[Population, ClassSums] = {}
        for population, rows in sorted(self.populations.items()):
            if group in (ALL_GROUPS, population.group):
                sums[population] = ClassSums(self._points, epoch)
                sums[population].add(rows.ids, rows.vectors, rows.epochs)
        for population, means in device_means.items():
            epochs = np.full(len(means.ids), means.epoch)
            classes = sums.setdefault(population, ClassSums(self._points, epoch))
            classes.add(means.ids, means.vectors, epochs)
        return sums


class PopulationRows(NamedTuple):
    """The rows of one population.

    Attributes:
        ids: (K,) class ids, sorted.
        epochs: (K,) landmarks.
        vectors: (K, 3 + 2 P) vectors of :class:`.moments.Moments`.
    """

    ids: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    vectors: F64

    def updated(self, fresh: PopulationRows) -> PopulationRows:
        """These rows, with those in ``fresh`` in their places. May change this object."""
        at = np.searchsorted(self.ids, fresh.ids)
        if at[-1] < len(self.ids) and np.array_equal(self.ids[at], fresh.ids):
            self.epochs[at] = fresh.epochs
            self.vectors[at] = fresh.vectors
            return self
        ids = np.union1d(self.ids, fresh.ids)
        epochs = np.empty(len(ids), np.int64)
        vectors = np.empty((len(ids), self.vectors.shape[1]))
        for rows in (self, fresh):
            at = np.searchsorted(ids, rows.ids)
            epochs[at] = rows.epochs
            vectors[at] = rows.vectors
        return PopulationRows(ids, epochs, vectors)


def _vectors(raws: Sequence[bytes], points: int) -> F64:
    width = HEADER + 2 * points
    if any(len(raw) != 8 * width for raw in raws):
        raise StoreError(f"importance rows: expected {8 * width} bytes ({points} points) in each")
    return np.frombuffer(b"".join(raws), "<f8").reshape(len(raws), width).astype(np.float64)


def _rows(
    columns: dict[str, Any], by_class: Mapping[int, Moments], revision: int
) -> list[dict[str, Any]]:
    return [
        {
            **columns,
            "class_id": class_id,
            "epoch": sums.epoch,
            "moments": sums.to_bytes(),
            "revision": revision,
        }
        for class_id, sums in by_class.items()
    ]
