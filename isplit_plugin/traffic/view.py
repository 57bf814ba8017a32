"""Reading: the rows of one network, added over device groups and starts, as the value that the advice works on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy import Connection

from ..advice.anytime import median_ranks
from ..advice.live import ALL_GROUPS, ClassSeen, ImportanceRows, LiveView, OutcomeRow, ServedRow, Times
from . import tables
from .delta import TIMES, Population
from .devices import Seen, count_seen, merge_seen, seen_from_bytes
from .flush import KEEP_HOURS_S, mean0_of
from .histogram import Histogram, unpack_sum
from .moments import F64, Products, landmark, rescale_rows, shift_of, within_classes
from .staging import Means, columns_of, read_means

_HEADER: Final = 3
WHOLE_CURVES: Final = ("input", "probe")


class _Rows:
    """All classes of one population: ids (K,), vectors (K, 3 + 2 P) relative to one landmark."""

    def __init__(
        self, ids: Sequence[int], epochs: Sequence[int], raws: Sequence[bytes], points: int, epoch: int
    ) -> None:
        width = _HEADER + 2 * points
        if any(len(raw) != 8 * width for raw in raws):
            raise ValueError(f"importance rows of {points} points have {8 * width} bytes each, some have not")
        self.ids = np.array(ids, np.int64)
        vectors = np.frombuffer(b"".join(raws), "<f8").reshape(len(ids), width).astype(np.float64, copy=False)
        self.vectors = rescale_rows(vectors, np.array(epochs, np.int64), epoch)

    def add(self, means: Means, epoch: int) -> None:
        """Add the open means of devices."""
        fresh = rescale_rows(means.vectors, np.full(len(means.ids), means.epoch), epoch)
        ids = np.union1d(self.ids, means.ids)
        vectors = np.zeros((len(ids), fresh.shape[1]))
        for known, rows in ((self.ids, self.vectors), (means.ids, fresh)):
            vectors[np.searchsorted(ids, known)] += rows
        self.ids, self.vectors = ids, vectors


def read_view(connection: Connection, network: str, group: str | None, half_life_s: float) -> LiveView:
    """The live view of ``network`` for one device group, or for all (``None`` or "all").

    Weights are told relative to the newest observation, which therefore weighs 1.
    """
    shown = group or ALL_GROUPS
    progress = connection.execute(sa.select(tables.progress).where(tables.progress.c.network == network)).first()
    if progress is None or progress.as_of is None:
        return LiveView.empty(shown, 0 if progress is None else progress.revision)
    epoch, unit = landmark(progress.as_of, half_life_s)
    mean0 = mean0_of(connection, network)
    points = len(mean0)
    means = read_means(connection, network, None if shown == ALL_GROUPS else shown, mean0, half_life_s)
    populations = _add_means(_populations(connection, network, shown, points, epoch), means, points, epoch)
    products = _products(connection, network, shown, points, means)
    comoment, dof = _whole_curves(populations, products, epoch)
    devices = _devices(connection, network, shown, means)
    outcomes, seen = _outcomes(connection, network, shown, epoch, unit)
    served = _served(connection, network, shown, progress.as_of)
    return LiveView(
        importance=_importance(populations, points, unit, devices),
        served=served,
        outcomes=outcomes,
        class_seen=seen,
        comoment=None if comoment is None else comoment / unit,
        comoment_dof=dof / unit,
        revision=progress.revision,
        as_of=progress.as_of,
        observations=int(sum(row.requests for row in served)),
        group=shown,
    )


def read_pairs(connection: Connection, network: str, group: str | None, half_life_s: float) -> tuple[F64, F64]:
    """The pooled within-class sums of products of all populations, and their degrees of freedom, both (P, P).

    Entry (p, q) rests on every observation that knows both points, split traffic included; the quotient is the pooled
    within-class covariance of the two. Degrees of freedom are told in observations of the age of the newest one.
    """
    shown = group or ALL_GROUPS
    mean0 = mean0_of(connection, network)
    points = len(mean0)
    within, dof = np.zeros((points, points)), np.zeros((points, points))
    progress = connection.execute(sa.select(tables.progress).where(tables.progress.c.network == network)).first()
    if progress is None or progress.as_of is None:
        return within, dof
    epoch, unit = landmark(progress.as_of, half_life_s)
    means = read_means(connection, network, None if shown == ALL_GROUPS else shown, mean0, half_life_s)
    populations = _add_means(_populations(connection, network, shown, points, epoch), means, points, epoch)
    for population, products in _products(connection, network, shown, points, means).items():
        if population in populations:
            one, freedom = _within(products.at_epoch(epoch), populations[population], points)
            within += one
            dof[population.start :, population.start :] += freedom
    return within / unit, dof / unit


def _populations(connection: Connection, network: str, group: str, points: int, epoch: int) -> dict[Population, _Rows]:
    known = tables.comoment  # a population has one row there, and one for each of its classes in the other table
    keys = sa.select(known.c.device_group, known.c.source, known.c.target, known.c.start)
    found = {}
    for key in connection.execute(keys.where(*_mine(known, network, group))).all():
        population = Population(*key)
        table = tables.importance
        query = sa.select(table.c.class_id, table.c.epoch, table.c.moments).where(table.c.network == network)
        query = query.where(*(table.c[name] == value for name, value in columns_of(population).items()))
        rows = connection.execute(query.order_by(table.c.class_id)).all()
        ids, epochs, raws = zip(*rows, strict=True) if rows else ((), (), ())
        found[population] = _Rows(ids, epochs, raws, points, epoch)
    return found


def _add_means(
    populations: dict[Population, _Rows], means: Mapping[Population, Means], points: int, epoch: int
) -> dict[Population, _Rows]:
    for population, mean in means.items():
        populations.setdefault(population, _Rows((), (), (), points, epoch)).add(mean, epoch)
    return populations


def _importance(
    populations: dict[Population, _Rows], points: int, unit: float, devices: Mapping[Population, _Devices]
) -> tuple[ImportanceRows, ...]:
    kinds: dict[tuple[str, str], list[tuple[int, _Rows]]] = {}
    for population, rows in populations.items():
        kinds.setdefault((population.source, population.target), []).append((population.start, rows))
    found = []
    for (source, target), parts in sorted(kinds.items()):
        ids: npt.NDArray[np.int64] = np.unique(np.concatenate([rows.ids for _, rows in parts]))
        count, weight, weight2, sum1, sum2 = (np.zeros((len(ids), points)) for _ in range(5))
        for start, rows in parts:
            at = np.searchsorted(ids, rows.ids)  # ids of one part are unique: += adds each once
            v = rows.vectors
            count[at, start:] += v[:, 0, None]
            weight[at, start:] += v[:, 1, None] / unit
            weight2[at, start:] += v[:, 2, None] / unit**2
            sum1[at] += v[:, _HEADER : _HEADER + points] / unit
            sum2[at] += v[:, _HEADER + points :] / unit
        mine = [known for p, known in sorted(devices.items()) if (p.source, p.target) == (source, target)]
        sums = (count, weight, weight2, sum1, sum2)
        distinct = _distinct(mine, ids, count) if mine else None
        found.append(ImportanceRows(source, target, ids, *sums, devices=distinct))  # type: ignore[arg-type]
    return tuple(found)


class _Devices(NamedTuple):
    """Of each class of one population: how many of its observations are means of devices, and of which devices."""

    start: int
    means: dict[int, int]
    seen: dict[int, list[Seen]]


def _devices(
    connection: Connection, network: str, group: str, means: Mapping[Population, Means]
) -> dict[Population, _Devices]:
    found: dict[Population, _Devices] = {}
    table = tables.device_seen
    for row in connection.execute(sa.select(table).where(*_mine(table, network, group))):
        population = Population(row.device_group, row.source, row.target, row.start)
        known = found.setdefault(population, _Devices(row.start, {}, {}))
        known.means[row.class_id] = row.means
        known.seen[row.class_id] = [seen_from_bytes(row.seen)]
    for population, mean in means.items():
        known = found.setdefault(population, _Devices(population.start, {}, {}))
        for class_id, number, seen in zip(mean.ids.tolist(), mean.vectors[:, 0].tolist(), mean.seen, strict=True):
            known.means[class_id] = known.means.get(class_id, 0) + int(number)
            known.seen.setdefault(class_id, []).append(seen)
    return found


def _distinct(parts: Sequence[_Devices], ids: npt.NDArray[np.int64], count: F64) -> F64:
    """Distinct devices behind each class and point, (K, P); what counts by itself, as one each."""
    found = count.copy()
    for row, class_id in enumerate(ids.tolist()):
        mine = sorted((part for part in parts if class_id in part.means), key=lambda part: part.start)
        seen: list[Seen] = []
        before = 0.0
        for start, some in groupby(mine, key=lambda part: part.start):
            for part in some:
                found[row, start:] -= part.means[class_id]
                seen += part.seen[class_id]
            seen = [seen[0] if len(seen) == 1 else merge_seen(seen)]
            now = count_seen(seen[0])
            found[row, start:] += now - before
            before = now
    return found


def _whole_curves(
    populations: dict[Population, _Rows], products: Mapping[Population, Products], epoch: int
) -> tuple[F64 | None, float]:
    whole = {p: rows for p, rows in populations.items() if p.start == 0 and p.source in WHOLE_CURVES}
    if not whole:
        return None, 0.0
    points = (next(iter(whole.values())).vectors.shape[1] - _HEADER) // 2
    comoment, dof = np.zeros((points, points)), 0.0
    for population, found in products.items():
        if population in whole:
            one, freedom = _within(found.at_epoch(epoch), whole[population], points)
            comoment, dof = comoment + one, dof + freedom
    return comoment, dof


def _products(
    connection: Connection, network: str, group: str, points: int, means: Mapping[Population, Means]
) -> dict[Population, Products]:
    table = tables.comoment
    found = {}
    for row in connection.execute(sa.select(table).where(*_mine(table, network, group))):
        population = Population(row.device_group, row.source, row.target, row.start)
        found[population] = Products.from_bytes(row.products, row.epoch, points)
    for population, mean in means.items():
        fresh = Products(mean.epoch, mean.products)
        found[population] = found[population].merge(fresh) if population in found else fresh
    return found


def _within(products: Products, rows: _Rows, points: int) -> tuple[F64, float]:
    v = rows.vectors
    return within_classes(products, v[:, 1], v[:, 2], v[:, _HEADER : _HEADER + points])


def _served(connection: Connection, network: str, group: str, as_of: float) -> tuple[ServedRow, ...]:
    table = tables.served
    kinds: dict[tuple[str, str, str], list[sa.Row[Any]]] = {}
    for row in connection.execute(sa.select(table).where(*_mine(table, network, group))):
        kinds.setdefault((row.split_point, row.variant, row.device_group), []).append(row)
    found = []
    for key, rows in sorted(kinds.items()):
        recent = [row.times for row in rows if row.bucket >= as_of - KEEP_HOURS_S]
        times = unpack_sum(recent or [row.times for row in rows], len(TIMES))
        if len(recent) < len(rows) and not all(histogram.counts for histogram in times):
            ever = unpack_sum([row.times for row in rows], len(TIMES))  # for what nobody reported lately
            times = [now if now.counts else before for now, before in zip(times, ever, strict=True)]
        head, encode, uplink, decode, tail = map(_times, times)
        found.append(
            ServedRow(
                *key,
                requests=float(sum(row.requests for row in rows)),
                errors=float(sum(row.errors for row in rows)),
                bytes=float(sum(row.bytes for row in rows)),
                head=head,
                encode=encode,
                decode=decode,
                tail=tail,
                uplink=uplink,
            )
        )
    return tuple(found)


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


def _outcomes(
    connection: Connection, network: str, group: str, epoch: int, unit: float
) -> tuple[tuple[OutcomeRow, ...], ClassSeen]:
    table = tables.outcome
    columns = (table.c.split_point, table.c.variant, table.c.class_id, table.c.epoch, table.c.number)
    query = sa.select(*columns, table.c.seen, table.c.labelled, table.c.correct).where(*_mine(table, network, group))
    rows = connection.execute(query).all()
    if not rows:
        return (), ClassSeen()
    points, variants, classes, epochs, number, *sums = zip(*rows, strict=True)
    told = np.ldexp(np.array(sums, np.float64), shift_of(epochs, epoch)) / unit
    choices = list(zip(points, variants, strict=True))
    names = sorted(set(choices))
    code = {name: i for i, name in enumerate(names)}
    keys = np.array([[code[choice] for choice in choices], classes], np.int64)
    places, at = np.unique(keys, axis=1, return_inverse=True)
    total = np.stack([np.bincount(at, weights=row) for row in told]).T.tolist()
    outcomes = tuple(
        OutcomeRow(names[n][0], names[n][1], c, *row) for (n, c), row in zip(places.T.tolist(), total, strict=True)
    )
    ids, which = np.unique(keys[1], return_inverse=True)
    weight = np.bincount(which, weights=told[0]).astype(np.float64)
    count = np.bincount(which, weights=np.array(number, np.float64)).astype(np.float64)
    return outcomes, ClassSeen(ids[count > 0], weight[count > 0], count[count > 0])


def _mine(table: sa.Table, network: str, group: str) -> list[sa.ColumnElement[bool]]:
    where = [table.c.network == network]
    return where if group == ALL_GROUPS else [*where, table.c.device_group == group]
