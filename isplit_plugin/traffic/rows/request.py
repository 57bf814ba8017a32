"""Requests that wait for their labels.

A back office learns the true class of a request hours later, and names the request by the id that
the server gave it. So each predicted request leaves one row for a day: the hash of its id, where it
was served, and what was predicted. The rows of a network are bounded by age (``KEEP_S``, counted
from the horizon, :mod:`.revisions`) and by number (``MAX_REQUESTS``; the oldest go first). A row keeps its
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
from . import tables
from .sql import chunks, cut_columns, cut_of, upsert

KEEP_S: Final = 24 * 3600.0
"""How long a request waits for its label."""
MAX_REQUESTS: Final = 100_000
"""Requests of one network that may wait; about 20 MB."""
_SLACK: Final = 1.02


class PendingRequest(NamedTuple):
    """A request that waits for its label: when and where it was served, and the predicted class."""

    at: float
    cut: Cut
    class_id: int
    group: str


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
) -> None:
    """Add rows by key, and delete those that are too old or too many. Existing rows stay."""
    table = tables.request
    oldest = -math.inf if horizon is None else horizon - KEEP_S
    recent = sorted(key for key, request in requests.items() if request.at >= oldest)
    stored: set[str] = set()
    for keys in chunks(recent):
        query = sa.select(table.c.request).where(table.c.request.in_(keys))
        stored.update(connection.scalars(query))
    rows = [
        {
            "request": key,
            "network": network,
            "at": requests[key].at,
            **cut_columns(requests[key].cut),
            "class_id": requests[key].class_id,
            "device_group": requests[key].group,
        }
        for key in recent
        if key not in stored
    ]
    if rows:
        upsert(connection, table, rows)
        _delete_old(connection, network, oldest)


def _delete_old(connection: Connection, network: str, oldest: float) -> None:
    table = tables.request
    of_network = table.c.network == network
    connection.execute(table.delete().where(of_network, table.c.at < oldest))
    count = sa.select(sa.func.count()).select_from(table).where(of_network)
    if int(connection.scalar(count) or 0) <= MAX_REQUESTS * _SLACK:
        return  # finding the oldest takes a sort, so it does not happen at every flush
    times = sa.select(table.c.at).where(of_network).order_by(table.c.at.desc())
    limit = connection.scalar(times.offset(MAX_REQUESTS).limit(1))
    connection.execute(table.delete().where(of_network, table.c.at <= limit))


def read_requests(connection: Connection, request_ids: Sequence[str]) -> dict[str, StoredRequest]:
    """The rows of requests by id; those without a row are missing."""
    table = tables.request
    ids = {request_key(request_id): request_id for request_id in request_ids}
    requests = {}
    for keys in chunks(sorted(ids)):
        for row in connection.execute(sa.select(table).where(table.c.request.in_(keys))):
            pending = PendingRequest(row.at, cut_of(row), row.class_id, row.device_group)
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
