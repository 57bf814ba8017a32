"""Run a command that must not outlive the process that started it.

The launcher runs this file as a program: ``python guard.py PARENT [--remove PATH] -- COMMAND``. The
guard leads a process group and runs the command in it. It passes SIGTERM on and exits when the
command does. If the parent dies, in whatever way, the guard ends the process group and removes the
paths.

The guard runs as long as the server. It imports nothing else of this package, to stay small.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil

_POLL_S: Final = 0.1
_GRACE_S: Final = 8.0


def main() -> int:
    """Run the command and return its exit code; 128 plus the signal if a signal ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parent", type=int, help="process id of the process that starts the guard")
    parser.add_argument("--remove", action="append", type=Path, default=[], metavar="PATH")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    try:
        command = subprocess.Popen(options.command)
    except OSError as error:
        print(f"cannot start {options.command[0]}: {error}", file=sys.stderr)
        return 127
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    # An orphan gets another parent. Comparing ids also notices a parent that died before this line.
    while command.poll() is None and os.getppid() == options.parent:
        time.sleep(_POLL_S)
    if os.getppid() != options.parent:
        _end_group(command)
        for path in options.remove:
            _remove(path)
    status = command.wait()
    return status if status >= 0 else 128 - status


def group_members(group: int) -> list[psutil.Process]:
    """The living processes of a process group, without zombies."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def _end_group(command: subprocess.Popen[bytes]) -> None:
    """End the command and then what is left of this process group, the guard excepted."""
    command.terminate()
    deadline = time.monotonic() + _GRACE_S
    while others := _others():
        if time.monotonic() > deadline:
            for process in others:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        command.poll()
        time.sleep(_POLL_S)


def _others() -> list[psutil.Process]:
    return [process for process in group_members(os.getpgrp()) if process.pid != os.getpid()]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
