"""Register, unregister and scale models on any TorchServe whose management API can be reached."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import Final

import requests

from ...errors import ServingError, UnknownVersionError
from ...schema import version_key
from ..model_store import archive_identity
from .management import (
    ModelStatus,
    Token,
    call,
    check_known,
    error_text,
    model_status,
    model_url,
    model_versions,
)
from .process import log_tail

# A line that a worker printed: its thread, the model's name and version in it, and the text.
_WORKER_LINE: Final = re.compile(r" (W-\d+-(\S+)-std(?:out|err)) MODEL_LOG - (.*)")
_SETTLE_S: Final = 10.0
_LOADING: Final = ("LOADING", "UNLOADED")
# TorchServe's answer, in JSON: Model "toy" Version: 2.0 registered with 1 initial workers
_REGISTERED: Final = re.compile(r'Model \\"([^"\\]+)\\" Version: (\S+) registered')
# A worker's last lines reach the log within this time after TorchServe's answer.
LOG_DELAY_S: Final = 2.0
# TorchServe may shorten a name in a thread's name, but not below this many characters.
_SHORTENED: Final = 25


def register(
    management_url: str,
    archive: str | Path,
    *,
    token: Token = None,
    workers: int = 1,
    timeout: float = 180.0,
    log_path: str | Path | None = None,
) -> ModelStatus:
    """Register an archive and wait until a worker answers.

    Parameters:
        management_url: address of the management API.
        archive: the name of a file in the server's model store, or a URL that the server may fetch.
            Of a path only the last part counts; copy the file to the model store first.
        token: the management token.
        workers: how many to start, if the archive's own configuration does not say.
        timeout: seconds.
        log_path: the server's log, if it can be read; it says why a load failed.

    Raises:
        ServingError: the model API is off, the model is already registered, or it failed to load.
            What failed to load is unregistered again.
        AuthenticationError: the token is refused.
        ServerUnavailableError: nothing answers.
    """
    name, version = _identity(archive)
    before = model_versions(management_url, name, token=token) if name else frozenset()
    response = call(
        "POST",
        f"{management_url}/models",
        token=token,
        # Query parameters, because TorchServe misreads some of these in a JSON body.
        params={"url": _url(archive), "initial_workers": str(workers), "synchronous": "true"},
        timeout=timeout,
    )
    if response.status_code == 200:
        answered = _REGISTERED.search(response.text)
        if answered is not None:  # of a file that is not here, only its name was known so far
            name, version = answered[1], answered[2]
        if name is None:
            return ModelStatus(name=str(archive), version="", workers=(), pids=())
        status = _settled(management_url, name, version, token)
        if status.ready or workers == 0:
            return status
    _check_refused(response, f"{name or archive} {version or ''}".strip())
    if name is not None:
        # A model that failed to load stays registered and may become the default version.
        for failed in sorted(model_versions(management_url, name, token=token) - before):
            url = model_url(management_url, name, failed)
            call("DELETE", url, token=token, timeout=timeout)
    raise _load_error(archive, response, log_path, (name, version))


def set_default(
    management_url: str, model: str, version: str, *, token: Token = None
) -> ModelStatus:
    """Make a registered version the default one, which answers requests that name no version.

    Raises:
        UnknownVersionError: the server has other versions of the model; it names them.
        UnknownModelError: the server has no such model.
        ServingError: the server did not do it.
        AuthenticationError: the token is refused.
        ServerUnavailableError: nothing answers.
    """
    url = f"{model_url(management_url, model, version)}/set-default"
    response = call("PUT", url, token=token, timeout=120.0)
    _check_version(response, management_url, model, version, token)
    if response.status_code != 200:
        raise ServingError(
            f"TorchServe did not make {version} the default version of {model!r}: "
            f"{error_text(response)}"
        )
    return model_status(management_url, model, version=version, token=token)


def unregister(
    management_url: str, model: str, *, version: str | None = None, token: Token = None
) -> None:
    """Unregister a model, or one version of it.

    The default version can be unregistered last only.

    Raises:
        UnknownVersionError: the server has other versions of the model; it names them.
        UnknownModelError: the server has no such model.
        ServingError: the server did not do it.
        AuthenticationError: the token is refused.
        ServerUnavailableError: nothing answers.
    """
    url = model_url(management_url, model, version)
    response = call("DELETE", url, token=token, timeout=120.0)
    _check_version(response, management_url, model, version, token)
    if response.status_code == 403 and "default version" in response.text.lower():
        raise ServingError(
            f"{version or 'this version'} is the default version of {model!r}, and others are "
            "registered: make one of them the default version first, or unregister them first"
        )
    if response.status_code != 200:
        raise ServingError(f"TorchServe did not unregister {model!r}: {error_text(response)}")


def scale(
    management_url: str,
    model: str,
    workers: int,
    *,
    version: str | None = None,
    token: Token = None,
) -> ModelStatus:
    """Run this many workers of a model and wait for them. Raises as :func:`unregister`."""
    url = model_url(management_url, model, version)
    params = {"min_worker": str(workers), "max_worker": str(workers), "synchronous": "true"}
    response = call("PUT", url, token=token, params=params, timeout=300.0)
    check_known(response, management_url, model)
    if response.status_code not in (200, 202):
        raise ServingError(f"TorchServe did not scale {model!r}: {error_text(response)}")
    return model_status(management_url, model, version=version, token=token)


def curl_commands(
    management_url: str, archive: str | Path, *, workers: int = 1, default: bool = False
) -> list[str]:
    """Shell commands that do the same as :func:`register`, and :func:`set_default` if asked."""
    name, version = _identity(archive)
    read_key = "import json; print(json.load(open('key_file.json'))['management']['key'])"
    curl = 'curl -sS -H "Authorization: Bearer $TOKEN"'
    query = f"url={_url(archive)}&initial_workers={workers}&synchronous=true"
    models = shlex.quote(f"{management_url}/models?{query}")
    model = shlex.quote(model_url(management_url, name or "<model>", version or "<version>"))
    return [
        f'TOKEN=$(python -c "{read_key}")',
        f"{curl} -X POST {models}",
        f"{curl} {model}",
        f"{curl} -X DELETE {model}  # if the load failed",
        *([f"{curl} -X PUT {model}/set-default"] if default else []),
    ]


def load_failure(
    log_path: str | Path | None,
    model: str | None = None,
    version: str | None = None,
    *,
    timeout_s: float = 0.0,
) -> str | None:
    """Why the last worker ended: the error at the end of its traceback.

    ``None`` without a log, or if the log holds no whole traceback of a worker.

    Parameters:
        log_path: the server's log.
        model: only workers of this model count; by default those of all models.
        version: of the model; by default all versions.
        timeout_s: seconds to wait for the end of a traceback. A worker's last lines may reach the
            log after TorchServe's answer.
    """
    if log_path is None:
        return None
    deadline = time.monotonic() + timeout_s
    while True:
        failure = _last_error(log_tail(Path(log_path), lines=400), model, version)
        if failure is not None or time.monotonic() >= deadline:
            return failure
        time.sleep(0.1)


def _settled(management_url: str, name: str, version: str | None, token: Token) -> ModelStatus:
    """The state of a model that was registered just now, once a worker is ready.

    TorchServe answers that its worker is ready a moment before it lists it as ready.
    """
    ends_at = time.monotonic() + _SETTLE_S
    while True:
        status = model_status(management_url, name, version=version, token=token)
        loading = any(state in _LOADING for state in status.workers)
        if status.ready or not loading or time.monotonic() > ends_at:
            return status
        time.sleep(0.1)


def _last_error(log: str, model: str | None, version: str | None) -> str | None:
    workers: dict[str, list[str]] = {}
    failure = None
    for line in log.splitlines():
        match = _WORKER_LINE.search(line)
        if match is None or not _is_model(match[2], model, version):
            continue
        # Lines of several workers alternate.
        lines = workers.setdefault(match[1], [])
        text = match[3]
        if text.startswith("Traceback"):
            lines[:] = [text]
        elif lines and text and not text.startswith((" ", "\t")):
            lines.clear()
            # TorchServe's worker hides a RuntimeError behind one of its own, which says nothing.
            if not text.endswith("Unknown exception"):
                failure = text
    return failure


def _is_model(name: str, model: str | None, version: str | None) -> bool:
    """Whether a thread's part ``MODEL_VERSION``, which TorchServe may cut off, is this model's."""
    if model is None:
        return True
    full_name = f"{model}_{version or ''}"
    cut_off = len(name) >= _SHORTENED and full_name.startswith(name)
    return cut_off or (name == full_name if version else name.startswith(full_name))


def _check_version(
    response: requests.Response, management_url: str, model: str, version: str | None, token: Token
) -> None:
    """Raise UnknownVersionError, or UnknownModelError, where the server answered 404."""
    if response.status_code == 404 and version is not None:
        versions = sorted(model_versions(management_url, model, token=token), key=version_key)
        if versions:
            raise UnknownVersionError(
                f"unknown version {version!r} of model {model!r}; known: {', '.join(versions)}",
                known=versions,
            )
    check_known(response, management_url, model)


def _check_refused(response: requests.Response, model: str) -> None:
    """Raise ServingError if the server refused the registration before it loaded anything."""
    if response.status_code == 405:
        raise ServingError(
            "TorchServe runs without its model API (enable_model_api=false): add the model to the "
            "start command (--models), or start TorchServe with --enable-model-api"
        )
    if response.status_code == 409:
        raise ServingError(f"{model} is already registered: {error_text(response)}")


def _load_error(
    archive: str | Path,
    response: requests.Response,
    log_path: str | Path | None,
    identity: tuple[str | None, str | None],
) -> ServingError:
    answer = error_text(response)
    name, version = identity
    # Without the model's name, a line of the log may be another model's.
    reason = load_failure(log_path, name, version, timeout_s=LOG_DELAY_S) if name else None
    return ServingError(
        f"TorchServe did not load {archive}: {reason or answer}",
        answer=answer,
        log=log_tail(Path(log_path)) if log_path else "",
    )


def _url(archive: str | Path) -> str:
    text = str(archive)
    return text if "://" in text else Path(text).name


def _identity(archive: str | Path) -> tuple[str | None, str | None]:
    """Name and version of an archive, as far as they are known here."""
    path = Path(archive)
    if path.is_file():
        return archive_identity(path)
    if path.suffix == ".mar" and "://" not in str(archive):
        return path.stem, None
    return None, None
