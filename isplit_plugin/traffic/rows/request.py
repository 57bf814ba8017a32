"""Requests that wait for their labels.

A back office learns the true class of a request hours later, and names the request by the id that
the server gave it. So each predicted request leaves one row for a day: the hash of its id, where it
was served, and what was predicted. The rows of a network are bounded by age (``KEEP_S``, counted
from the horizon, :mod:`.revisions`) and by number (``MAX_REQUESTS``). The places are shared fairly
between devices: the devices with the most rows lose their oldest, so that one that floods evicts
nobody but itself. All requests without a device token are those of one device. A row keeps its
label, so that a second one is refused and the sampler can use it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ...schema import Cut
from ..aggregates.devices import ANONYMOUS
from ..aggregates.fairness import fair_share
from . import tables
from .sql import chunks, cut_columns, cut_of, upsert

KEEP_S: Final = 24 * 3600.0
"""How long a request waits for its label."""
MAX_REQUESTS: Final = 100_000
"""Requests of one network that may wait; about 20 MB."""
_SLACK: Final = 1.02
_HARD_SLACK: Final = 1.1
_HOLDERS: Final = 100
"""Devices that lose rows in one flush, so that no flush takes long."""


_KNOWN: Final = sa.select(tables.request.c.request).where(
    tables.request.c.request.in_(sa.bindparam("among", expanding=True))
)
_OLD: Final = tables.request.delete().where(
    tables.request.c.network == sa.bindparam("of"), tables.request.c.at < sa.bindparam("oldest")
)


class PendingRequest(NamedTuple):
    """A request that waits for its label: when and where it was served, and the predicted class.

    ``device``: the hash of the device, or the name of a shared one.
    """

    at: float
    cut: Cut
    class_id: int
    group: str
    device: str = ANONYMOUS


class StoredRequest(NamedTuple):
    """The row of a request: its network, what is known of it, and its label, if there is one."""

    network: str
    request: PendingRequest
    label: int | None


def request_key(request_id: str) -> str:
    """The hash that stands for a request: BLAKE2b with 128 bits, 32 hexadecimal digits."""
    return hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_requests(
    connection: Connection,
    network: str,
    requests: Mapping[str, PendingRequest],
    horizon: float | None,
    waiting: int,
) -> int:
    """Add rows by key, and delete those that are too old or too many. Existing rows stay.

    ``waiting``: the number of rows before. Returns that afterwards.
    """
    table = tables.request
    oldest = -math.inf if horizon is None else horizon - KEEP_S
    recent = sorted(key for key, request in requests.items() if request.at >= oldest)
    stored: set[str] = set()
    for keys in chunks(recent):
        stored.update(connection.scalars(_KNOWN, {"among": keys}))
    rows = [
        {
            "request": key,
            "network": network,
            "at": requests[key].at,
            **cut_columns(requests[key].cut),
            "class_id": requests[key].class_id,
            "device_group": requests[key].group,
            "device": requests[key].device,
        }
        for key in recent
        if key not in stored
    ]
    if not rows:
        return waiting
    upsert(connection, table, rows)
    old = connection.execute(_OLD, {"of": network, "oldest": oldest}).rowcount
    number = max(0, waiting + len(rows) - old)
    if number <= MAX_REQUESTS * _SLACK:
        return number  # finding those that go takes time, so it does not happen at every flush
    return _share_places(connection, network)


def _share_places(connection: Connection, network: str) -> int:
    """Delete the oldest rows of the devices with the most. Returns how many rows are left."""
    table = tables.request
    of_network = table.c.network == network
    size = sa.func.count()
    holders = sa.select(table.c.device, size).where(of_network).group_by(table.c.device)
    held = [(device, int(rows)) for device, rows in connection.execute(holders)]
    number = sum(rows for _, rows in held)
    share = max(1, fair_share([rows for _, rows in held], MAX_REQUESTS))
    largest = sorted((item for item in held if item[1] > share), key=lambda item: -item[1])
    for device, _ in largest[:_HOLDERS]:
        number -= _keep_newest(connection, sa.and_(of_network, table.c.device == device), share)
    if number > MAX_REQUESTS * _HARD_SLACK:
        number -= _keep_newest(connection, of_network, MAX_REQUESTS)
    return number


def _keep_newest(connection: Connection, where: sa.ColumnElement[bool], number: int) -> int:
    """Keep ``number`` of the rows, and return how many were deleted."""
    table = tables.request
    times = sa.select(table.c.at).where(where).order_by(table.c.at.desc())
    limit = connection.scalar(times.offset(number).limit(1))
    return connection.execute(table.delete().where(where, table.c.at <= limit)).rowcount


def fairest_requests(
    requests: Mapping[str, PendingRequest], places: int
) -> dict[str, PendingRequest]:
    """The requests by key that get one of so many places: the newest of each device's share."""
    keys: dict[str, list[str]] = {}
    for key, request in requests.items():
        keys.setdefault(request.device, []).append(key)
    share = fair_share([len(of_device) for of_device in keys.values()], places)
    kept = {key for of_device in keys.values() for key in of_device[len(of_device) - share :]}
    if share == 0:  # more devices than places
        kept = set(list(requests)[-places:])
    return {key: request for key, request in requests.items() if key in kept}


def read_requests(connection: Connection, request_ids: Sequence[str]) -> dict[str, StoredRequest]:
    """The rows of requests by id; those without a row are missing."""
    table = tables.request
    ids = {request_key(request_id): request_id for request_id in request_ids}
    requests = {}
    for keys in chunks(sorted(ids)):
        for row in connection.execute(sa.select(table).where(table.c.request.in_(keys))):
            pending = PendingRequest(
                row.at, cut_of(row), row.class_id, row.device_group, row.device
            )
            requests[ids[row.request]] = StoredRequest(row.network, pending, row.label)
    return requests


def read_label(connection: Connection, request_id: str) -> int | None:
    """The label of a request; ``None`` where there is none yet."""
    table = tables.request
    label: int | None = connection.scalar(
        sa.select(table.c.label).where(table.c.request == request_key(request_id))
    )
    return label


def write_labels(connection: Connection, labels: Mapping[str, int]) -> None:
    """Put the labels of requests, by id, into their rows."""
    if not labels:
        return
    table = tables.request
    update = table.update().where(table.c.request == sa.bindparam("key"))
    rows = [
        {"key": request_key(request_id), "class": class_id}
        for request_id, class_id in labels.items()
    ]
    connection.execute(update.values(label=sa.bindparam("class")), rows)
