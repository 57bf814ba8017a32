"""The TorchServe frontend as a child process: command line, private folders, log, and an end without leftovers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from ...errors import ServingError
from .java import find_java

# AF_UNIX paths end at 107 characters; TorchServe adds "/.ts.sock.65535".
_MAX_SOCKET_FOLDER = 85


def free_ports(count: int) -> list[int]:
    """``count`` different TCP ports of the loopback interface that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


def read_properties(path: Path) -> dict[str, str]:
    """The pairs of a Java properties file, as far as TorchServe's configuration uses the format."""
    pairs = (
        line.split("=", 1)
        for line in path.read_text("utf-8").splitlines()
        if "=" in line and line[:1] != "#"
    )
    return {key.strip(): value.strip() for key, value in pairs}


def log_tail(path: Path, *, lines: int = 40) -> str:
    """The last lines of a log; empty where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 64 * 1024))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


class Frontend:
    """One TorchServe frontend with folders of its own; :meth:`stop` leaves neither process nor socket behind.

    TorchServe's own launcher keeps one pid file per machine and stops whichever server owns it, so the Java process is
    started directly. It gets a session of its own: workers are its children, and the whole group can be ended.

    Parameters: ``workdir``, where configuration, token file and log are written (one server at a time); ``settings``,
    the complete configuration; ``environment``, additions to the environment of server and workers.
    """

    def __init__(
        self,
        workdir: Path,
        settings: Mapping[str, str],
        *,
        model_store: Path,
        models: Sequence[str],
        log_config: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.workdir = workdir
        self.log_path = workdir / "torchserve.log"
        self.key_path = workdir / "key_file.json"
        self._settings = dict(settings)
        self._model_store = model_store
        self._models = list(models)
        self._log_config = log_config
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        self._lock: IO[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process id (and process group) of the frontend; ``None`` when it is not running."""
        return (
            None if self._process is None or self._process.poll() is not None else self._process.pid
        )

    def start(self) -> None:
        """Start the process and return at once. Raises ServingError (no Java, folder in use)."""
        java = find_java()
        self._lock = self._lock_workdir()
        try:
            self._scratch = _short_folder()
            self.key_path.unlink(missing_ok=True)
            properties = self.workdir / "config.properties"
            properties.write_text("".join(f"{k}={v}\n" for k, v in self._settings.items()), "utf-8")
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command(java, properties),
                    cwd=self.workdir,
                    env=self._env(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=0o077,
                )
        except OSError as error:
            self.stop()
            raise ServingError(f"cannot start TorchServe: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self, *, grace: float = 15.0) -> None:
        """End the server: SIGTERM, ``grace`` seconds, then SIGKILL to what is left of the group. Safe to call twice."""
        process, self._process = self._process, None
        try:
            if process is not None:
                _end_group(process, grace)
        finally:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch = None
            if self._lock is not None:  # without it the token file is another server's
                self.key_path.unlink(missing_ok=True)
                self._lock.close()
                self._lock = None

    def _lock_workdir(self) -> IO[str]:
        self.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (self.workdir / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise ServingError(
                f"{self.workdir} is in use by another server; give each its own workdir"
            ) from error
        return lock

    def _command(self, java: Path, properties: Path) -> list[str]:
        # Found without importing ts, which takes a second and configures logging.
        import importlib.util

        spec = importlib.util.find_spec("ts")
        if spec is None or spec.origin is None:
            raise ServingError("TorchServe is not installed: pip install 'isplit-plugin[server]'")
        home = Path(spec.origin).parent.parent
        return [
            str(java),
            f"-Dmodel_server_home={home}",
            f"-Dlog4j.configurationFile={self._log_config.resolve().as_uri()}",
            f"-Djava.io.tmpdir={self._scratch}",
            *self._settings.get("vmargs", "").split(),
            "-cp",
            str(home / "ts" / "frontend" / "*"),
            "org.pytorch.serve.ModelServer",
            "--python",
            sys.executable,
            "-f",
            str(properties),
            "-s",
            str(self._model_store),
            "-w",
            str(self._model_store),
            "-ncs",
            *(["-m", *self._models] if self._models else []),
        ]

    def _env(self) -> dict[str, str]:
        # TS_CONFIG_FILE would take precedence over -f.
        env = {k: v for k, v in os.environ.items() if k != "TS_CONFIG_FILE"}
        scratch, logs = str(self._scratch), str(self.workdir / "logs")
        env.update(
            TMPDIR=scratch, TEMP=scratch, TMP=scratch, LOG_LOCATION=logs, METRICS_LOCATION=logs
        )
        return {**env, **self._environment}


def _short_folder() -> Path:
    """A private folder for sockets and unpacked models whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="isplit-"))
    if len(str(folder)) <= _MAX_SOCKET_FOLDER:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="isplit-", dir="/tmp"))


def _group(pgid: int) -> list[psutil.Process]:
    """The living processes of a group; zombies are dead."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


def _end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    pgid = process.pid
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while (process.poll() is None or _group(pgid)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        # A second Ctrl-C ends the waiting, not the cleaning up.
        if process.poll() is None or _group(pgid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pgid, signal.SIGKILL)
        process.wait()
        while _group(pgid):
            time.sleep(0.02)
