"""TorchServe's frontend as a child process that leaves nothing behind when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from ...errors import ServingError
from . import guard
from .guard import group_members
from .java import find_java

# The path of a Unix socket has at most 107 characters, and TorchServe appends "/.ts.sock.65535".
_MAX_SOCKET_FOLDER: Final = 85
_LOG_TAIL_BYTES: Final = 64 * 1024


class Frontend:
    """One TorchServe frontend with folders of its own.

    TorchServe's start script keeps one pid file per machine and stops whichever server owns it, so
    this class starts the Java process itself. The process gets a session of its own with a guard
    (:mod:`.guard`): the workers are children of the Java process, and the whole process group ends
    when this process does.

    Parameters:
        workdir: folder for configuration, key file and log; for one server at a time.
        settings: the complete ``config.properties``.
        model_store: folder with the archives.
        models: ``NAME=FILE`` for each archive to load.
        log_config: log4j2 file.
        environment: additional environment variables of server and workers.
        temporary: whether the guard removes ``workdir`` if this process dies.

    Attributes:
        log_path: the output of server and workers.
        key_path: TorchServe's key file.
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
        temporary: bool = False,
    ) -> None:
        self.workdir = workdir
        self.log_path = workdir / "torchserve.log"
        self.key_path = workdir / "key_file.json"
        self._settings = dict(settings)
        self._model_store = model_store
        self._models = list(models)
        self._log_config = log_config
        self._extra_environment = dict(environment)
        self._temporary = temporary
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        self._lock: IO[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process group of guard, frontend and workers; ``None`` if the frontend does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self) -> None:
        """Start the process and return at once.

        Raises:
            ServingError: no Java, no TorchServe, or another server uses the folder.
        """
        java = find_java()
        self._lock = _lock_folder(self.workdir)
        try:
            self._scratch = _short_folder()
            self.key_path.unlink(missing_ok=True)
            properties = self.workdir / "config.properties"
            lines = [f"{key}={value}\n" for key, value in self._settings.items()]
            properties.write_text("".join(lines), "utf-8")
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    [*self._guard(), *self._command(java, properties)],
                    cwd=self.workdir,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=0o077,
                    # The guard keeps the folder locked until it has removed the key file.
                    pass_fds=[self._lock.fileno()],
                )
        except OSError as error:
            self.stop()
            raise ServingError(f"cannot start TorchServe: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self, *, grace: float = 15.0) -> None:
        """End the server and all its workers, and remove its temporary files. Safe to call twice.

        Sends SIGTERM, and after ``grace`` seconds SIGKILL to what is left of the process group.
        """
        process = self._process
        self._process = None
        try:
            if process is not None:
                _end_group(process, grace)
        finally:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch = None
            if self._lock is not None:  # without the lock, the key file is another server's
                self.key_path.unlink(missing_ok=True)
                self._lock.close()
                self._lock = None

    def _guard(self) -> list[str]:
        remove = [self.key_path, self._scratch, *([self.workdir] if self._temporary else [])]
        # -P: the folder of this file is not for imports.
        command = [sys.executable, "-P", guard.__file__, str(os.getpid())]
        return [*command, *(f"--remove={path}" for path in remove), "--"]

    def _command(self, java: Path, properties: Path) -> list[str]:
        home = _torchserve_home()
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

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment.pop("TS_CONFIG_FILE", None)  # it would take precedence over -f
        for variable in ("TMPDIR", "TEMP", "TMP"):
            environment[variable] = str(self._scratch)
        for variable in ("LOG_LOCATION", "METRICS_LOCATION"):
            environment[variable] = str(self.workdir / "logs")
        return environment | self._extra_environment


def read_properties(path: Path) -> dict[str, str]:
    """The pairs of a Java properties file, as far as TorchServe's configuration uses the format."""
    properties = {}
    for line in path.read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            properties[key.strip()] = value.strip()
    return properties


def log_tail(path: Path, *, lines: int = 40) -> str:
    """The last lines of a log; empty if it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _torchserve_home() -> Path:
    """The folder that holds the package ``ts``.

    Importing ``ts`` would take a second and configure logging, so the package is only located.
    """
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise ServingError("TorchServe is not installed: pip install 'isplit-plugin[server]'")
    return Path(spec.origin).parent.parent


def _lock_folder(folder: Path) -> IO[str]:
    """Make a folder and lock it for this process. Raises ServingError if another one holds it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ServingError(
            f"{folder} is in use by another server; give each server its own workdir"
        ) from error
    return lock


def _short_folder() -> Path:
    """A private folder for sockets and unpacked models, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="isplit-"))
    if len(str(folder)) <= _MAX_SOCKET_FOLDER:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="isplit-", dir="/tmp"))


def _end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    group = process.pid
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while (process.poll() is None or group_members(group)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        # In `finally`, so that a second Ctrl-C ends the waiting but not the cleaning up.
        if process.poll() is None or group_members(group):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        process.wait()
        while group_members(group):
            time.sleep(0.02)
