"""TorchServe's management API and its tokens, as far as we need them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import requests

from ...errors import AuthenticationError, ServerUnavailableError, ServingError, UnknownModelError

Token = str | Callable[[], str] | None
TokenKind = Literal["inference", "management"]


def bearer(token: Token) -> dict[str, str]:
    """The header that carries ``token``; a callable is asked anew. Empty without a token."""
    value = token() if callable(token) else token
    return {"Authorization": f"Bearer {value}"} if value else {}


class KeyFile:
    """The tokens in TorchServe's ``key_file.json``, renewed when they are about to expire.

    Parameters: ``path`` of the file, ``management_url`` of the server that owns it; ``margin``, seconds before expiry
    at which a token is renewed. A renewed token replaces the old one for everybody: the file is read anew each time.
    """

    def __init__(self, path: str | Path, management_url: str, *, margin: float = 60.0) -> None:
        self.path = Path(path)
        self.management_url = management_url
        self.margin = margin
        self._lock = threading.Lock()

    def token(self, kind: TokenKind = "inference") -> str:
        """A token that is valid now. Raises ServingError where the file cannot be read or the server not reached."""
        with self._lock:
            entry = self._read()[kind]
            if self._seconds_left(entry) > self.margin:
                return str(entry["key"])
            return self._renew(kind)

    def renew(self, kind: TokenKind = "inference") -> str:
        """Replace the token now. The old one is invalid from here on."""
        with self._lock:
            return self._renew(kind)

    def _renew(self, kind: TokenKind) -> str:
        api_key = self._read()["API"]["key"]
        answer = call("GET", f"{self.management_url}/token", token=api_key, params={"type": kind})
        if answer.status_code != 200:
            raise ServingError(f"TorchServe did not renew the {kind} token: {reason(answer)}")
        return str(self._read()[kind]["key"])

    def _read(self) -> dict[str, Any]:
        # The server rewrites the file in place: a reader can meet it half written.
        for attempt in range(50):
            try:
                keys = json.loads(self.path.read_text("utf-8"))
                keys["API"]["key"], keys["inference"]["key"], keys["management"]["key"]
            except FileNotFoundError as error:
                raise ServingError(f"TorchServe's key file {self.path} is not there") from error
            except (OSError, ValueError, KeyError, TypeError) as error:
                if attempt == 49:
                    raise ServingError(
                        f"TorchServe's key file {self.path} cannot be read: {error}"
                    ) from error
                time.sleep(0.02)
            else:
                return dict(keys)
        raise AssertionError("unreachable")

    @staticmethod
    def _seconds_left(entry: dict[str, Any]) -> float:
        expires = datetime.fromisoformat(str(entry["expiration time"]).replace("Z", "+00:00"))
        return (expires - datetime.now(UTC)).total_seconds()


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One registered model version: ``workers`` are the states TorchServe names (READY, LOADING, UNLOADED, ...)."""

    name: str
    version: str
    workers: tuple[str, ...]
    pids: tuple[int, ...]

    @property
    def ready(self) -> bool:
        return "READY" in self.workers


def call(
    method: str,
    url: str,
    *,
    token: Token = None,
    params: dict[str, str] | None = None,
    timeout: float = 30.0,
) -> requests.Response:
    """One HTTP call. Raises ServerUnavailableError where nothing answers, AuthenticationError on a refused token."""
    try:
        answer = requests.request(
            method, url, headers=bearer(token), params=params, timeout=timeout
        )
    except requests.RequestException as error:
        raise ServerUnavailableError(
            f"{method} {url}: no answer ({type(error).__name__})"
        ) from error
    if answer.status_code in (400, 401, 403) and "InvalidKeyException" in answer.text:
        raise AuthenticationError(
            f"{method} {url}: token refused; pass the management token of key_file.json"
        )
    return answer


def reason(answer: requests.Response) -> str:
    """What an answer of TorchServe says went wrong, in one line."""
    try:
        body = answer.json()
        text = str(body.get("message") or body.get("status") or body)
    except (ValueError, AttributeError):
        text = answer.text[:500]
    return f"HTTP {answer.status_code} {' '.join(text.split())}".strip()


def model_status(
    management_url: str, name: str, *, version: str | None = None, token: Token = None
) -> ModelStatus:
    """State of a model and its workers. Raises UnknownModelError, ServerUnavailableError, ServingError."""
    path = f"{management_url}/models/{name}" + (f"/{version}" if version else "")
    answer = call("GET", path, token=token)
    if answer.status_code == 404:
        raise UnknownModelError(
            f"TorchServe at {management_url} has no model {name!r}: {reason(answer)}"
        )
    if answer.status_code != 200:
        raise ServingError(f"cannot describe model {name!r}: {reason(answer)}")
    try:
        raw = answer.json()[0]
        workers = tuple(raw["workers"])
        return ModelStatus(
            name=str(raw["modelName"]),
            version=str(raw["modelVersion"]),
            workers=tuple(str(w["status"]) for w in workers),
            pids=tuple(int(w["pid"]) for w in workers if int(w.get("pid", -1)) > 0),
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ServingError(f"{path}: an answer that is not TorchServe's ({error})") from error
