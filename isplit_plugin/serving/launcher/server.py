"""``TorchServe``: start a server, wait until its models are ready, and stop it cleanly."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ...device_tokens import SECRET_VARIABLE, new_secret
from ...errors import AuthenticationError, ServerUnavailableError, ServingError, UnknownModelError
from ..model_store import archive_identity, find_archives
from ..resources import config_file
from ..settings import STORE_VARIABLE
from ..settings_file import SETTINGS_VARIABLE
from .key_file import KeyFile, TokenKind
from .management import ModelStatus, call, describe_workers, model_status
from .ports import check_port, free_ports, taken_address
from .process import Frontend, log_tail, read_properties
from .registry import LOG_DELAY_S, load_failure, register, set_default, unregister
from .worker_environment import check_secrets, settings_of, worker_environment

_START_TRIES: Final = 3
_WORKER_DIED: Final = "Backend worker process died"
# Keys of config.properties that follow from parameters of TorchServe().
_RESERVED_KEYS: Final = frozenset(
    {
        "inference_address",
        "management_address",
        "metrics_address",
        "enable_model_api",
        "disable_token_authorization",
        "token_expiration_min",
        "model_store",
    }
)


class TorchServe:
    """A TorchServe on this machine, as a context manager.

    When it ends, or this process does, however that happens, no process, socket or key file is
    left.

    Parameters:
        model_store: folder with ``.mar`` archives.
        models: file names (or paths) of archives in ``model_store`` to load at the start; ``None``
            loads all of them.
        workdir: folder for configuration, key file and log. By default a private temporary folder,
            which is removed at the end.
        host: address to listen on. The management and metrics ports always listen on 127.0.0.1.
        inference_port, management_port, metrics_port: 0 takes a free port. Others are checked
            before anything is started.
        store: URL of the store, given to the workers as ``ISPLIT_STORE``. Relative paths, here and
            in the environment, are relative to the current folder.
        devices: whether devices are known by device tokens. The workers get the operator's secret:
            the file that ``ISPLIT_SECRET_FILE`` names, as the servers of a fleet share one; by default
            ``workdir/device.secret``, which is made (mode 0600) if it does not exist.
        tokens: whether TorchServe requires its own tokens.
        token_minutes: how long such a token is valid.
        model_api: whether models can be registered after the start (:meth:`register`). Off by
            default: if it is on, the holder of a management token can register any directory of
            this machine.
        settings: more keys of TorchServe's ``config.properties``; they take precedence over the
            file that ships with this package.
        environment: more environment variables for the workers.
        worker_settings: settings of the workers, in the sections ``tail``, ``models`` and
            ``endpoint`` of a settings file; or the path of such a file. They take precedence over
            what the archives hold, and over the file that ``ISPLIT_SETTINGS`` names.
        log_config: a log4j2 file, instead of the one that ships with this package.
        timeout: seconds within which all models must be ready.

    Attributes:
        inference_url: address of the inference API; empty before the start.
        management_url: address of the management API; empty before the start.
        metrics_url: address of the metrics API; empty before the start.

    Raises:
        ServingError: the model store, a model, a key of ``settings`` or a setting of the workers
            cannot be used.
    """

    def __init__(
        self,
        *,
        model_store: str | Path,
        models: Sequence[str | Path] | None = None,
        workdir: str | Path | None = None,
        host: str = "127.0.0.1",
        inference_port: int = 0,
        management_port: int = 0,
        metrics_port: int = 0,
        store: str | None = None,
        devices: bool = False,
        tokens: bool = True,
        token_minutes: float = 60.0,
        model_api: bool = False,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        worker_settings: Mapping[str, Any] | str | Path | None = None,
        log_config: str | Path | None = None,
        timeout: float = 180.0,
    ) -> None:
        self._model_store = Path(model_store).resolve()
        self._archives = _find_archives(self._model_store, models)
        self._temporary_workdir = workdir is None
        self._workdir = None if workdir is None else Path(workdir).resolve()
        self._host = host
        self._ports = (inference_port, management_port, metrics_port)
        self._devices = devices
        self._tokens = tokens
        self._token_minutes = token_minutes
        self._model_api = model_api
        self._settings = dict(settings or {})
        if reserved := sorted(_RESERVED_KEYS & self._settings.keys()):
            raise ServingError(
                f"settings: {', '.join(reserved)}: expected only keys that TorchServe() has no "
                "parameter for"
            )
        overrides = {STORE_VARIABLE: store} if store else {}
        self._environment = worker_environment(overrides | dict(environment or {}))
        self._worker_settings = settings_of(self._environment, worker_settings, self.models)
        self._log_config = Path(log_config) if log_config else config_file("log4j2.xml")
        self._timeout = timeout
        self._frontend: Frontend | None = None
        self._keys: KeyFile | None = None
        self.inference_url = ""
        self.management_url = ""
        self.metrics_url = ""

    # Start and stop

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the server and wait until every model has a ready worker.

        Raises:
            ServingError: a port is taken, which the message says in one line; or the server does
                not start, and the message ends with the end of its log.
            BundleError: a file in the model store is not an archive.
            SecretError: the file of a secret is missing, or others than its owner may read it.
        """
        if self._frontend is not None:
            raise ServingError("this TorchServe is already running")
        if self._workdir is None:
            self._workdir = Path(tempfile.mkdtemp(prefix="isplit-serve-"))
        atexit.register(self.stop)
        try:
            self._start(self._workdir)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and its workers, and remove temporary files. Safe to call twice."""
        atexit.unregister(self.stop)
        try:
            self._stop_frontend()
        finally:
            if self._temporary_workdir and self._workdir is not None:
                shutil.rmtree(self._workdir, ignore_errors=True)
                self._workdir = None

    # The running server

    @property
    def pid(self) -> int | None:
        """Process group of the server; ``None`` if it does not run."""
        return self._frontend.pid if self._frontend else None

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that are loaded at the start."""
        return tuple(dict.fromkeys(archive_identity(path)[0] for path in self._archives))

    @property
    def log_path(self) -> Path:
        """The log of server and workers."""
        return self._running().log_path

    @property
    def key_path(self) -> Path:
        """TorchServe's key file (mode 0600)."""
        return self._running().key_path

    @property
    def secret_path(self) -> Path:
        """The operator's secret, for :func:`device_tokens.issue`. Needs ``devices=True``."""
        named = self._environment.get(SECRET_VARIABLE)
        return Path(named) if named else _secret_path(self._running().workdir)

    def token(self, kind: TokenKind = "inference") -> str:
        """A valid token, renewed if it is about to expire; empty if TorchServe requires none.

        Whatever outlives a token should be given this method instead of its result. Raises as
        :meth:`KeyFile.token`.
        """
        self._running()
        return self._keys.token(kind) if self._keys else ""

    def management_token(self) -> str:
        """As :meth:`token`, for the management API."""
        return self.token("management")

    def renew_token(self, kind: TokenKind = "inference") -> str:
        """Replace a token now, which makes the old one invalid."""
        self._running()
        return self._keys.renew(kind) if self._keys else ""

    def keep_tokens(self) -> None:
        """Renew the tokens that are about to expire, so that the key file holds valid ones.

        Call it every few seconds where other programs read the key file. Raises as :meth:`token`.
        """
        self.token("inference")
        self.token("management")

    def status(self, model: str, *, version: str | None = None) -> ModelStatus:
        """The state of a model and its workers. Raises UnknownModelError, ServingError."""
        return model_status(
            self.management_url, model, version=version, token=self.management_token
        )

    def describe(self, model: str, *, version: str | None = None) -> list[dict[str, Any]]:
        """What each worker of a model says about itself. Raises UnknownModelError, ServingError.

        A tail worker says what it served, and gives the counters of its statistics.
        """
        return describe_workers(
            self.management_url, model, version=version, token=self.management_token
        )

    def register(self, archive: str | Path, *, workers: int = 1) -> ModelStatus:
        """Register another archive of the model store. Needs ``model_api=True``.

        Raises as :func:`register`.
        """
        return register(
            self.management_url,
            self._model_store / Path(archive).name,
            token=self.management_token,
            workers=workers,
            log_path=self.log_path,
            timeout=self._timeout,
        )

    def set_default(self, model: str, version: str) -> ModelStatus:
        """Make a registered version the default one. Needs ``model_api=True``.

        Raises as :func:`set_default`.
        """
        return set_default(self.management_url, model, version, token=self.management_token)

    def unregister(self, model: str, *, version: str | None = None) -> None:
        """Unregister a model. Needs ``model_api=True``. Raises UnknownModelError, ServingError."""
        unregister(self.management_url, model, version=version, token=self.management_token)

    # How it starts

    def _running(self) -> Frontend:
        if self._frontend is None:
            raise ServingError("this TorchServe is not running")
        return self._frontend

    def _start(self, workdir: Path) -> None:
        """Start the frontend, and start it again if another program took one of the free ports."""
        for tries_left in reversed(range(_START_TRIES)):
            self._start_frontend(workdir)
            try:
                self._wait_until_ready()
            except ServingError as error:
                taken = taken_address(error.message)
                if taken is None:
                    raise
                if not (tries_left and 0 in self._ports):
                    raise self._taken_error(taken, error) from error
                self._stop_frontend()
            else:
                return

    def _check_ports(self) -> None:
        hosts = (self._host, "127.0.0.1", "127.0.0.1")
        names = ("inference_port", "management_port", "metrics_port")
        for host, port, name in zip(hosts, self._ports, names, strict=True):
            check_port(host, port, name)

    def _start_frontend(self, workdir: Path) -> None:
        self._check_ports()
        free = iter(free_ports(6))
        inference, management, metrics = (port or next(free) for port in self._ports)
        self.inference_url = f"http://{self._host}:{inference}"
        self.management_url = f"http://127.0.0.1:{management}"
        self.metrics_url = f"http://127.0.0.1:{metrics}"
        properties = read_properties(config_file("config.properties"))
        properties.update(
            inference_address=self.inference_url,
            management_address=self.management_url,
            metrics_address=self.metrics_url,
            grpc_inference_port=str(next(free)),
            grpc_management_port=str(next(free)),
            initial_worker_port=str(next(free)),
            disable_token_authorization=str(not self._tokens).lower(),
            token_expiration_min=f"{self._token_minutes:g}",
            enable_model_api=str(self._model_api).lower(),
            metrics_config=str(config_file("metrics.yaml")),
            allowed_urls=f"{self._model_store.as_uri()}/.*",
        )
        properties.update(self._settings)
        environment = dict(self._environment)
        if self._devices and not environment.get(SECRET_VARIABLE):
            environment[SECRET_VARIABLE] = str(_make_secret(workdir))
        check_secrets(environment, self._worker_settings)
        if self._worker_settings is not None:
            settings_path = workdir / "settings.yaml"
            workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._worker_settings.write(settings_path)
            environment[SETTINGS_VARIABLE] = str(settings_path)
        self._frontend = Frontend(
            workdir,
            properties,
            model_store=self._model_store,
            models=[f"{archive_identity(path)[0]}={path.name}" for path in self._archives],
            log_config=self._log_config,
            environment=environment,
            temporary=self._temporary_workdir,
        )
        if self._tokens:
            self._keys = KeyFile(self._frontend.key_path, self.management_url)
        self._frontend.start()

    def _stop_frontend(self) -> None:
        frontend = self._frontend
        self._frontend = None
        self._keys = None
        if frontend is not None:
            frontend.stop()

    def _wait_until_ready(self) -> None:
        frontend = self._running()
        deadline = time.monotonic() + self._timeout
        waiting = [archive_identity(path) for path in self._archives]
        while True:
            if frontend.pid is None:
                raise self._start_error("TorchServe ended while starting")
            try:
                waiting = [
                    (name, version)
                    for name, version in waiting
                    if not self.status(name, version=version).ready
                ]
                if not waiting and self._answers():
                    return
            except UnknownModelError as error:
                raise self._start_error(
                    f"TorchServe did not load a model: {error.message}", log_delay_s=LOG_DELAY_S
                ) from error
            except (ServerUnavailableError, AuthenticationError):
                pass  # the ports are not bound yet, or an earlier server still answers there
            except ServingError:
                if frontend.key_path.exists() or not self._tokens:
                    raise
                # The key file appears a moment after the process.
            names = ", ".join(name for name, _ in waiting) or "the server"
            if _WORKER_DIED in log_tail(frontend.log_path, lines=2000):
                raise self._start_error(
                    f"a worker of {names} died while loading", log_delay_s=LOG_DELAY_S
                )
            if time.monotonic() > deadline:
                raise self._start_error(f"{names} not ready after {self._timeout:g} s")
            time.sleep(0.1)

    def _answers(self) -> bool:
        """Whether the inference port answers: TorchServe binds its ports one after the other."""
        return call("GET", f"{self.inference_url}/ping", token=self.token).status_code == 200

    def _start_error(self, message: str, *, log_delay_s: float = 0.0) -> ServingError:
        log_path = self._running().log_path
        failure = load_failure(log_path, timeout_s=log_delay_s)
        log = log_tail(log_path)
        if failure:
            message = f"{message}: {failure}"
        return ServingError(f"{message}\n--- end of {log_path}\n{log}", reason=failure, log=log)

    def _taken_error(self, address: str, error: ServingError) -> ServingError:
        """What a user needs of a start that failed for a port; TorchServe's trace is in the log."""
        message = f"TorchServe ended while starting: {address or 'a port'} was taken meanwhile"
        if not self._temporary_workdir:
            message += f"; start again, or choose other ports (log: {self.log_path})"
        return ServingError(message, **error.details)


def _find_archives(model_store: Path, models: Sequence[str | Path] | None) -> list[Path]:
    if models is None:
        return find_archives(model_store)
    if not model_store.is_dir():
        raise ServingError(f"model store {model_store} is not a folder")
    paths = [model_store / Path(model).name for model in models]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ServingError(f"not in the model store {model_store}: {', '.join(missing)}")
    return paths


def _secret_path(workdir: Path) -> Path:
    return workdir / "device.secret"


def _make_secret(workdir: Path) -> Path:
    """The operator's secret, made if it does not exist. Raises SecretError."""
    path = _secret_path(workdir)
    if not path.exists():
        workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        new_secret(path)
    return path
