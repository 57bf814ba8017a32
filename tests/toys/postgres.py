"""A PostgreSQL server for the tests, from a wheel, in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from benchmarks.soak.database import database


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
    """Start it, and stop it and remove its folder at the end, also if this process is killed."""
    with database() as running:
        postgres = Postgres(make_url(running.url))
        try:
            yield postgres
        finally:
            postgres.close()
