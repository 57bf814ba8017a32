"""The connection to the database: opening it, transactions, and errors.

SQLite (WAL) by default, PostgreSQL through ``postgresql+psycopg://``. Vectors cannot be added in
SQL, so a writer reads, adds and writes back within one transaction, and writers come one after the
other: on SQLite through BEGIN IMMEDIATE, on PostgreSQL because every writing transaction begins
with the revision, whose row stays locked until the commit.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError

from ..errors import StoreBusyError, StoreError
from .rows import tables
from .rows.revisions import meta_value, raise_revision
from .urls import parse_url, sqlite_file, without_password

BUSY_TIMEOUT_S: Final = 2.0
STALLED_S: Final = 5.0
"""Seconds after which PostgreSQL ends a writing transaction whose process does nothing.

A process that was stopped, or a host that vanished, holds the lock of all writers. The process
writes again later: what was not committed is still in its delta.
"""
_READABLE: Final = "a readable store"
_LOCK_NOT_AVAILABLE: Final = "55P03"
"""PostgreSQL's code of an error (its manual, appendix A)."""
_OPENING_LOCK: Final = 0x15B117
_abandoned: Final[list[Engine]] = []
"""Engines of parent processes. Collecting them would close the connections of the parent."""


class Database:
    """The database of a store.

    Opens it and creates its tables. Every method that accesses the database raises StoreError.

    Attributes:
        url: where it is, without password.
        half_life_s: the half-life that the store was made with.
        opened: how often the database was opened; more than once where a file was replaced.
    """

    def __init__(
        self, url: str | Path, *, create: bool, half_life_s: int, busy_timeout_s: float
    ) -> None:
        self._url = parse_url(url)
        self.url = self._url.set(query={}).render_as_string(hide_password=True)
        self.half_life_s = half_life_s
        self._timeout_s = busy_timeout_s
        self._path = sqlite_file(self._url)
        self._file: tuple[int, int] | None = None
        self._create = create
        self._reading = threading.local()
        self.opened = 0
        with self._errors("an SQLite file or a PostgreSQL database"):
            self._engine = self._new_engine()
        try:
            self._open()
        except BaseException:
            self._engine.dispose()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one consistent state until its end.

        Inside of :meth:`reading` it is that one's.
        """
        with self._errors(_READABLE):
            outer = self._shared()
            if outer is not None:
                yield outer
                return
            with self._read_transaction() as connection:
                yield connection

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What this thread reads inside, it reads by one connection, of one state.

        For a block of code, never for a generator that others may leave unfinished. Errors of the
        block itself stay what they are.
        """
        if self._shared() is not None:
            yield
            return
        with ExitStack() as transaction:
            with self._errors(_READABLE):
                connection = transaction.enter_context(self._read_transaction())
            self._reading.connection = connection
            try:
                yield
            finally:
                self._reading.connection = None
                with self._errors(_READABLE):
                    transaction.close()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What fails inside costs the rest of :meth:`reading` nothing.

        After an error of SQL, PostgreSQL answers nothing more in the same transaction, except from
        a savepoint on. SQLite does, and is spared the two statements.
        """
        connection = self._shared()
        if connection is None or connection.dialect.name == "sqlite":
            yield
            return
        with self._errors(_READABLE):
            savepoint = connection.begin_nested()
        try:
            yield
        except BaseException:
            with self._errors(_READABLE):
                savepoint.rollback()
            raise
        with self._errors(_READABLE):
            savepoint.commit()

    @contextmanager
    def write(self) -> Iterator[tuple[Connection, int]]:
        """A transaction that no other writer overlaps, and the revision that it makes."""
        with self._errors("a writable store"):
            self._follow_file()
            with self._write_transaction() as connection:
                yield connection, raise_revision(connection)

    @contextmanager
    def maintain(self) -> Iterator[Connection]:
        """A connection outside any transaction."""
        with self._errors("a store that nobody else has locked"):
            self._follow_file()
            engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                yield connection

    def error(self, message: str, **details: Any) -> StoreError:
        """A StoreError that names the store, without its password."""
        return StoreError(f"store {self.url}: {message}", url=self.url, **details)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def after_fork(self) -> None:
        """In a child process: forget the parent's connections without closing them."""
        _abandoned.append(self._engine)
        self._reading = threading.local()
        self._engine = self._new_engine()

    def _shared(self) -> Connection | None:
        """The connection of :meth:`reading` of this thread."""
        connection: Connection | None = getattr(self._reading, "connection", None)
        return connection

    @contextmanager
    def _read_transaction(self) -> Iterator[Connection]:
        self._follow_file()
        engine = self._engine
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with engine.connect() as connection, connection.begin():
            yield connection

    # ------------------------------------------------------------------------------------ opening

    def _new_engine(self) -> Engine:
        if self._path is None:
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
        connection.isolation_level = None  # _on_begin begins transactions, not the driver
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                # Several processes that open a new file together: the switch to WAL does not wait.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous=NORMAL")

    def _open(self) -> None:
        if self._path is not None:
            if self._path.is_dir():
                raise self.error("expected the path of a file, got a directory")
            if not self._create and not self._path.exists():
                raise self.error("expected an existing file, found none")
        with self._errors(f"a store of schema {tables.SCHEMA}"):
            with self._engine.connect() as connection:
                schema = _schema_of(connection)
            if schema is None:
                schema = self._create_tables()
            if schema != tables.SCHEMA:
                raise self.error(
                    f"expected schema {tables.SCHEMA}, found {schema}: "
                    "another version of isplit-plugin wrote this store"
                )
            with self._engine.connect() as connection:
                self.half_life_s = connection.scalar(meta_value("half_life_s")) or self.half_life_s
        self._file = self._file_identity()
        self.opened += 1

    def _create_tables(self) -> int:
        """Create the tables, unless another process was first; returns the schema's number."""
        with self._write_transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OPENING_LOCK)))
            schema = _schema_of(connection)
            if schema is not None:
                return schema
            if not self._create:
                raise self.error("expected a store, found none of its tables")
            tables.metadata.create_all(connection)
            values = {
                "schema": tables.SCHEMA,
                "revision": 0,
                "half_life_s": self.half_life_s,
                "store_id": secrets.randbits(48),
            }
            rows = [{"key": key, "value": value} for key, value in values.items()]
            connection.execute(tables.meta.insert(), rows)
        return tables.SCHEMA

    @contextmanager
    def _write_transaction(self) -> Iterator[Connection]:
        engine = self._engine.execution_options(isplit_write=True)
        with engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                milliseconds = int(STALLED_S * 1000)
                connection.exec_driver_sql(
                    f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
                )
            yield connection

    # ------------------------------------------------------------------------------------- errors

    @contextmanager
    def _errors(self, expected: str) -> Iterator[None]:
        """Turn every error of the database into a StoreError that names the store."""
        try:
            yield
        except StoreError as error:
            if "url" in error.details:
                raise
            raise self.error(error.message, **error.details) from error
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            text = f"expected {expected}, got {self._text_of(cause)}"
            if _is_busy(cause):
                raise StoreBusyError(f"store {self.url}: {text}", url=self.url) from error
            raise self.error(text) from error
        except (sqlite3.Error, OSError, ImportError, ValueError, TypeError) as error:
            raise self.error(f"expected {expected}, got {self._text_of(error)}") from error

    def _text_of(self, error: BaseException) -> str:
        text = " ".join(str(error).split())[:300]
        return f"{type(error).__name__}: {without_password(text, self._url)}"

    # ----------------------------------------------------------------------------------- the file

    def _file_identity(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _follow_file(self) -> None:
        """Open the file again if it was replaced. Writes to a deleted file would be lost."""
        if self._path is None:
            return
        identity = self._file_identity()
        if identity == self._file:
            return
        self._engine.dispose()
        if identity is None:
            raise self.error("expected the file to stay, but it was deleted while in use")
        self._open()


def _schema_of(connection: Connection) -> int | None:
    """The number of the store's schema; ``None`` where the database has no tables of a store."""
    if not sa.inspect(connection).has_table(tables.meta.name):
        return None
    schema: int | None = connection.scalar(meta_value("schema"))
    if schema is None:
        raise StoreError("expected a schema number, found none: the store is damaged")
    return schema


def _is_busy(error: BaseException) -> bool:
    """Whether the database did nothing because another writer held it."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorname == "SQLITE_BUSY"
    return getattr(error, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    write = options.get("isplit_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
