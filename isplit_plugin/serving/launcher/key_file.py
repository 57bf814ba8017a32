"""TorchServe's tokens: read from its ``key_file.json``, renewed before they expire."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from ...errors import ServingError
from .management import call, error_text

TokenKind = Literal["inference", "management"]

_READ_TRIES: Final = 50
_READ_PAUSE_S: Final = 0.02


class KeyFile:
    """The tokens of a running TorchServe.

    A renewed token replaces the old one for everybody who uses it, so the file is read again for
    every token. May be used by several threads.

    Parameters:
        path: the server's ``key_file.json``.
        management_url: of the server that wrote the file.
        margin: a token is renewed when it is valid for no more than this many seconds.
    """

    def __init__(self, path: str | Path, management_url: str, *, margin: float = 60.0) -> None:
        self.path = Path(path)
        self.management_url = management_url
        self.margin = margin
        self._lock = threading.Lock()

    def token(self, kind: TokenKind = "inference") -> str:
        """A valid token, renewed if it is about to expire.

        Raises:
            ServingError: the file cannot be read, or the server does not renew the token.
            AuthenticationError: the server refuses the file's API key.
            ServerUnavailableError: the server does not answer.
        """
        with self._lock:
            entry = self._read()[kind]
            if _seconds_left(entry) > self.margin:
                return str(entry["key"])
            return self._renew(kind)

    def renew(self, kind: TokenKind = "inference") -> str:
        """Replace a token now, which makes the old one invalid. Raises as :meth:`token`."""
        with self._lock:
            return self._renew(kind)

    def _renew(self, kind: TokenKind) -> str:
        api_key = self._read()["API"]["key"]
        response = call("GET", f"{self.management_url}/token", token=api_key, params={"type": kind})
        if response.status_code != 200:
            raise ServingError(f"TorchServe did not renew the {kind} token: {error_text(response)}")
        return str(self._read()[kind]["key"])

    def _read(self) -> dict[str, dict[str, Any]]:
        """The entries of the file by kind.

        The server rewrites the file in place, so a half-written file is read again.
        """
        problem: Exception | None = None
        for _ in range(_READ_TRIES):
            try:
                return _entries(self.path.read_text("utf-8"))
            except FileNotFoundError as error:
                raise ServingError(
                    f"{self.path}: expected TorchServe's key file, found none"
                ) from error
            except (OSError, ValueError, KeyError, TypeError) as error:
                problem = error
            time.sleep(_READ_PAUSE_S)
        raise ServingError(
            f"{self.path}: expected TorchServe's key file, which cannot be read: {problem}"
        ) from problem


def _entries(text: str) -> dict[str, dict[str, Any]]:
    keys = json.loads(text)
    entries = {kind: dict(keys[kind]) for kind in ("API", "inference", "management")}
    for entry in entries.values():
        entry["key"]  # raises KeyError in an incomplete file
    return entries


def _seconds_left(entry: dict[str, Any]) -> float:
    expires = datetime.fromisoformat(str(entry["expiration time"]).replace("Z", "+00:00"))
    return (expires - datetime.now(UTC)).total_seconds()
