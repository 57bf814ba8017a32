"""Mix rows: the live mix of classes where devices are known, in which each device counts once.

The requests of a device within a bucket of time (:mod:`isplit_plugin.traffic.aggregates.devices`)
are one vote for the classes that were predicted, shared in proportion to its requests. A vote
weighs as the mean of a device does (:mod:`.device_hours`). Votes of open buckets lie in rows of
their own, and a view adds them in the same way as closing does. The rows are bounded as device
means are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ...advice import ALL_GROUPS
from ..aggregates.devices import OTHER_DEVICE, DeviceClassKey, oldest_open_bucket
from ..aggregates.moments import landmark, rescale
from . import tables
from .device_hours import MIX_TARGET, Damping, HourKey, with_levels, write_levels
from .sql import Room, chunks, in_group, rows_by, upsert

MAX_VOTE_ROWS: Final = 20_000
_WITH_LEVELS: Final = with_levels(tables.device_class, target=MIX_TARGET, class_id=-1)


class Share(NamedTuple):
    """What the votes for one class of one group weigh, relative to the landmark ``epoch``.

    ``weight2``: the sum over votes of the squared weight of the vote times its share in the class.
    """

    epoch: int
    weight: float
    weight2: float

    def at_epoch(self, epoch: int) -> Share:
        """The same votes relative to another landmark."""
        weight2 = rescale(rescale(self.weight2, self.epoch, epoch), self.epoch, epoch)
        return Share(epoch, rescale(self.weight, self.epoch, epoch), weight2)

    def plus(self, other: Share) -> Share:
        """The votes of both."""
        epoch = max(self.epoch, other.epoch)
        one, two = self.at_epoch(epoch), other.at_epoch(epoch)
        return Share(epoch, one.weight + two.weight, one.weight2 + two.weight2)


Shares = dict[tuple[str, int], Share]
"""By device group and class."""


def write_votes(
    connection: Connection,
    network: str,
    requests: Mapping[DeviceClassKey, int],
    oldest_open: float,
) -> None:
    """Add requests to the rows of open buckets. Those of closed ones go to ``oldest_open``."""
    if not requests:
        return
    table = tables.device_class
    counts: dict[DeviceClassKey, int] = {}
    for key, number in requests.items():
        place = key._replace(bucket=int(max(key.bucket, oldest_open)))
        counts[place] = counts.get(place, 0) + number
    stored = _read_numbers(connection, network, counts)
    room = Room(connection, table, network, MAX_VOTE_ROWS)
    changed: dict[DeviceClassKey, int] = {}
    for key, number in sorted(counts.items()):
        place = key
        if key not in stored:
            place = key if room.left > 0 else key._replace(device=OTHER_DEVICE)
            room.left -= 1
        changed[place] = changed.get(place, stored.get(place, 0)) + number
    rows = [
        {"network": network, **key._asdict(), "number": number} for key, number in changed.items()
    ]
    upsert(connection, table, rows)


def close_votes(connection: Connection, network: str, half_life_s: float, newest: float) -> None:
    """Add the votes of the buckets that are no longer open to the rows of the mix."""
    table = tables.device_class
    closed = sa.and_(
        table.c.network == network, table.c.bucket < oldest_open_bucket(newest, half_life_s)
    )
    query = _WITH_LEVELS.where(closed)
    rows = connection.execute(query, {"network": network}).all()
    if not rows:
        return
    connection.execute(table.delete().where(closed))
    damping = _damping(rows, half_life_s)
    write_mix(connection, network, _votes(rows, damping, half_life_s))
    write_levels(connection, network, damping.levels, newest, half_life_s)


def write_mix(connection: Connection, network: str, shares: Shares) -> None:
    """Add shares to the rows of the mix."""
    table = tables.mix
    stored = _read_mix(connection, table.c.network == network)
    rows = []
    for (group, class_id), share in shares.items():
        before = stored.get((group, class_id))
        total = share if before is None else before.plus(share)
        key = {"network": network, "device_group": group, "class_id": class_id}
        rows.append({**key, **total._asdict()})
    upsert(connection, table, rows)


def read_mix(
    connection: Connection, network: str, group: str, half_life_s: float
) -> dict[int, Share] | None:
    """The shares of the classes in the mix of a group or of all; ``None`` without devices."""
    closed = _read_mix(connection, in_group(tables.mix, network, group))
    rows = connection.execute(_WITH_LEVELS, {"network": network}).all()
    votes = _votes(rows, _damping(rows, half_life_s), half_life_s)
    shares: dict[int, Share] = {}
    for (device_group, class_id), share in [*sorted(closed.items()), *sorted(votes.items())]:
        if group in (ALL_GROUPS, device_group):
            before = shares.get(class_id)
            shares[class_id] = share if before is None else before.plus(share)
    return shares or None


def _read_mix(connection: Connection, where: sa.ColumnElement[bool]) -> Shares:
    rows = connection.execute(sa.select(tables.mix).where(where))
    return {
        (row.device_group, row.class_id): Share(row.epoch, row.weight, row.weight2) for row in rows
    }


def _damping(rows: Iterable[Row[Any]], half_life_s: float) -> Damping:
    return Damping(((_key(row), row.bucket, row.level) for row in rows), half_life_s)


def _key(row: Row[Any]) -> HourKey:
    return HourKey(MIX_TARGET, -1, row.device)


def _votes(rows: Iterable[Row[Any]], damping: Damping, half_life_s: float) -> Shares:
    """What the rows of open buckets weigh; in a fixed order, for equal sums to the last bit."""
    ordered = sorted(rows, key=lambda row: (row.bucket, row.device, row.device_group, row.class_id))
    totals: dict[tuple[str, int], int] = {}
    for row in ordered:
        place = (row.device, row.bucket)
        totals[place] = totals.get(place, 0) + row.number
    shares: Shares = {}
    for row in ordered:
        epoch, weight = landmark(row.bucket, half_life_s)
        vote = weight * damping.factor(_key(row), row.bucket)
        part = row.number / totals[row.device, row.bucket]
        share = Share(epoch, vote * part, vote**2 * part)
        place = (row.device_group, row.class_id)
        shares[place] = shares[place].plus(share) if place in shares else share
    return shares


def _read_numbers(
    connection: Connection, network: str, keys: Iterable[DeviceClassKey]
) -> dict[DeviceClassKey, int]:
    """The stored numbers of requests of the devices and buckets in ``keys``."""
    table = tables.device_class
    numbers: dict[DeviceClassKey, int] = {}
    devices: dict[int, set[str]] = {}
    for key in keys:
        devices.setdefault(key.bucket, {OTHER_DEVICE}).add(key.device)
    for bucket, names in devices.items():
        for chunk in chunks(sorted(names)):
            values = {"network": network, "bucket": bucket, "among": chunk}
            query = rows_by(table, "network", "bucket", among="device")
            for row in connection.execute(query, values):
                key = DeviceClassKey(row.bucket, row.device, row.device_group, row.class_id)
                numbers[key] = row.number
    return numbers
