"""Mending a store with times in the future, as a host with a wrong clock leaves them.

Times that are ahead of the store's clock become the time of that clock. Weights come from times and
were added up, so those of the future cannot be taken out again; but no observation weighs more
than one of now. The sums of every row are therefore scaled down until its weight is at most that
of its count. Rows without times in the future do not change.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from ..advice import StandingState
from .aggregates.counts import OUTCOME_SUMS, ServedCounts
from .aggregates.devices import (
    DeviceClassKey,
    DeviceKey,
    DeviceLabelKey,
    DeviceSums,
    LabelCounts,
    bucket_of,
)
from .aggregates.keys import HOUR_S, ServedKey
from .aggregates.moments import Moments, landmark, rescale
from .aggregates.sketch import merge_sketches, sketch_from_bytes
from .rows import tables
from .rows.clock import MAX_SKEW_S
from .rows.device import write_device_sums
from .rows.device_label import sound_labels, write_device_labels
from .rows.mix import write_votes
from .rows.revisions import note_change, read_progress, read_revision
from .rows.served import counts_of, write_served
from .rows.sql import cut_of, upsert

_TIMES: Final = (
    (tables.progress, "as_of"),
    (tables.model, "as_of"),
    (tables.served, "bucket"),
    (tables.device_bucket, "bucket"),
    (tables.device_label, "bucket"),
    (tables.request, "at"),
    (tables.ticket, "used_at"),
)
"""The tables of a network that hold times, and the column of each."""


def read_future(connection: Connection, now: float) -> dict[str, float]:
    """By network: how many seconds its newest time is ahead of ``now``. Others are missing."""
    newest: dict[str, float] = {}
    for table, column in _TIMES:
        times = sa.select(table.c.network, sa.func.max(table.c[column]))
        times = times.where(table.c[column] > now + MAX_SKEW_S).group_by(table.c.network)
        for network, time in connection.execute(times):
            newest[network] = max(newest.get(network, now), float(time))
    return {network: time - now for network, time in sorted(newest.items())}


def repair_network(
    connection: Connection, revision: int, network: str, now: float, half_life_s: float
) -> None:
    """Bring all times of a network that are ahead of ``now`` back to it."""
    points = connection.scalar(
        sa.select(tables.network.c.points).where(tables.network.c.network == network)
    )
    if points is not None:
        _limit_importance(connection, network, int(points), now, half_life_s)
        _move_device_buckets(connection, network, int(points), now, half_life_s)
    _limit_outcomes(connection, network, now, half_life_s)
    _move_labels(connection, network, now, half_life_s)
    _limit_mix(connection, network, now, half_life_s)
    _move_sketches(connection, network, now)
    _move_served(connection, network, now)
    moved = ((tables.model, "as_of"), (tables.request, "at"), (tables.ticket, "used_at"))
    for table, column in moved:
        ahead = sa.and_(table.c.network == network, table.c[column] > now)
        connection.execute(table.update().where(ahead).values({column: int(now)}))
    _move_picks(connection, network, now)
    before = read_progress(connection, network)
    times = {name: getattr(before, name) for name in ("as_of", "resumed", "horizon")}
    progress = before._replace(
        **{name: min(time, now) for name, time in times.items() if time is not None}
    )
    note_change(connection, network, revision, progress)


def _limit_importance(
    connection: Connection, network: str, points: int, now: float, half_life_s: float
) -> None:
    table = tables.importance
    revision = read_revision(connection)
    epoch, unit = landmark(now, half_life_s)
    rows = []
    for row in connection.execute(sa.select(table).where(table.c.network == network)):
        moments = Moments.from_bytes(row.moments, row.epoch, points)
        factor = _limit(moments.weight, row.epoch, moments.count * unit, epoch)
        if factor is not None:
            # With the factor first: the weights of the future may overflow at the landmark of now.
            vector = moments.vector * factor
            vector[0] = moments.count
            vector[2] = moments.weight2 * factor**2
            limited = Moments(epoch, vector)
            changed = {"epoch": epoch, "moments": limited.to_bytes(), "revision": revision}
            rows.append({**row._asdict(), **changed})
    upsert(connection, table, rows)


def _limit_outcomes(connection: Connection, network: str, now: float, half_life_s: float) -> None:
    table = tables.outcome
    revision = read_revision(connection)
    epoch, unit = landmark(now, half_life_s)
    rows = []
    for row in connection.execute(sa.select(table).where(table.c.network == network)):
        weight = max(row.predictions, row.labelled, row.weight)
        factor = _limit(weight, row.epoch, row.number * unit, epoch)
        if factor is not None:
            limited = {name: getattr(row, name) * factor for name in OUTCOME_SUMS}
            limited["weight2"] *= factor
            rows.append({**row._asdict(), "epoch": epoch, **limited, "revision": revision})
    upsert(connection, table, rows)


def _limit_mix(connection: Connection, network: str, now: float, half_life_s: float) -> None:
    """The votes of devices. Their number is not known, but no class has more than requests."""
    epoch, unit = landmark(now, half_life_s)
    table = tables.mix
    numbers = sa.select(
        tables.outcome.c.device_group,
        tables.outcome.c.class_id,
        sa.func.sum(tables.outcome.c.number),
    ).where(tables.outcome.c.network == network)
    keys = (tables.outcome.c.device_group, tables.outcome.c.class_id)
    most = {tuple(row[:2]): int(row[2]) for row in connection.execute(numbers.group_by(*keys))}
    rows = []
    for row in connection.execute(sa.select(table).where(table.c.network == network)):
        number = most.get((row.device_group, row.class_id), 0)
        factor = _limit(row.weight, row.epoch, number * unit, epoch)
        if factor is not None:
            weights = {"weight": row.weight * factor, "weight2": row.weight2 * factor**2}
            rows.append({**row._asdict(), "epoch": epoch, **weights})
    upsert(connection, table, rows)
    _move_votes(connection, network, now, half_life_s)
    hours = tables.device_hours
    ahead = sa.and_(hours.c.network == network, hours.c.level > now / half_life_s + 20)
    connection.execute(hours.delete().where(ahead))


def _move_votes(connection: Connection, network: str, now: float, half_life_s: float) -> None:
    table = tables.device_class
    newest = bucket_of(now, half_life_s)
    ahead = sa.and_(table.c.network == network, table.c.bucket > newest)
    votes: dict[DeviceClassKey, int] = {}
    for row in connection.execute(sa.select(table).where(ahead)):
        key = DeviceClassKey(newest, row.device, row.device_group, row.class_id)
        votes[key] = votes.get(key, 0) + row.number
    connection.execute(table.delete().where(ahead))
    write_votes(connection, network, votes, -math.inf)


def _move_labels(connection: Connection, network: str, now: float, half_life_s: float) -> None:
    table = tables.device_label
    newest = bucket_of(now, half_life_s)
    ahead = sa.and_(table.c.network == network, table.c.bucket > newest)
    labels: dict[DeviceLabelKey, LabelCounts] = {}
    for key, counts, _ in sound_labels(connection.execute(sa.select(table).where(ahead))):
        place = key._replace(bucket=newest)
        labels[place] = labels[place].plus(counts) if place in labels else counts
    connection.execute(table.delete().where(ahead))
    write_device_labels(connection, network, labels, -math.inf)


def _limit(weight: float, epoch: int, most: float, now_epoch: int) -> float | None:
    """The factor from a weight at ``epoch`` to one of at most ``most`` at ``now_epoch``.

    ``None`` where the weight stays as it is.
    """
    if epoch <= now_epoch and rescale(weight, epoch, now_epoch) <= most * (1 + 1e-9):
        return None
    if weight <= 0:
        return 0.0
    allowed = rescale(1.0, epoch, now_epoch) if epoch - now_epoch < 1000 else math.inf
    return min(most / weight, allowed)


def _move_device_buckets(
    connection: Connection, network: str, points: int, now: float, half_life_s: float
) -> None:
    table = tables.device_bucket
    newest = bucket_of(now, half_life_s)
    ahead = sa.and_(table.c.network == network, table.c.bucket > newest)
    sums: dict[DeviceKey, DeviceSums] = {}
    for row in connection.execute(sa.select(table).where(ahead)):
        key = DeviceKey(row.target, row.class_id, newest, row.device)
        more = DeviceSums.from_bytes(row.sums, points, row.device_group, row.source, row.start)
        sums[key] = sums[key].merge(more) if key in sums else more
    connection.execute(table.delete().where(ahead))
    write_device_sums(connection, network, sums, points, -math.inf)


def _move_sketches(connection: Connection, network: str, now: float) -> None:
    table = tables.device_sketch
    newest = int(now // HOUR_S)
    rows = []
    for row in connection.execute(sa.select(table).where(table.c.network == network)):
        sketch = sketch_from_bytes(row.sketch)
        if (sketch["hour"] > newest).any():
            moved = sketch.copy()
            moved["hour"] = np.minimum(sketch["hour"], newest)
            rows.append({**row._asdict(), "sketch": merge_sketches([moved]).tobytes()})
    upsert(connection, table, rows)


def _move_served(connection: Connection, network: str, now: float) -> None:
    table = tables.served
    newest = int(now // HOUR_S) * HOUR_S
    ahead = sa.and_(table.c.network == network, table.c.bucket > newest)
    served: dict[ServedKey, ServedCounts] = {}
    for row in connection.execute(sa.select(table).where(ahead)):
        key = ServedKey(cut_of(row), row.device_group, newest)
        served.setdefault(key, ServedCounts()).add(counts_of(row))
    connection.execute(table.delete().where(ahead))
    write_served(connection, network, served, None)


def _move_picks(connection: Connection, network: str, now: float) -> None:
    """The dwell time of a pick that changed in the future would not end."""
    standing = tables.standing
    rows = []
    for row in connection.execute(sa.select(standing).where(standing.c.network == network)):
        state = StandingState.from_json(row.state)
        since = None if state.since is None else min(state.since, now)
        moved = replace(state, origin=min(state.origin, now), since=since)
        rows.append({**row._asdict(), "state": moved.to_json()})
    upsert(connection, standing, rows)
