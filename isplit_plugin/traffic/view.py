"""Reading: the rows of one network, added over device groups and starts, as the value that the advice works on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy import Connection

from ..advice import (
    ALL_GROUPS,
    ClassCounts,
    ImportanceRows,
    LiveView,
    OutcomeRow,
    ServedRow,
    Times,
    median_ranks,
)
from ..schema import Cut
from . import tables
from .database import cut_of, read_revision
from .delta import TIMES, Population
from .devices import Seen, count_seen, merge_seen, seen_from_bytes
from .flush import KEEP_HOURS_S
from .histogram import Histogram, unpack_sum
from .moments import F64, shift_of
from .staging import Means
from .sums import HEADER, Rows, read_sums, rows_of


def read_view(
    connection: Connection, network: str, group: str | None, half_life_s: float
) -> LiveView:
    """The live view of ``network`` for one device group, or for all (``None`` or "all").

    Weights are relative to the newest observation, which therefore weighs 1.
    """
    group = group or ALL_GROUPS
    revision = read_revision(connection)
    progress = _progress(connection, network)
    if progress is None or progress.as_of is None:
        return LiveView.empty(group, revision)
    sums = read_sums(connection, network, group, progress.as_of, half_life_s)
    devices = _devices(connection, network, group, sums.means)
    outcomes, class_counts = _outcomes(connection, network, group, sums.epoch, sums.unit)
    served = _served(connection, network, group, progress.as_of)
    return LiveView(
        importance=_importance(sums.populations, sums.points, sums.unit, devices),
        served=served,
        outcomes=outcomes,
        class_counts=class_counts,
        revision=revision,
        as_of=progress.as_of,
        observations=int(sum(row.requests for row in served)),
        group=group,
    )


def _progress(connection: Connection, network: str) -> sa.Row[Any] | None:
    return connection.execute(
        sa.select(tables.progress).where(tables.progress.c.network == network)
    ).first()


def _importance(
    populations: dict[Population, Rows],
    points: int,
    unit: float,
    devices: Mapping[Population, _Devices],
) -> tuple[ImportanceRows, ...]:
    kinds: dict[tuple[str, str], list[tuple[int, Rows]]] = {}
    for population, rows in populations.items():
        kinds.setdefault((population.source, population.target), []).append(
            (population.start, rows)
        )
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
            sum1[at] += v[:, HEADER : HEADER + points] / unit
            sum2[at] += v[:, HEADER + points :] / unit
        mine = [
            known
            for p, known in sorted(devices.items())
            if (p.source, p.target) == (source, target)
        ]
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
    for row in connection.execute(sa.select(table).where(*rows_of(table, network, group))):
        population = Population(row.device_group, row.source, row.target, row.start)
        known = found.setdefault(population, _Devices(row.start, {}, {}))
        known.means[row.class_id] = row.means
        known.seen[row.class_id] = [seen_from_bytes(row.seen)]
    for population, mean in means.items():
        known = found.setdefault(population, _Devices(population.start, {}, {}))
        for class_id, number, seen in zip(
            mean.ids.tolist(), mean.vectors[:, 0].tolist(), mean.seen, strict=True
        ):
            known.means[class_id] = known.means.get(class_id, 0) + int(number)
            known.seen.setdefault(class_id, []).append(seen)
    return found


def _distinct(parts: Sequence[_Devices], ids: npt.NDArray[np.int64], count: F64) -> F64:
    """Distinct devices behind each class and point, (K, P); what counts by itself, as one each."""
    found = count.copy()
    for row, class_id in enumerate(ids.tolist()):
        mine = sorted(
            (part for part in parts if class_id in part.means), key=lambda part: part.start
        )
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


def _served(
    connection: Connection, network: str, group: str, as_of: float
) -> tuple[ServedRow, ...]:
    table = tables.served
    kinds: dict[tuple[Cut, str], list[sa.Row[Any]]] = {}
    query = sa.select(table).where(*rows_of(table, network, group)).order_by(*table.primary_key)
    for row in connection.execute(query):
        kinds.setdefault((cut_of(row), row.device_group), []).append(row)
    found = []
    for key, rows in sorted(kinds.items()):
        recent = [row.times for row in rows if row.bucket >= as_of - KEEP_HOURS_S]
        times = unpack_sum(recent or [row.times for row in rows], len(TIMES))
        if len(recent) < len(rows) and not all(histogram.counts for histogram in times):
            ever = unpack_sum(
                [row.times for row in rows], len(TIMES)
            )  # for what nobody reported lately
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
) -> tuple[tuple[OutcomeRow, ...], ClassCounts]:
    table = tables.outcome
    columns = (
        table.c.split_point,
        table.c.codec,
        table.c.class_id,
        table.c.epoch,
        table.c.number,
    )
    query = sa.select(*columns, table.c.predictions, table.c.labelled, table.c.correct).where(
        *rows_of(table, network, group)
    )
    rows = connection.execute(query.order_by(*table.primary_key)).all()
    if not rows:
        return (), ClassCounts()
    points, codecs, classes, epochs, number, *sums = zip(*rows, strict=True)
    told = np.ldexp(np.array(sums, np.float64), shift_of(epochs, epoch)) / unit
    choices = list(zip(points, codecs, strict=True))
    names = sorted(set(choices))
    code = {name: i for i, name in enumerate(names)}
    seen_ids = np.array(classes, np.int64)
    low = seen_ids.min()
    span = seen_ids.max() - low + 1
    # As one number: numpy's unique takes ten times as long for pairs.
    keys, at = np.unique(
        np.array([code[choice] for choice in choices]) * span + seen_ids - low, return_inverse=True
    )
    places = np.divmod(keys, span)
    total = [np.bincount(at, weights=row).tolist() for row in told]
    cut_of_name = [Cut.of(*name) for name in names]
    cuts = [cut_of_name[n] for n in places[0].tolist()]
    outcomes = tuple(map(OutcomeRow, cuts, (places[1] + low).tolist(), *total))
    ids, which = np.unique(seen_ids, return_inverse=True)
    weight = np.bincount(which, weights=told[0]).astype(np.float64)
    count = np.bincount(which, weights=np.array(number, np.float64)).astype(np.float64)
    return outcomes, ClassCounts(ids[count > 0], weight[count > 0], count[count > 0])
