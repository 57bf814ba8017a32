"""SQL that several tables need: conditions, upserts, and columns that stand for a key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Row, Table
from sqlalchemy.dialects import postgresql, sqlite

from ...advice import ALL_GROUPS
from ...errors import QueryError, StoreError
from ...schema import Cut
from ..aggregates.keys import Population

_CHUNK: Final = 500
_T = TypeVar("_T")


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[dict[str, Any]],
    *,
    once: dict[str, Any] | None = None,
) -> None:
    """Insert ``rows``, or overwrite the rows with these keys. All rows have the same columns.

    ``once``: columns that are written where a row is new, and stay where it is not.
    """
    if not rows:
        return
    once = once or {}
    statement = _upsert_of(table, connection.dialect.name, (*rows[0],), (*once,))
    connection.execute(statement, [{**row, **once} for row in rows])


@lru_cache(maxsize=256)
def _upsert_of(
    table: Table, dialect_name: str, columns: tuple[str, ...], once: tuple[str, ...]
) -> sa.Executable:
    """The statement of :func:`upsert`. Making it takes longer than a small flush's rows do."""
    dialect = postgresql if dialect_name == "postgresql" else sqlite
    insert = dialect.insert(table)
    keys = [column.name for column in table.primary_key.columns]
    changed = {name: insert.excluded[name] for name in columns if name not in keys}
    statement: sa.Executable = insert.on_conflict_do_nothing(index_elements=keys)
    if changed:
        statement = insert.on_conflict_do_update(index_elements=keys, set_=changed)
    return statement


@lru_cache(maxsize=256)
def rows_by(table: Table, *names: str, among: str = "") -> sa.Select[Any]:
    """The query for the rows with the values ``:name`` in the columns ``names``.

    ``among``: a column with one of the values ``:among``. The same statement each time, because
    making one takes longer than a row does.
    """
    query = sa.select(table).where(*(table.c[name] == sa.bindparam(name) for name in names))
    if among:
        query = query.where(table.c[among].in_(sa.bindparam("among", expanding=True)))
    return query


class Room:
    """How many rows a table of a network may still get. It is counted when it is first asked for.

    Most flushes change rows that are there, and counting reads all of them.
    """

    def __init__(self, connection: Connection, table: Table, network: str, limit: int) -> None:
        self._connection = connection
        self._table = table
        self._network = network
        self._limit = limit

    @cached_property
    def left(self) -> int:
        """The number of rows; take one with ``left -= 1``."""
        table = self._table
        count = sa.select(sa.func.count()).select_from(table)
        number = self._connection.scalar(count.where(table.c.network == self._network))
        return self._limit - int(number or 0)


def equals(table: Table, columns: dict[str, Any]) -> sa.ColumnElement[bool]:
    """The condition that all ``columns`` of a row have these values."""
    return sa.and_(*(table.c[name] == value for name, value in columns.items()))


def in_group(table: Table, network: str, group: str = ALL_GROUPS) -> sa.ColumnElement[bool]:
    """The condition for a network's rows of one device group, or of all groups."""
    if group == ALL_GROUPS:
        return table.c.network == network
    return sa.and_(table.c.network == network, table.c.device_group == group)


def chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """``items`` in parts that fit into the parameters of one statement."""
    return (items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))


def cut_of(row: Row[Any]) -> Cut:
    """The cut in a row's columns ``split_point`` and ``codec``. Raises StoreError."""
    try:
        return Cut.of(row.split_point, row.codec)
    except QueryError as error:
        raise StoreError(f"expected a codec, got {row.codec[:100]!r}") from error


def cut_columns(cut: Cut) -> dict[str, str]:
    """The columns that stand for a cut."""
    return {"split_point": cut.split_point, "codec": cut.coding}


def population_of(row: Row[Any]) -> Population:
    """The population in a row's columns."""
    return Population(row.device_group, row.source, row.target, row.start)


def population_columns(network: str, population: Population) -> dict[str, Any]:
    """The columns that stand for a population of a network."""
    return {
        "network": network,
        "device_group": population.group,
        "source": population.source,
        "target": population.target,
        "start": population.start,
    }
