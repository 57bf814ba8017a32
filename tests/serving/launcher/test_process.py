"""The server's process: its folders, its ports, and its end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from isplit_plugin.errors import ServingError
from isplit_plugin.serving.launcher import process
from isplit_plugin.serving.launcher.process import Frontend, log_tail, read_properties


def test_properties_are_read_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_text("# a=1\nvmargs = -Xmx2g -Da=b\n\nmodels={}\nno pair\n")
    assert read_properties(path) == {"vmargs": "-Xmx2g -Da=b", "models": "{}"}


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "none.log") == ""
    path = tmp_path / "some.log"
    path.write_bytes(b"\xff\n" * 100_000 + b"one\ntwo\nthree")
    assert log_tail(path, lines=2) == "two\nthree"


def test_sockets_get_a_short_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = process._short_folder()
    try:
        assert len(f"{folder}/.ts.sock.65535") < 108
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        folder.rmdir()
    assert list(long.iterdir()) == []


def test_the_end_of_a_group_that_does_not_want_to(tmp_path: Path) -> None:
    """Neither the leader nor its child heeds SIGTERM; and the leader alone does."""
    for stubborn_leader in (True, False):
        ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
        child = f"import signal, time; {ignore}; print(flush=True); time.sleep(600)"
        leader = (
            f"import signal, subprocess, sys, time; {ignore if stubborn_leader else 'pass'}; "
            f"c = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); "
            "c.stdout.readline(); print(c.pid, flush=True); time.sleep(600)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", leader],
            start_new_session=True,
            stdout=subprocess.PIPE,
        ) as running:
            assert running.stdout is not None
            pid = int(running.stdout.readline())
            process._end_group(running, grace=0.2)
        assert running.returncode in (-signal.SIGKILL, -signal.SIGTERM)
        for ended in (pid, running.pid):
            with contextlib.suppress(
                psutil.NoSuchProcess
            ):  # or a zombie, where nobody collects orphans
                assert psutil.Process(ended).status() == psutil.STATUS_ZOMBIE


def test_a_frontend_that_cannot_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(process, "find_java", lambda: tmp_path / "java")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    frontend = Frontend(
        tmp_path / "work",
        {},
        model_store=tmp_path,
        models=[],
        log_config=tmp_path / "log4j2.xml",
        environment={},
    )
    with pytest.raises(ServingError, match="cannot start TorchServe"):
        frontend.start()
    assert frontend.pid is None
    assert list(scratch.iterdir()) == []
    frontend.stop()
