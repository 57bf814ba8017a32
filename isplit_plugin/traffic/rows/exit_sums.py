"""Rows of exit sums: one for each cut, and one for each of its classes with its devices.

The sums of a cut are one value of some kilobytes to megabytes (``F (F + 1) / 2`` numbers for F
features, and ``F + 3`` for each class), so a network has at most ``MAX_CUTS`` of them. A cut that got
no photo for ``STALE_HALF_LIVES`` gives its place away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from ...errors import ExitError, StoreError
from ...exits import MAX_CLASSES, ExitSums
from ...schema import Cut
from ..aggregates.sketch import DeviceSketch, count_devices, merge_sketches, sketch_from_bytes
from . import tables
from .sql import cut_columns, cut_of, equals, upsert

MAX_CUTS: Final = 8
"""Cuts of a network that have sums; traffic at others enters none."""
STALE_HALF_LIVES: Final = 4.0
"""After so many half-lives without a photo, sums weigh a sixteenth, and are deleted."""


class ClassEvidence(NamedTuple):
    """What is behind one class of the sums.

    Attributes:
        photos: that entered the sums, not decayed.
        devices: the distinct devices among them, 0 where none is known.
    """

    photos: int
    devices: float


def read_sums(connection: Connection, network: str, cut: Cut) -> ExitSums | None:
    """The sums of a cut; ``None`` before the first. Raises StoreError for damage."""
    table = tables.exit_sums
    raw = connection.scalar(sa.select(table.c.sums).where(_of(table, network, cut)))
    return None if raw is None else sums_from_bytes(raw)


def sums_from_bytes(raw: bytes) -> ExitSums:
    """Read a stored value. Raises StoreError."""
    try:
        return ExitSums.from_bytes(raw)
    except ExitError as error:
        raise StoreError(error.message, reason="malformed") from error


def write_sums(  # noqa: PLR0917
    connection: Connection,
    network: str,
    cut: Cut,
    more: ExitSums,
    now: float,
    half_life_s: float,
) -> bool:
    """Add sums to those of a cut.

    ``False``, and nothing is added, where they do not fit those of the store (another worker chose
    the bounds), or where the network has sums of too many cuts. New classes for which there is no
    room are left out: the others still grow. Raises StoreError for damage.
    """
    table = tables.exit_sums
    before = read_sums(connection, network, cut)
    if before is None:
        delete_stale(connection, now, half_life_s)
        number = sa.select(sa.func.count()).select_from(table).where(table.c.network == network)
        if (connection.scalar(number) or 0) >= MAX_CUTS:
            return False
    elif not before.fits(more):
        return False
    if before is not None:
        new = np.setdiff1d(more.class_ids, before.class_ids)
        room = MAX_CLASSES - len(before.class_ids)
        more = more.without(new[room:]) if len(new) > room else more
    sums = more if before is None else before.merge(more)
    row = {
        "network": network,
        **cut_columns(cut),
        "photos": int(sums.counts.sum()),
        "written": now,
        "sums": sums.to_bytes(),
    }
    upsert(connection, table, [row])
    return True


def delete_stale(connection: Connection, now: float, half_life_s: float) -> int:
    """Delete the sums and classes of cuts that got no photo for long. Returns how many cuts."""
    stale = _stale(connection, now, half_life_s)
    for network, cut in stale:
        for table in (tables.exit_sums, tables.exit_class):
            connection.execute(table.delete().where(_of(table, network, cut)))
    return len(stale)


def has_stale(connection: Connection, now: float, half_life_s: float) -> bool:
    """Whether :func:`delete_stale` has something to delete."""
    return bool(_stale(connection, now, half_life_s))


def _stale(connection: Connection, now: float, half_life_s: float) -> list[tuple[str, Cut]]:
    table = tables.exit_sums
    keep_s = STALE_HALF_LIVES * half_life_s
    # A time far in the future is that of a clock that was wrong then.
    is_stale = sa.or_(table.c.written < now - keep_s, table.c.written > now + keep_s)
    query = sa.select(table.c.network, table.c.split_point, table.c.codec).where(is_stale)
    rows: Sequence[Any] = connection.execute(query).all()
    return [(row.network, cut_of(row)) for row in rows]


def write_classes(
    connection: Connection,
    network: str,
    cut: Cut,
    classes: Mapping[int, tuple[int, DeviceSketch]],
) -> None:
    """Add photos and devices to the classes of a cut, by class id."""
    table = tables.exit_class
    of_cut = _of(table, network, cut)
    stored = {
        row.class_id: row
        for row in connection.execute(
            sa.select(table).where(of_cut, table.c.class_id.in_(list(classes)))
        )
    }
    rows = []
    for class_id, (photos, devices) in sorted(classes.items()):
        before = stored.get(class_id)
        if before is not None:
            photos += before.photos  # noqa: PLW2901
            devices = merge_sketches([sketch_from_bytes(before.devices), devices])  # noqa: PLW2901
        rows.append(
            {
                "network": network,
                **cut_columns(cut),
                "class_id": class_id,
                "photos": photos,
                "devices": devices.tobytes(),
            }
        )
    upsert(connection, table, rows)


def read_classes(connection: Connection, network: str, cut: Cut) -> dict[int, ClassEvidence]:
    """Photos and devices behind each class of a cut."""
    table = tables.exit_class
    rows = connection.execute(sa.select(table).where(_of(table, network, cut)))
    return {
        row.class_id: ClassEvidence(row.photos, count_devices(sketch_from_bytes(row.devices)))
        for row in rows
    }


def list_sums(connection: Connection) -> dict[tuple[str, Cut], int]:
    """The photos in the sums of each network and cut."""
    table = tables.exit_sums
    query = sa.select(table.c.network, table.c.split_point, table.c.codec, table.c.photos)
    rows: Sequence[Any] = connection.execute(query).all()
    return {(row.network, cut_of(row)): row.photos for row in rows}


def _of(table: sa.Table, network: str, cut: Cut) -> sa.ColumnElement[bool]:
    return equals(table, {"network": network, **cut_columns(cut)})
