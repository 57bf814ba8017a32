"""The versions of models: which network each has, when it last answered a request, and which
version a question is answered for.

A row is a model, a version and a network. One version has several networks where servers run
different archives under one version number; the one that was put last then counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ...errors import NetworkMismatchError, UnknownModelError, UnknownVersionError
from ...schema import version_key
from ..aggregates.keys import HOUR_S
from . import tables

HALF_LIFE_S: Final = HOUR_S
"""Of the requests that decide which version is the current one."""
_SHOWN_DIGITS: Final = 20


class StoredNetwork(NamedTuple):
    """One model and version in the store.

    Attributes:
        revision: the revision of the network's last change.
        as_of: epoch seconds of the newest request that this version answered; ``None`` without.
        moved_deltas: deltas of the network whose times were moved to the store's clock.
        current: whether questions that name no version are answered for this one.
    """

    model: str
    version: str
    network_hash: str
    has_profile: bool
    revision: int
    as_of: float | None
    current: bool
    moved_deltas: int


def list_networks(connection: Connection) -> tuple[StoredNetwork, ...]:
    """All versions of all models, by name and version."""
    models = tables.model
    networks = tables.network
    progress = tables.progress
    query = (
        sa.select(
            models.c.model,
            models.c.version,
            models.c.network,
            models.c.revision.label("put"),
            models.c.as_of,
            models.c.recent,
            networks.c.profile.is_not(None).label("has_profile"),
            progress.c.revision,
            progress.c.moved_deltas,
        )
        .join(networks, networks.c.network == models.c.network)
        .join(progress, progress.c.network == models.c.network)
    )
    by_model: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(query):
        by_model.setdefault(row.model, []).append(row)
    stored = []
    for _model, rows in sorted(by_model.items()):
        current = _current(rows, rows)
        stored += [
            StoredNetwork(
                row.model,
                row.version,
                row.network,
                row.has_profile,
                row.revision,
                row.as_of,
                row is current,
                row.moved_deltas,
            )
            for row in _in_order(rows)
        ]
    return tuple(stored)


_OF_MODEL: Final[sa.Select[Any]] = sa.select(
    tables.model.c.version,
    tables.model.c.network,
    tables.model.c.revision.label("put"),
    tables.model.c.as_of,
    tables.model.c.recent,
).where(tables.model.c.model == sa.bindparam("model"))


def find_version(
    connection: Connection, model: str, version: str | None, network: str | None
) -> Row[Any]:
    """The row that a question is about: ``version``, ``network`` and ``put``, its revision.

    Without ``version`` and ``network`` it is the current version's: the one that answered most of
    the recent requests, and the lowest before any was answered. With ``network`` alone it is the
    current one of the versions that have this network.

    Raises:
        UnknownModelError: no version of the model is in the store.
        UnknownVersionError: other versions of it are.
        NetworkMismatchError: the version is there with another network.
    """
    table = tables.model
    rows = connection.execute(_OF_MODEL, {"model": model}).all()
    if not rows:
        models = connection.scalars(sa.select(table.c.model).distinct().order_by(table.c.model))
        raise UnknownModelError.of(model, models)
    of_version = [row for row in rows if version in (None, row.version)]
    if not of_version:
        known = _versions(rows)
        raise UnknownVersionError(
            f"unknown version {version!r} of model {model!r}; known: {', '.join(known)}",
            known=known,
        )
    matching = [row for row in of_version if network in (None, row.network)]
    if matching:
        return _current(matching, rows)
    networks = [_with_network(row) for row in _in_order(of_version)]
    if version is None:
        raise UnknownVersionError(
            f"no version of {model!r} in the store has network {_short(network)}; "
            f"known: {', '.join(networks)}",
            known=_versions(rows),
        )
    raise NetworkMismatchError(
        f"expected version {version} of {model!r} to have network {_short(network)}, "
        f"the store has {', '.join(networks)}",
        head=network,
        tail=of_version[0].network,
    )


def has_version(connection: Connection, model: str, version: str, network: str) -> bool:
    """Whether the store has this version of a model with this network."""
    table = tables.model
    query = sa.select(table.c.version).where(
        table.c.model == model, table.c.version == version, table.c.network == network
    )
    return connection.execute(query).first() is not None


def note_requests(
    connection: Connection,
    network: str,
    version: tuple[str, str] | None,
    requests: float,
    as_of: float,
) -> None:
    """Note that a model and version answered requests up to the time ``as_of``.

    ``version``: model and version; ``None`` for all that have this network.
    """
    table = tables.model
    where = table.c.network == network
    if version is not None:
        where = sa.and_(where, table.c.model == version[0], table.c.version == version[1])
    query = sa.select(table.c.model, table.c.version, table.c.as_of, table.c.recent)
    for row in connection.execute(query.where(where)).all():
        newest = as_of if row.as_of is None else max(row.as_of, as_of)
        recent = _decayed(row.recent, row.as_of, newest) + _decayed(requests, as_of, newest)
        is_row = sa.and_(where, table.c.model == row.model, table.c.version == row.version)
        connection.execute(table.update().where(is_row).values(as_of=newest, recent=recent))


def _current(rows: Sequence[Row[Any]], of_model: Sequence[Row[Any]]) -> Row[Any]:
    """The current one of ``rows``. Requests count for a version, whatever its network."""
    newest = max((row.as_of for row in of_model if row.as_of is not None), default=0.0)
    recent: dict[str, float] = {}
    for row in of_model:
        count = _decayed(row.recent, row.as_of, newest)
        recent[row.version] = recent.get(row.version, 0.0) + count
    version = min(
        {row.version for row in rows}, key=lambda name: (-recent[name], version_key(name))
    )
    return max((row for row in rows if row.version == version), key=lambda row: row.put)


def _decayed(requests: float, as_of: float | None, now: float) -> float:
    """``requests`` up to the time ``as_of``, as they weigh at the time ``now``."""
    return 0.0 if as_of is None else float(requests * 2.0 ** ((as_of - now) / HALF_LIFE_S))


def _in_order(rows: Iterable[Row[Any]]) -> list[Row[Any]]:
    return sorted(rows, key=lambda row: (version_key(row.version), row.put))


def _versions(rows: Iterable[Row[Any]]) -> list[str]:
    return list(dict.fromkeys(row.version for row in _in_order(rows)))


def _with_network(row: Row[Any]) -> str:
    return f"{row.version} (network {_short(row.network)})"


def _short(network: str | None) -> str:
    return str(network)[:_SHOWN_DIGITS]
