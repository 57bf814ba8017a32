"""TorchServe's management API: HTTP calls, and what the server says about a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from ...errors import AuthenticationError, ServerUnavailableError, ServingError, UnknownModelError

Token = str | Callable[[], str] | None
"""A token, a function that returns one and is called for each request, or none."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One registered version of a model.

    Attributes:
        name: of the model.
        version: as the archive declares it.
        workers: the state of each worker: READY, LOADING, UNLOADED, ...
        pids: process ids of the workers that have a process.
    """

    name: str
    version: str
    workers: tuple[str, ...]
    pids: tuple[int, ...]

    @property
    def ready(self) -> bool:
        """Whether at least one worker answers requests."""
        return "READY" in self.workers


def model_status(
    management_url: str, model: str, *, version: str | None = None, token: Token = None
) -> ModelStatus:
    """The state of a model and its workers; of its default version if no version is given.

    Raises:
        UnknownModelError: the server has no such model or version.
        ServingError: the server cannot say, or its answer is not one of TorchServe's.
        AuthenticationError: the token is refused.
        ServerUnavailableError: nothing answers.
    """
    url = model_url(management_url, model, version)
    response = call("GET", url, token=token)
    check_known(response, management_url, model)
    if response.status_code != 200:
        raise ServingError(f"TorchServe did not describe {model!r}: {error_text(response)}")
    try:
        entry = response.json()[0]
        workers = tuple(entry["workers"])
        return ModelStatus(
            name=str(entry["modelName"]),
            version=str(entry["modelVersion"]),
            workers=tuple(str(worker["status"]) for worker in workers),
            pids=tuple(int(worker["pid"]) for worker in workers if int(worker.get("pid", -1)) > 0),
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ServingError(
            f"{url}: expected TorchServe's description of a model, got {error_text(response)}"
        ) from error


def model_versions(management_url: str, model: str, *, token: Token = None) -> frozenset[str]:
    """The registered versions of a model; empty if the server does not know it."""
    response = call("GET", f"{model_url(management_url, model)}/all", token=token)
    if response.status_code != 200:
        return frozenset()
    return frozenset(str(entry["modelVersion"]) for entry in response.json())


def describe_workers(
    management_url: str, model: str, *, version: str | None = None, token: Token = None
) -> list[dict[str, Any]]:
    """What each worker of a model says about itself; of its default version if none is given.

    Raises as :func:`model_status`.
    """
    response = call(
        "GET",
        model_url(management_url, model, version),
        token=token,
        params={"customized": "true"},
        timeout=60.0,
    )
    check_known(response, management_url, model)
    try:
        return [_metadata(entry) for entry in response.json()]
    except (ValueError, KeyError, TypeError) as error:
        raise ServingError(
            f"TorchServe did not describe the workers of {model!r}: {error_text(response)}"
        ) from error


def call(
    method: str,
    url: str,
    *,
    token: Token = None,
    params: dict[str, str] | None = None,
    timeout: float = 30.0,
) -> requests.Response:
    """Make one HTTP request and return the response, whatever its status.

    Raises:
        ServerUnavailableError: nothing answers within ``timeout`` seconds.
        AuthenticationError: the token is refused.
    """
    value = token() if callable(token) else token
    headers = {"Authorization": f"Bearer {value}"} if value else {}
    try:
        response = requests.request(method, url, headers=headers, params=params, timeout=timeout)
    except requests.RequestException as error:
        raise ServerUnavailableError(
            f"{method} {url}: no answer ({type(error).__name__})"
        ) from error
    if response.status_code in (400, 401, 403) and "InvalidKeyException" in response.text:
        raise AuthenticationError(
            f"{method} {url}: token refused; expected the management token of key_file.json"
        )
    return response


def model_url(management_url: str, model: str, version: str | None = None) -> str:
    """The address of a model, or of one version of it."""
    return f"{management_url}/models/{model}" + (f"/{version}" if version else "")


def check_known(response: requests.Response, management_url: str, model: str) -> None:
    """Raise UnknownModelError if the server answered that it has no such model."""
    if response.status_code == 404:
        raise UnknownModelError(
            f"TorchServe at {management_url} has no model {model!r}: {error_text(response)}"
        )


def error_text(response: requests.Response) -> str:
    """Status and message of a response, in one line."""
    try:
        body = response.json()
        text = str(body.get("message") or body.get("status") or body)
    except (ValueError, AttributeError):
        text = response.text[:500]
    return f"HTTP {response.status_code} {' '.join(text.split())}".strip()


def _metadata(entry: dict[str, Any]) -> dict[str, Any]:
    """What a handler returned for ``describe``: TorchServe passes it on as JSON, or as text."""
    metadata = entry["customizedMetadata"]
    if isinstance(metadata, str):
        metadata = json.loads(metadata)
    if not isinstance(metadata, dict):
        raise TypeError(f"expected a JSON object, got {type(metadata).__name__}")
    return metadata
