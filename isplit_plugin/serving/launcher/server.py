"""``TorchServe``: a context manager that starts a server, waits until its models are ready, and stops it cleanly."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...device_tokens import SECRET_VARIABLE, new_secret, read_secret
from ...errors import AuthenticationError, ServerUnavailableError, ServingError, UnknownModelError
from ..resources import config_file
from .management import KeyFile, ModelStatus, TokenKind, call, model_status, reason
from .process import Frontend, free_ports, log_tail, read_properties
from .registry import archive_identity, load_failure, register, unregister

_DEATH = "Backend worker process died"
_OURS = {"inference_address", "management_address", "metrics_address", "enable_model_api"}
_OURS |= {"disable_token_authorization", "token_expiration_min", "model_store"}
_PORT_TAKEN = ("Address already in use", "java.net.BindException")


class TorchServe:
    """A TorchServe of our own, on this machine.

    Parameters:
        model_store: folder with ``.mar`` archives.
        models: file names (or paths) of archives in ``model_store`` to load at start; ``None``: all of them.
        workdir: where configuration, token file and log go. Default: a private temporary folder, removed at the end.
        host: address to listen on; the management and metrics ports always listen on 127.0.0.1.
        inference_port, management_port, metrics_port: 0 takes a free port.
        store: URL of the statistics store, handed to the workers as ``ISPLIT_STORE``.
        devices: whether devices are known by tokens of ours (`isplit device issue`): the workers get the operator's
            secret, ``workdir/device.secret``, which is made (mode 0600) where there is none.
        tokens: whether TorchServe asks for tokens. ``token_minutes``: how long one is valid.
        model_api: whether models can be registered after the start (:meth:`register`). Off by default: with it on, the
            holder of a management token can register any directory of this machine.
        settings: further keys of TorchServe's ``config.properties``; they win over ours.
        environment: further environment variables for the workers.
        log_config: a log4j2 file instead of our quiet one.
        timeout: seconds until all models must be ready.

    Raises ServingError with the end of the server's log where it does not come up. Whatever happens, no process, socket
    or token file is left.
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
        log_config: str | Path | None = None,
        timeout: float = 180.0,
    ) -> None:
        self._model_store = Path(model_store).resolve()
        self._archives = self._find_archives(models)
        self._own_workdir = workdir is None
        self._workdir = None if workdir is None else Path(workdir).resolve()
        self._host = host
        self._ports = (inference_port, management_port, metrics_port)
        self._devices = devices
        self._tokens = tokens
        self._token_minutes = token_minutes
        self._model_api = model_api
        self._settings = dict(settings or {})
        if taken := sorted(_OURS & self._settings.keys()):
            raise ServingError(
                f"settings: {', '.join(taken)} follow from the parameters of TorchServe()"
            )
        self._environment = {**({"ISPLIT_STORE": store} if store else {}), **(environment or {})}
        self._log_config = Path(log_config) if log_config else config_file("log4j2.xml")
        self._timeout = timeout
        self._frontend: Frontend | None = None
        self._keys: KeyFile | None = None
        self.inference_url = self.management_url = self.metrics_url = ""

    # -- life

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
        """Start and wait until every model has a ready worker. Raises ServingError."""
        if self._frontend is not None:
            raise ServingError("this TorchServe is already running")
        if self._workdir is None:
            self._workdir = Path(tempfile.mkdtemp(prefix="isplit-serve-"))
        atexit.register(self.stop)
        try:
            for attempt in range(3):
                self._start_frontend(self._workdir)
                try:
                    self._wait_until_ready()
                except ServingError as error:
                    # A free port can be taken by somebody else between our look and the server's bind.
                    if (
                        attempt == 2
                        or 0 not in self._ports
                        or not any(t in error.message for t in _PORT_TAKEN)
                    ):
                        raise
                    self._stop_frontend()
                else:
                    return self
        except BaseException:
            self.stop()
            raise
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Stop the server and all its workers, and remove what was temporary. Safe to call twice."""
        atexit.unregister(self.stop)
        try:
            self._stop_frontend()
        finally:
            if self._own_workdir and self._workdir is not None:
                shutil.rmtree(self._workdir, ignore_errors=True)
                self._workdir = None

    def _stop_frontend(self) -> None:
        frontend, self._frontend, self._keys = self._frontend, None, None
        if frontend is not None:
            frontend.stop()

    # -- use

    @property
    def pid(self) -> int | None:
        """Process id of the frontend; ``None`` when it does not run."""
        return self._frontend.pid if self._frontend else None

    @property
    def log_path(self) -> Path:
        """The log of server and workers."""
        return self._running().log_path

    @property
    def key_path(self) -> Path:
        """TorchServe's token file (mode 0600)."""
        return self._running().key_path

    @property
    def secret_path(self) -> Path:
        """The operator's secret, for :func:`identity.issue`; there is one where ``devices`` is on."""
        return self._running().workdir / "device.secret"

    def token(self, kind: TokenKind = "inference") -> str:
        """A token that is valid now, renewed when it is about to expire; empty where tokens are off. Pass the method
        itself, not its result, to whatever lives longer than a token."""
        self._running()
        return self._keys.token(kind) if self._keys else ""

    def management_token(self) -> str:
        """As :meth:`token`, for the management port."""
        return self.token("management")

    def renew_token(self, kind: TokenKind = "inference") -> str:
        """Replace a token now: the old one is refused from here on."""
        self._running()
        return self._keys.renew(kind) if self._keys else ""

    def status(self, model: str, *, version: str | None = None) -> ModelStatus:
        """State of a model and its workers. Raises UnknownModelError, ServingError."""
        return model_status(
            self.management_url, model, version=version, token=self.management_token
        )

    def describe(self, model: str) -> list[dict[str, Any]]:
        """What each worker of a model says of itself: for a tail what it served and the counters of its statistics.

        Raises UnknownModelError, ServingError.
        """
        answer = call(
            "GET",
            f"{self.management_url}/models/{model}",
            token=self.management_token,
            params={"customized": "true"},
            timeout=60.0,
        )
        if answer.status_code == 404:
            raise UnknownModelError(f"TorchServe at {self.management_url} has no model {model!r}")
        try:
            return [_mapping(entry["customizedMetadata"]) for entry in answer.json()]
        except (ValueError, KeyError, TypeError) as error:
            raise ServingError(
                f"TorchServe did not describe {model!r}: {reason(answer)}"
            ) from error

    def register(self, archive: str | Path, *, workers: int = 1) -> ModelStatus:
        """Register one more archive of the model store. Needs ``model_api=True``. Raises ServingError."""
        log = self.log_path
        return register(
            self.management_url, archive, token=self.management_token, workers=workers, log_path=log,
            timeout=self._timeout,
        )  # fmt: skip

    def unregister(self, model: str, *, version: str | None = None) -> None:
        """Take a model away. Needs ``model_api=True``. Raises UnknownModelError, ServingError."""
        unregister(self.management_url, model, version=version, token=self.management_token)

    # -- the way up

    def _running(self) -> Frontend:
        if self._frontend is None:
            raise ServingError("this TorchServe is not running")
        return self._frontend

    def _find_archives(self, models: Sequence[str | Path] | None) -> list[Path]:
        if not self._model_store.is_dir():
            raise ServingError(f"model store {self._model_store} is not a folder")
        if models is None:
            return sorted(self._model_store.glob("*.mar"))
        paths = [self._model_store / Path(m).name for m in models]
        missing = [p.name for p in paths if not p.is_file()]
        if missing:
            raise ServingError(f"not in the model store {self._model_store}: {', '.join(missing)}")
        return paths

    def _start_frontend(self, workdir: Path) -> None:
        free = iter(free_ports(6))
        inference, management, metrics = (port or next(free) for port in self._ports)
        self.inference_url = f"http://{self._host}:{inference}"
        self.management_url = f"http://127.0.0.1:{management}"
        self.metrics_url = f"http://127.0.0.1:{metrics}"
        settings = read_properties(config_file("config.properties"))
        settings.update(
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
        settings.update(self._settings)
        self._frontend = Frontend(
            workdir,
            settings,
            model_store=self._model_store,
            models=[f"{archive_identity(p)[0]}={p.name}" for p in self._archives],
            log_config=self._log_config,
            environment=self._environment | self._secret(workdir),
        )
        self._keys = KeyFile(self._frontend.key_path, self.management_url) if self._tokens else None
        self._frontend.start()

    def _secret(self, workdir: Path) -> dict[str, str]:
        """What tells the workers where the operator's secret is. Raises SecretError."""
        if not self._devices:
            return {}
        path = workdir / "device.secret"
        if path.exists():
            read_secret(path)  # a worker would refuse it too, and take longer to say so
        else:
            workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
            new_secret(path)
        return {SECRET_VARIABLE: str(path)}

    def _wait_until_ready(self) -> None:
        frontend = self._running()
        deadline = time.monotonic() + self._timeout
        waiting = [archive_identity(p) for p in self._archives]
        while True:
            if frontend.pid is None:
                raise self._failure("TorchServe ended while starting")
            try:
                waiting = [(n, v) for n, v in waiting if not self.status(n, version=v).ready]
                if not waiting and self._probe():
                    return
                if _DEATH in log_tail(frontend.log_path, lines=2000):
                    raise self._failure(
                        f"a worker of {', '.join(n for n, _ in waiting)} died while loading"
                    )
            except UnknownModelError as error:
                raise self._failure(f"TorchServe did not load a model: {error.message}") from error
            except (ServerUnavailableError, AuthenticationError):
                pass  # the ports are not bound yet, or another server's old token was met
            except ServingError:
                # The key file appears a moment after the process.
                if frontend.key_path.exists():
                    raise
            if time.monotonic() > deadline:
                names = ", ".join(n for n, _ in waiting) or "the server"
                raise self._failure(f"{names} not ready after {self._timeout:g} s")
            time.sleep(0.1)

    def _probe(self) -> bool:
        """Whether the inference port answers: the ports are bound one after the other."""
        return call("GET", f"{self.inference_url}/ping", token=self.token).status_code == 200

    def _failure(self, message: str) -> ServingError:
        path = self._running().log_path
        why, tail = load_failure(path), log_tail(path)
        return ServingError(
            f"{message}{f': {why}' if why else ''}\n--- end of {path}\n{tail}", reason=why, log=tail
        )


def _mapping(described: Any) -> dict[str, Any]:
    value = json.loads(described) if isinstance(described, str) else described
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value
