"""The way to the database: transactions, what its failures are called, and the schema's number.

SQLite (WAL) by default, PostgreSQL through ``postgresql+psycopg://``. Vectors cannot be added in SQL, so a writer
reads, adds and writes back within one transaction, and writers come one after the other: on SQLite by BEGIN IMMEDIATE,
on PostgreSQL because every writing transaction begins with the revision counter, whose row stays locked until commit.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from ..errors import QueryError, StoreError
from ..schema import Cut
from . import tables

BUSY_TIMEOUT_S: Final = 2.0
_abandoned: Final[
    list[Engine]
] = []  # kept for good: collecting them would close the parent's connections
_OPENING_LOCK: Final = 0x15B117
_IN_TEXT: Final = re.compile(r"(://[^:/@\s]*):\S*@")


class Database:
    """One database of the store. Opens it, and creates its tables; raises StoreError."""

    def __init__(
        self, url: str | Path, *, create: bool, half_life_s: int, busy_timeout_s: float
    ) -> None:
        self._url = _parse(url)
        self.url = self._url.set(query={}).render_as_string(hide_password=True)
        self.half_life_s = half_life_s
        self._timeout_s = busy_timeout_s
        self._path = _file_of(self._url)
        self._file: tuple[int, int] | None = None
        self._create = create
        self.opened = 0
        with self._guard("an SQLite file or a PostgreSQL database"):
            self.engine = self._engine()
        try:
            self._open()
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one consistent state throughout."""
        with self._guard("a readable store"):
            self._follow_file()
            engine = self.engine
            if engine.dialect.name == "postgresql":
                engine = engine.execution_options(isolation_level="REPEATABLE READ")
            with engine.connect() as connection, connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[tuple[Connection, int]]:
        """A transaction that no other writer overlaps, and the new revision that it makes."""
        with self._guard("a writable store"):
            self._follow_file()
            with self._writing() as connection:
                yield connection, bump(connection)

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A connection outside any transaction, for upkeep."""
        with self._guard("a store that nobody else holds"):
            self._follow_file()
            with self.engine.execution_options(
                isolation_level="AUTOCOMMIT"
            ).connect() as connection:
                yield connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def after_fork(self) -> None:
        """Forget the parent's connections without closing them; to be called in the child."""
        _abandoned.append(self.engine)
        self.engine = self._engine()

    # ------------------------------------------------------------------------------------------------- opening

    def _engine(self) -> Engine:
        if self._url.get_backend_name() == "postgresql":
            arguments = {
                "connect_timeout": max(1, round(self._timeout_s)),
                "options": f"-c lock_timeout={int(self._timeout_s * 1000)}",
            }
            return sa.create_engine(
                self._url, connect_args=arguments, pool_pre_ping=True, pool_size=2
            )
        engine = sa.create_engine(self._url, connect_args={"timeout": self._timeout_s}, pool_size=2)
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "begin", _on_begin)
        return engine

    def _on_connect(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun by _on_begin, not by the driver
        deadline = time.monotonic() + self._timeout_s
        while True:  # the switch to WAL answers "locked" at once where several processes open a new file together
            try:
                if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous=NORMAL")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        engine = self.engine.execution_options(isplit_write=True)
        with engine.connect() as connection, connection.begin():
            yield connection

    def _open(self) -> None:
        if self._path is not None:
            if self._path.is_dir():
                raise self.error("expected the path of a file, found a directory")
            if not self._create and not self._path.exists():
                raise self.error("expected an existing file, found none")
        with self._guard(f"a store of schema {tables.SCHEMA}"):
            if self._schema_now() != tables.SCHEMA:
                self._create_tables()
            with self.engine.connect() as connection:
                self.half_life_s = connection.scalar(value_of("half_life_s")) or self.half_life_s
        self._file = self._identity()
        self.opened += 1

    def _schema_now(self) -> int | None:
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table(tables.meta.name):
                return None
            found: int | None = connection.scalar(value_of("schema"))
        return found

    def _create_tables(self) -> None:
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OPENING_LOCK)))
            new = not sa.inspect(connection).has_table(tables.meta.name)
            if new and not self._create:
                raise self.error("expected a store, found none of its tables")
            if new:
                tables.metadata.create_all(connection)
                first = {
                    "schema": tables.SCHEMA,
                    "revision": 0,
                    "half_life_s": self.half_life_s,
                    "store_id": secrets.randbits(48),
                }
                connection.execute(
                    tables.meta.insert(), [{"key": k, "value": v} for k, v in first.items()]
                )
            schema = connection.scalar(value_of("schema"))
            if schema is None:
                raise self.error("expected a schema number, found none: the store is damaged")
            if schema != tables.SCHEMA:
                raise self.error(
                    f"expected schema {tables.SCHEMA}, found {schema}: "
                    "another version of isplit-plugin wrote this store"
                )

    # ------------------------------------------------------------------------------------------------- failures

    def error(self, message: str) -> StoreError:
        """A StoreError that names the store, without its password."""
        return StoreError(f"store {self.url}: {message}", url=self.url)

    @contextmanager
    def _guard(self, expected: str) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            if "url" in error.details:
                raise
            raise self.error(error.message) from error
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise self.error(
                f"expected {expected}, got {type(cause).__name__}: {self._plain(cause)}"
            ) from error
        except (sqlite3.Error, OSError, ImportError, ValueError, TypeError) as error:
            raise self.error(
                f"expected {expected}, got {type(error).__name__}: {self._plain(error)}"
            ) from error

    def _plain(self, error: BaseException) -> str:
        text = " ".join(str(error).split())[:300]
        if self._url.password:
            text = text.replace(str(self._url.password), "***")
        return _IN_TEXT.sub(r"\1:***@", text)

    # ------------------------------------------------------------------------------------------------- the file

    def _identity(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _follow_file(self) -> None:
        """An unlinked SQLite file would swallow writes for ever: notice it, and follow a file put in its place."""
        if self._path is None:
            return
        now = self._identity()
        if now == self._file:
            return
        self.engine.dispose()
        if now is None:
            raise self.error("expected the file to stay, but it was deleted while in use")
        self._open()


def upsert(connection: Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert ``rows``, overwriting those that are there. All rows have the same columns."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(table)
    keys = [c.name for c in table.primary_key.columns]
    changed = {c: insert.excluded[c] for c in rows[0] if c not in keys}
    if changed:
        statement = insert.on_conflict_do_update(index_elements=keys, set_=changed)
    else:
        statement = insert.on_conflict_do_nothing(index_elements=keys)
    connection.execute(statement, list(rows))


def bump(connection: Connection) -> int:
    """Raise the revision by one and return it. First in every writing transaction: its row is the writers' lock."""
    value = tables.meta.c.value
    connection.execute(
        tables.meta.update().where(tables.meta.c.key == "revision").values(value=value + 1)
    )
    return int(connection.scalar(value_of("revision")) or 0)


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    write = options.get("isplit_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def read_revision(connection: Connection) -> str:
    """The store's id and revision, ``<hexadecimal>.<number>``: another text for every other content."""
    store_id = int(connection.scalar(value_of("store_id")) or 0)
    return f"{store_id:x}.{int(connection.scalar(value_of('revision')) or 0)}"


def value_of(key: str) -> sa.Select[Any]:
    """The query for a value of the table ``isplit_meta``."""
    return sa.select(tables.meta.c.value).where(tables.meta.c.key == key)


def _parse(url: str | Path) -> URL:
    text = str(url)
    shown = _IN_TEXT.sub(r"\1:***@", text)
    try:
        parsed = make_url(text) if "://" in text else URL.create("sqlite", database=text)
        backend = parsed.get_backend_name()
    except (SQLAlchemyError, ValueError) as error:
        raise StoreError(
            f"store {shown}: expected a URL such as sqlite:////var/lib/isplit.db", url=shown
        ) from error
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(
            f"store {shown}: expected sqlite or postgresql, found {backend}", url=shown
        )
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError(
            f"store {shown}: expected a file, for several processes share it; found none", url=shown
        )
    return parsed


def _file_of(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite":
        return None
    database = str(url.database)
    return Path(database.removeprefix("file:")) if database.startswith("file:") else Path(database)


def cut_of(row: sa.Row[Any]) -> Cut:
    """The cut that a row's columns ``split_point`` and ``codec`` name. Raises StoreError."""
    try:
        return Cut.of(row.split_point, row.codec)
    except QueryError as error:
        raise StoreError(f"expected a codec, found {row.codec[:100]!r}") from error


def cut_columns(cut: Cut) -> dict[str, str]:
    """The columns that name a cut."""
    return {"split_point": cut.split_point, "codec": cut.coding}
