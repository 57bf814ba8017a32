"""Register, unregister and scale models on a TorchServe that somebody else started."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path

from ...errors import BundleError, ServingError, UnknownModelError
from .management import ModelStatus, Token, call, model_status, reason
from .process import log_tail


def archive_identity(path: str | Path) -> tuple[str, str]:
    """(model name, version) that a ``.mar`` archive declares. Raises BundleError where it is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("MAR-INF/MANIFEST.json")
            if info.file_size > 1 << 20:
                raise ValueError("a manifest of more than 1 MiB")
            model = json.loads(archive.read(info))["model"]
            return str(model["modelName"]), str(model["modelVersion"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{path} is not a model archive: {error}") from error


def register(
    management_url: str,
    archive: str | Path,
    *,
    token: Token = None,
    workers: int = 1,
    timeout: float = 180.0,
    log_path: str | Path | None = None,
) -> ModelStatus:
    """Register an archive of the server's model store and wait until it answers.

    Parameters: ``archive``, a file name in the server's model store (of a path, the last part counts: copy the file
    there first) or a URL the server may fetch; ``token``, the management token or a callable that gives it;
    ``workers``, as far as the archive's own configuration leaves it open; ``timeout``, seconds; ``log_path``, the
    server's log where it can be read, to say why a load failed.

    Raises ServingError: refused, already registered, or not loaded (then nothing of it stays registered).
    AuthenticationError, ServerUnavailableError.
    """
    name, version = _identity(archive)
    before = _versions(management_url, name, token) if name else frozenset()
    answer = call(
        "POST",
        f"{management_url}/models",
        token=token,
        # Query parameters: TorchServe misreads some of these from a JSON body.
        params={"url": _url(archive), "initial_workers": str(workers), "synchronous": "true"},
        timeout=timeout,
    )
    if answer.status_code == 200 and name is None:
        return ModelStatus(name=str(archive), version="", workers=(), pids=())
    status = None
    if answer.status_code == 200 and name is not None:
        status = model_status(management_url, name, version=version, token=token)
        if status.ready or workers == 0:
            return status
    if answer.status_code == 405:
        raise ServingError(
            "TorchServe was started without its model API (enable_model_api=false): add the model to the start command "
            "(--models), or start it with --enable-model-api"
        )
    if answer.status_code == 409:
        raise ServingError(
            f"{name or archive} {version or ''} is already registered: {reason(answer)}"
        )
    # A failed load can leave a dead model behind, which would be picked as default later.
    for dead in sorted(_versions(management_url, name, token) - before) if name else ():
        call("DELETE", f"{management_url}/models/{name}/{dead}", token=token, timeout=timeout)
    why = load_failure(log_path)
    raise ServingError(
        f"TorchServe did not load {archive}: {why or reason(answer)}",
        answer=reason(answer),
        log=log_tail(Path(log_path)) if log_path else "",
    )


def unregister(
    management_url: str, model: str, *, version: str | None = None, token: Token = None
) -> None:
    """Take a model away. Raises UnknownModelError, ServingError, AuthenticationError, ServerUnavailableError."""
    path = f"{management_url}/models/{model}" + (f"/{version}" if version else "")
    answer = call("DELETE", path, token=token, timeout=120.0)
    if answer.status_code == 404:
        raise UnknownModelError(
            f"TorchServe at {management_url} has no model {model!r}: {reason(answer)}"
        )
    if answer.status_code != 200:
        raise ServingError(f"TorchServe did not unregister {model!r}: {reason(answer)}")


def scale(
    management_url: str,
    model: str,
    workers: int,
    *,
    version: str | None = None,
    token: Token = None,
) -> ModelStatus:
    """Run ``workers`` workers of a model and wait for them. Raises as :func:`unregister`."""
    path = f"{management_url}/models/{model}" + (f"/{version}" if version else "")
    params = {"min_worker": str(workers), "max_worker": str(workers), "synchronous": "true"}
    answer = call("PUT", path, token=token, params=params, timeout=300.0)
    if answer.status_code == 404:
        raise UnknownModelError(
            f"TorchServe at {management_url} has no model {model!r}: {reason(answer)}"
        )
    if answer.status_code not in (200, 202):
        raise ServingError(f"TorchServe did not scale {model!r}: {reason(answer)}")
    return model_status(management_url, model, version=version, token=token)


def curl_commands(management_url: str, archive: str | Path, *, workers: int = 1) -> list[str]:
    """The shell commands that do what :func:`register` does; ``$TOKEN`` stands for the management token."""
    name, version = _identity(archive)
    head = 'curl -sS -H "Authorization: Bearer $TOKEN"'
    query = f"url={_url(archive)}&initial_workers={workers}&synchronous=true"
    model = f"{name or '<model>'}/{version or '<version>'}"
    return [
        "TOKEN=$(python -c \"import json; print(json.load(open('key_file.json'))['management']['key'])\")",
        f"{head} -X POST {shlex.quote(f'{management_url}/models?{query}')}",
        f"{head} {shlex.quote(f'{management_url}/models/{model}')}",
        f"{head} -X DELETE {shlex.quote(f'{management_url}/models/{model}')}  # where the load failed",
    ]


def load_failure(log_path: str | Path | None) -> str | None:
    """What ended the last worker: the last line of its last traceback that says something; ``None`` without one."""
    if log_path is None:
        return None
    marker = " MODEL_LOG - "
    lines = [
        line.split(marker, 1)[1]
        for line in log_tail(Path(log_path), lines=400).splitlines()
        if marker in line
    ]
    found = None
    for start in (i for i, line in enumerate(lines) if line.startswith("Traceback")):
        last = next(
            (line for line in lines[start + 1 :] if line and not line.startswith((" ", "\t"))), None
        )
        # TorchServe's worker hides a RuntimeError behind one of its own.
        if last is not None and not last.endswith("Unknown exception"):
            found = last
    return found


def _url(archive: str | Path) -> str:
    text = str(archive)
    return text if "://" in text else Path(text).name


def _identity(archive: str | Path) -> tuple[str | None, str | None]:
    path = Path(archive)
    if path.is_file():
        return archive_identity(path)
    return (
        (path.stem, None) if path.suffix == ".mar" and "://" not in str(archive) else (None, None)
    )


def _versions(management_url: str, name: str, token: Token) -> frozenset[str]:
    answer = call("GET", f"{management_url}/models/{name}/all", token=token)
    if answer.status_code != 200:
        return frozenset()
    return frozenset(str(m["modelVersion"]) for m in answer.json())
