"""Requests that wait for their label, and the labels themselves.

A back office knows the true class of a request hours later and names the request by the id that the server gave it.
So each predicted request leaves one short-lived row: the hash of its id, where it was served, what was predicted.
The rows are bounded by age (``KEEP_S``, counted from the newest observation) and by number (``MAX_WAITING`` of a
network, the oldest go first), and they are written by the recorder's flush, off the request path. A label moves no
importance value; it fills the outcome counters at the time of its prediction. The row keeps the label, so that a second
one is refused, and so that a backward pass that comes after it can be made for the true class as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ..errors import (
    IsplitError,
    LabelledBeforeError,
    QueryError,
    UnknownClassError,
    UnknownRequestError,
)
from ..schema import Cut
from . import tables
from .database import cut_of, upsert

KEEP_S: Final = 24 * 3600.0
"""How long a request waits for its label."""
MAX_WAITING: Final = 100_000
"""Requests of one network that may wait; about 20 MB."""
MAX_LABELS: Final = 1000
"""Labels in one call."""
MAX_REQUEST_ID: Final = 200
_SLACK: Final = 1.02
_CHUNK: Final = 400


class PendingRequest(NamedTuple):
    """A request without label: when and where it was served, and the predicted class."""

    at: float
    cut: Cut
    class_id: int
    group: str


class Label(NamedTuple):
    """``class_id``: the true class, as an id or as a label of the network."""

    request_id: str
    class_id: int | str


@dataclass(frozen=True, slots=True)
class LabelResult:
    """What became of one label. ``predicted`` and ``class_id`` where it was taken, else the ``error``."""

    request_id: str
    class_id: int | None = None
    predicted: int | None = None
    model: str | None = None
    error: IsplitError | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types; an error in the form of an error answer."""
        if self.error is not None:
            return {"request_id": self.request_id, **self.error.to_json()}
        told = {
            "request_id": self.request_id,
            "model": self.model,
            "class": self.class_id,
            "predicted": self.predicted,
        }
        return {**told, "correct": self.class_id == self.predicted}


class StoredRequest(NamedTuple):
    """A row of a request: its network, what waits, and the label it has by now."""

    network: str
    waiting: PendingRequest
    label: int | None


def key_of(request_id: str) -> str:
    """The hash a request is kept under: BLAKE2b with 128 bits, 32 hexadecimal digits."""
    return hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_pending(
    connection: Connection, network: str, fresh: Mapping[str, PendingRequest], newest: float
) -> None:
    """Keep requests, and drop those that are too old, or the oldest above the number. A request that is there stays."""
    if not fresh:
        return
    table = tables.request
    here = sorted(key for key, waiting in fresh.items() if waiting.at >= newest - KEEP_S)
    known: set[str] = set()
    for some in _chunks(here):
        known.update(
            connection.scalars(sa.select(table.c.request).where(table.c.request.in_(some)))
        )
    rows = [
        {
            "request": key,
            "network": network,
            "at": (w := fresh[key]).at,
            "split_point": w.cut.split_point,
            "codec": w.cut.coding,
            "class_id": w.class_id,
            "device_group": w.group,
        }
        for key in here
        if key not in known
    ]
    if not rows:
        return
    upsert(connection, table, rows)
    mine = table.c.network == network
    connection.execute(table.delete().where(mine, table.c.at < newest - KEEP_S))
    number = int(connection.scalar(sa.select(sa.func.count()).select_from(table).where(mine)) or 0)
    if number > MAX_WAITING * _SLACK:  # not at every flush: it takes a sort
        oldest = (
            sa.select(table.c.at)
            .where(mine)
            .order_by(table.c.at.desc())
            .offset(MAX_WAITING)
            .limit(1)
        )
        limit = connection.scalar(oldest)
        connection.execute(table.delete().where(mine, table.c.at <= limit))


def read_requests(connection: Connection, request_ids: Sequence[str]) -> dict[str, StoredRequest]:
    """The rows of those requests that are known, by id."""
    table = tables.request
    keys = {key_of(request_id): request_id for request_id in request_ids}
    found = {}
    for some in _chunks(sorted(keys)):
        for row in connection.execute(sa.select(table).where(table.c.request.in_(some))):
            waiting = PendingRequest(row.at, cut_of(row), row.class_id, row.device_group)
            found[keys[row.request]] = StoredRequest(row.network, waiting, row.label)
    return found


def label_of(connection: Connection, request_id: str) -> int | None:
    """The label that a request has by now."""
    found: int | None = connection.scalar(
        sa.select(tables.request.c.label).where(tables.request.c.request == key_of(request_id))
    )
    return found


def mark(connection: Connection, labels: Mapping[str, int]) -> None:
    """Note the labels of requests, by id."""
    table = tables.request
    where = table.c.request == sa.bindparam("key")
    rows = [
        {"key": key_of(request_id), "given": class_id} for request_id, class_id in labels.items()
    ]
    if rows:
        connection.execute(table.update().where(where).values(label=sa.bindparam("given")), rows)


def unknown(request_id: str) -> UnknownRequestError:
    """The error for a request that nobody knows."""
    return UnknownRequestError(
        f"request {request_id[:100]!r}: expected the id of a request of the last {KEEP_S / 3600:.0f} hours, "
        "as in isplit_request_id of its answer; none is known (a request is known a second after it was answered)"
    )


def check(label: Label, found: StoredRequest, classes: Sequence[str]) -> int:
    """The true class's id. Raises LabelledBeforeError, UnknownClassError, QueryError.

    ``classes``: of the request's network.
    """
    if isinstance(label.class_id, str):
        ids = [i for i, name in enumerate(classes) if name == label.class_id]
        if len(ids) > 1:
            raise QueryError(
                f"class: {label.class_id[:100]!r} is the name of the classes {ids[:10]}; expected an id"
            )
        if not ids:
            raise UnknownClassError.of(label.class_id, classes)
        class_id = ids[0]
    else:
        class_id = label.class_id
        if not 0 <= class_id < len(classes):
            raise UnknownClassError.of(class_id, range(len(classes)))
    if found.label is not None:
        raise LabelledBeforeError(
            f"request {label.request_id[:100]!r}: expected a request without label, it has class {found.label}",
            label=found.label,
        )
    return class_id


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[i : i + _CHUNK] for i in range(0, len(keys), _CHUNK))
