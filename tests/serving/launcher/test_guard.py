"""The guard: nothing of a command is left when its parent has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from toys.polling import until

from isplit_plugin.serving.launcher import guard

# Starts a child that ignores SIGTERM, writes both process ids, and sleeps.
_COMMAND = """
import os, subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
print(os.getpid(), process.pid, flush=True)
time.sleep(600)
"""


def _guard(parent: int, command: Sequence[str], *, remove: Sequence[Path] = ()) -> list[str]:
    options = [f"--remove={path}" for path in remove]
    return [sys.executable, "-P", guard.__file__, str(parent), *options, "--", *command]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_command_whose_parent_died(
    tmp_path: Path, ending: signal.Signals
) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "content").touch()
    file.touch()
    command = _guard(0, [sys.executable, "-c", _COMMAND], remove=[folder, file])
    script = f"""
    import os, subprocess, time
    command = {command!r}
    command[3] = str(os.getpid())
    subprocess.Popen(command, start_new_session=True)
    time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        group = os.getpgid(pids[0])
        assert len(guard.group_members(group)) == 3  # the guard, the command and its child
        parent.send_signal(ending)
        until(lambda: not guard.group_members(group))
    assert [pid for pid in pids if _alive(pid)] == []
    assert not folder.exists()
    assert not file.exists()


def test_a_guard_whose_parent_died_before_it_started_ends_at_once() -> None:
    command = _guard(2**22, [sys.executable, "-c", "import time; time.sleep(600)"])
    run = subprocess.run(command, start_new_session=True, timeout=120, check=False)
    assert run.returncode == 128 + signal.SIGTERM


def test_the_guard_exits_as_the_command_does() -> None:
    command = _guard(os.getpid(), [sys.executable, "-c", "raise SystemExit(7)"])
    assert subprocess.run(command, start_new_session=True, timeout=120, check=False).returncode == 7


def test_the_guard_says_that_there_is_no_command(tmp_path: Path) -> None:
    command = _guard(os.getpid(), [str(tmp_path / "java")])
    run = subprocess.run(
        command, start_new_session=True, timeout=120, capture_output=True, text=True, check=False
    )
    assert run.returncode == 127
    assert f"cannot start {tmp_path / 'java'}" in run.stderr


def test_sigterm_is_passed_on() -> None:
    heeding = "import time; print(flush=True); time.sleep(600)"
    with subprocess.Popen(
        _guard(os.getpid(), [sys.executable, "-c", heeding]),
        start_new_session=True,
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.terminate()
        assert running.wait(60) == 128 + signal.SIGTERM
