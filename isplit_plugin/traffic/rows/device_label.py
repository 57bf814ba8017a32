"""Device labels: the labels of devices in open buckets, each device as one opinion.

What labels say within a bucket of time (:mod:`isplit_plugin.traffic.aggregates.devices`) of one
device at one cut, where one class was predicted, is one opinion: the share of correct labels. It
weighs as the mean of a device does, the less, the more buckets the device already has for that cut
and class (:mod:`.device_hours`). Where a device names several groups in a bucket, they share the
opinion in proportion to their labels.

Labels of open buckets lie in rows of their own. When a bucket closes, they are added to the weights
of the outcomes, and a view adds those of open buckets in the same way. Labels for a closed bucket
count in the oldest open one. The rows are bounded: above ``MAX_LABEL_ROWS`` of a network labels
belong to the device ``OTHER_DEVICE``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ...advice import ALL_GROUPS
from ...errors import StoreError
from ...schema import Cut
from ..aggregates.counts import OutcomeCounts
from ..aggregates.devices import OTHER_DEVICE, DeviceLabelKey, LabelCounts, oldest_open_bucket
from ..aggregates.keys import OutcomeKey
from ..aggregates.moments import landmark
from . import tables
from .device_hours import LABEL_TARGET, Damping, HourKey, with_levels, write_levels
from .sql import Room, chunks, cut_columns, cut_of, rows_by, upsert

MAX_LABEL_ROWS: Final = 20_000
_WITH_LEVELS: Final = with_levels(
    tables.device_label,
    target=LABEL_TARGET + tables.device_label.c.split_point + ":" + tables.device_label.c.codec,
)


def write_device_labels(
    connection: Connection,
    network: str,
    labels: Mapping[DeviceLabelKey, LabelCounts],
    oldest_open: float,
) -> None:
    """Add labels to the rows of open buckets. Those of closed ones go to ``oldest_open``."""
    if not labels:
        return
    table = tables.device_label
    fresh: dict[DeviceLabelKey, LabelCounts] = {}
    for key, counts in labels.items():
        place = key._replace(bucket=int(max(key.bucket, oldest_open)))
        fresh[place] = fresh[place].plus(counts) if place in fresh else counts
    stored = _read_counts(connection, network, fresh)
    room = Room(connection, table, network, MAX_LABEL_ROWS)
    changed: dict[DeviceLabelKey, LabelCounts] = {}
    for key, counts in sorted(fresh.items()):
        place = key
        if key not in stored:
            place = key if room.left > 0 else key._replace(device=OTHER_DEVICE)
            room.left -= 1
        before = changed.get(place, stored.get(place))
        changed[place] = counts if before is None else before.plus(counts)
    rows = [
        {
            "network": network,
            "bucket": key.bucket,
            "device": key.device,
            **cut_columns(key.cut),
            "device_group": key.device_group,
            "class_id": key.class_id,
            **counts._asdict(),
        }
        for key, counts in changed.items()
    ]
    upsert(connection, table, rows)


def close_device_labels(
    connection: Connection, network: str, half_life_s: float, newest: float
) -> dict[OutcomeKey, OutcomeCounts]:
    """Delete the rows of the buckets that are no longer open, and return what they weigh."""
    table = tables.device_label
    closed = sa.and_(
        table.c.network == network, table.c.bucket < oldest_open_bucket(newest, half_life_s)
    )
    rows = connection.execute(_WITH_LEVELS.where(closed), {"network": network}).all()
    if not rows:
        return {}
    connection.execute(table.delete().where(closed))
    opinions = _Opinions(rows, half_life_s)
    write_levels(connection, network, opinions.levels, newest, half_life_s)
    return opinions.by_key


def read_device_labels(
    connection: Connection, network: str, group: str, half_life_s: float
) -> dict[tuple[Cut, int], OutcomeCounts]:
    """What the labels in open buckets of a group, or of all, weigh, by cut and class."""
    rows = connection.execute(_WITH_LEVELS, {"network": network}).all()
    opinions: dict[tuple[Cut, int], OutcomeCounts] = {}
    for key, counts in _Opinions(rows, half_life_s).by_key.items():
        if group in (ALL_GROUPS, key.group):
            place = (key.cut, key.class_id)
            opinions.setdefault(place, OutcomeCounts(counts.epoch)).add(counts)
    return opinions


def labels_of(row: Row[Any]) -> tuple[DeviceLabelKey, LabelCounts]:
    """The key and the counts of a row. Raises StoreError where it is damaged."""
    key = DeviceLabelKey(row.bucket, row.device, cut_of(row), row.device_group, row.class_id)
    numbers = (row.labelled, row.correct)
    whole = all(isinstance(number, int) for number in numbers)
    if not (whole and row.labelled >= 1 and 0 <= row.correct <= row.labelled):
        raise StoreError(f"device labels: expected 0 <= correct <= labelled, got {numbers}")
    return key, LabelCounts(*numbers)


def sound_labels(rows: Iterable[Row[Any]]) -> list[tuple[DeviceLabelKey, LabelCounts, Row[Any]]]:
    """The rows that are not damaged, in a fixed order.

    Damaged ones count for nothing: they must not stop the flush of everything else.
    """
    sound = []
    for row in rows:
        with suppress(StoreError):
            sound.append((*labels_of(row), row))
    return sorted(sound, key=lambda item: item[0])


class _Opinions:
    """What rows of open buckets weigh, added in a fixed order: equal rows give equal sums.

    Attributes:
        by_key: the weights by cut, group and class.
        levels: the level of each device and class after these buckets.
    """

    def __init__(self, rows: Iterable[Row[Any]], half_life_s: float) -> None:
        sound = sound_labels(rows)
        damping = Damping(
            ((_hour_key(key), key.bucket, row.level) for key, _, row in sound), half_life_s
        )
        totals: dict[tuple[int, str, Cut, int], int] = {}
        for key, counts, _ in sound:
            place = _place(key)
            totals[place] = totals.get(place, 0) + counts.labelled
        self.levels = damping.levels
        self.by_key: dict[OutcomeKey, OutcomeCounts] = {}
        for key, counts, _ in sound:
            epoch, unit = landmark(key.bucket, half_life_s)
            weight = unit * damping.factor(_hour_key(key), key.bucket)
            total = totals[_place(key)]
            opinion = OutcomeCounts(
                epoch,
                weight=weight * counts.labelled / total,
                weight_correct=weight * counts.correct / total,
                weight2=weight**2 * counts.labelled / total,
            )
            outcome = OutcomeKey(key.cut, key.device_group, key.class_id)
            self.by_key.setdefault(outcome, OutcomeCounts(epoch)).add(opinion)


def _hour_key(key: DeviceLabelKey) -> HourKey:
    return HourKey(f"{LABEL_TARGET}{key.cut}", key.class_id, key.device)


def _place(key: DeviceLabelKey) -> tuple[int, str, Cut, int]:
    """Whose opinion it is: the same in all groups."""
    return key.bucket, key.device, key.cut, key.class_id


def _read_counts(
    connection: Connection, network: str, keys: Iterable[DeviceLabelKey]
) -> dict[DeviceLabelKey, LabelCounts]:
    """The stored labels of the devices and buckets in ``keys``, and of ``OTHER_DEVICE``."""
    table = tables.device_label
    devices: dict[int, set[str]] = {}
    for key in keys:
        devices.setdefault(key.bucket, {OTHER_DEVICE}).add(key.device)
    counts: dict[DeviceLabelKey, LabelCounts] = {}
    for bucket, names in devices.items():
        for chunk in chunks(sorted(names)):
            values = {"network": network, "bucket": bucket, "among": chunk}
            query = rows_by(table, "network", "bucket", among="device")
            sound = sound_labels(connection.execute(query, values))
            counts.update((key, stored) for key, stored, _ in sound)
    return counts
