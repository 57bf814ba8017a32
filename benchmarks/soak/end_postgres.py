"""End the PostgreSQL server of a data folder on SIGTERM: ``python end_postgres.py DATA``.

It waits under the launcher's guard, which sends SIGTERM as soon as the process that needs the server
has died. PostgreSQL itself cannot run there: it leaves every process group.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import Final

import psutil

_PROGRAMS: Final = ("postgres", "pg_ctl", "initdb")
_GRACE_S: Final = 3.0


def main() -> int:
    """Wait for SIGTERM, then end the server."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    print("ready", flush=True)
    while not told.wait(1.0):
        pass
    end(sys.argv[1])
    return 0


def server_processes(data: str) -> list[psutil.Process]:
    """The server of this data folder, its own processes, and what is about to start it."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() in _PROGRAMS and data in process.cmdline():
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return list(found.values())


def end(data: str) -> None:
    """End all processes of a server; the data need not survive."""
    while processes := server_processes(data):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGQUIT)  # at once, without writing everything
        _, alive = psutil.wait_procs(processes, _GRACE_S)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()


if __name__ == "__main__":
    sys.exit(main())
