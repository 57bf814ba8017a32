"""The importance rows of one network, read and added over classes, with the open means of devices among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from ..advice.live_view import ALL_GROUPS
from . import tables
from .delta import Population
from .flush import mean0_of
from .moments import landmark, rescale_rows
from .staging import Means, columns_of, populations_of, read_means

HEADER: Final = 3


class Rows:
    """All classes of one population: ids (K,), vectors (K, 3 + 2 P) relative to one landmark."""

    def __init__(
        self,
        ids: Sequence[int],
        epochs: Sequence[int],
        raws: Sequence[bytes],
        points: int,
        epoch: int,
    ) -> None:
        width = HEADER + 2 * points
        if any(len(raw) != 8 * width for raw in raws):
            raise ValueError(
                f"importance rows of {points} points have {8 * width} bytes each, some have not"
            )
        self.ids = np.array(ids, np.int64)
        vectors = (
            np.frombuffer(b"".join(raws), "<f8")
            .reshape(len(ids), width)
            .astype(np.float64, copy=False)
        )
        self.vectors = rescale_rows(vectors, np.array(epochs, np.int64), epoch)

    def add(self, means: Means, epoch: int) -> None:
        """Add the open means of devices."""
        fresh = rescale_rows(means.vectors, np.full(len(means.ids), means.epoch), epoch)
        ids = np.union1d(self.ids, means.ids)
        vectors = np.zeros((len(ids), fresh.shape[1]))
        for known, rows in ((self.ids, self.vectors), (means.ids, fresh)):
            vectors[np.searchsorted(ids, known)] += rows
        self.ids, self.vectors = ids, vectors


class Sums(NamedTuple):
    """What a network's importance adds up to for one group: by population, relative to landmark ``epoch``."""

    points: int
    epoch: int
    unit: float  # the weight of the newest observation
    means: dict[Population, Means]
    populations: dict[Population, Rows]


def read_sums(
    connection: Connection, network: str, group: str, as_of: float, half_life_s: float
) -> Sums:
    """Read them. Raises StoreError where nobody put the network."""
    epoch, unit = landmark(as_of, half_life_s)
    mean0 = mean0_of(connection, network)
    points = len(mean0)
    means = read_means(
        connection, network, None if group == ALL_GROUPS else group, mean0, half_life_s
    )
    populations = _add_means(
        _populations(connection, network, group, points, epoch), means, points, epoch
    )
    return Sums(points, epoch, unit, means, populations)


def _populations(
    connection: Connection, network: str, group: str, points: int, epoch: int
) -> dict[Population, Rows]:
    found = {}
    for population in populations_of(connection, network, None if group == ALL_GROUPS else group):
        table = tables.importance
        query = sa.select(table.c.class_id, table.c.epoch, table.c.moments).where(
            table.c.network == network
        )
        query = query.where(
            *(table.c[name] == value for name, value in columns_of(population).items())
        )
        rows = connection.execute(query.order_by(table.c.class_id)).all()
        ids, epochs, raws = zip(*rows, strict=True) if rows else ((), (), ())
        found[population] = Rows(ids, epochs, raws, points, epoch)
    return found


def _add_means(
    populations: dict[Population, Rows], means: Mapping[Population, Means], points: int, epoch: int
) -> dict[Population, Rows]:
    for population, mean in means.items():
        populations.setdefault(population, Rows((), (), (), points, epoch)).add(mean, epoch)
    return populations


def rows_of(table: sa.Table, network: str, group: str) -> list[sa.ColumnElement[bool]]:
    """The condition for a network's rows of one device group, or of all."""
    where = [table.c.network == network]
    return where if group == ALL_GROUPS else [*where, table.c.device_group == group]
