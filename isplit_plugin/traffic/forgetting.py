"""Forgetting versions: deleting their rows, and those of networks that no version has any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ..errors import QueryError, UnknownModelError, UnknownVersionError
from .rows import tables
from .rows.versions import StoredNetwork, list_networks

MIN_HASH: Final = 8
"""The fewest digits of a network hash that stand for it."""
_OF_VERSIONS: Final = (tables.model, tables.standing, tables.change)
_OF_NETWORKS: Final = tuple(
    table
    for table in tables.metadata.sorted_tables
    if "network" in table.c and table not in _OF_VERSIONS
)


class Forgotten(NamedTuple):
    """What was forgotten, or would be.

    Attributes:
        versions: the versions, each with one network.
        networks: hashes of the networks whose statistics went too, because no other version has
            them.
        rows: the number of rows by table, where there were any.
    """

    versions: tuple[StoredNetwork, ...]
    networks: tuple[str, ...]
    rows: Mapping[str, int]


def choose_versions(
    connection: Connection, model: str, version: str | None, network: str | None
) -> tuple[StoredNetwork, ...]:
    """The versions of a model with this number and this network, ``None`` for any.

    ``network``: the first digits of its hash, at least ``MIN_HASH``.

    Raises:
        UnknownModelError: the model is not in the store.
        UnknownVersionError: it has no such version or network.
        QueryError: the digits are too few, or those of several networks.
    """
    stored = list_networks(connection)
    of_model = [row for row in stored if row.model == model]
    if not of_model:
        raise UnknownModelError.of(model, dict.fromkeys(row.model for row in stored))
    if network is not None and len(network) < MIN_HASH:
        raise QueryError(
            f"network: expected at least {MIN_HASH} digits of a network hash, got {network!r}",
            field="network_hash",
        )
    chosen = tuple(
        row
        for row in of_model
        if version in (None, row.version) and row.network_hash.startswith(network or "")
    )
    if not chosen:
        wanted = f"version {version}" if version is not None else "version"
        wanted += f" with network {network[:20]}" if network is not None else ""
        known = [f"{row.version} (network {row.network_hash[:20]})" for row in of_model]
        raise UnknownVersionError(
            f"model {model!r} has no {wanted}; known: {', '.join(known)}",
            known=list(dict.fromkeys(row.version for row in of_model)),
        )
    networks = {row.network_hash for row in chosen}
    if network is not None and len(networks) > 1:
        raise QueryError(
            f"network: expected the digits of one network hash, got {network[:20]}, which begins "
            f"those of {', '.join(sorted(networks))}",
            field="network_hash",
        )
    return chosen


def look_up(connection: Connection, versions: Sequence[StoredNetwork]) -> Forgotten:
    """What :func:`forget` would delete."""
    return _walk(connection, versions, delete=False)


def forget(connection: Connection, versions: Sequence[StoredNetwork]) -> Forgotten:
    """Delete versions with their standing picks, and what is left without a version."""
    return _walk(connection, versions, delete=True)


def _walk(connection: Connection, versions: Sequence[StoredNetwork], *, delete: bool) -> Forgotten:
    chosen = {(row.model, row.version, row.network_hash) for row in versions}
    table = tables.model
    stored = connection.execute(sa.select(table.c.model, table.c.version, table.c.network)).all()
    remaining = {row.network for row in stored if tuple(row) not in chosen}
    networks = sorted({network for _, _, network in chosen} - remaining)
    rows: dict[str, int] = {}
    for table in _OF_VERSIONS:
        for model, version, network in sorted(chosen):
            where = sa.and_(
                table.c.model == model, table.c.version == version, table.c.network == network
            )
            _count_rows(connection, table, where, rows, delete=delete)
    for table in _OF_NETWORKS:
        for network in networks:
            where = table.c.network == network
            _count_rows(connection, table, where, rows, delete=delete)
    return Forgotten(tuple(versions), tuple(networks), rows)


def _count_rows(
    connection: Connection,
    table: sa.Table,
    where: sa.ColumnElement[bool],
    rows: dict[str, int],
    *,
    delete: bool,
) -> None:
    count = sa.select(sa.func.count()).select_from(table).where(where)
    number = int(connection.scalar(count) or 0)
    if number:
        name = table.name.removeprefix("isplit_")
        rows[name] = rows.get(name, 0) + number
        if delete:
            connection.execute(table.delete().where(where))
