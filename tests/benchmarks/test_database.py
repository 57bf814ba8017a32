"""The PostgreSQL of the soak and of the tests: nothing of it is left when its process has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from toys.polling import until

from benchmarks.soak.end_postgres import server_processes

_SCRIPT = """
import time
from benchmarks.soak.database import database
with database() as running:
    print(running.url, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_its_process(ending: signal.Signals) -> None:
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": scratch},
        ) as running,
    ):
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        (folder,) = Path(scratch).glob("isplit-pg-*")
        data = str(folder / "data")
        assert make_url(url).drivername == "postgresql+psycopg"
        assert len(server_processes(data)) > 3  # PostgreSQL is some processes
        running.send_signal(ending)
        until(lambda: server_processes(data) == [])
        until(lambda: not folder.exists())
