"""HTTP to TorchServe: one kept connection, timeouts, careful retries, typed errors.

A request is sent again only where the server cannot have answered it, or says that it did not run: the connection was
refused, or broke before an answer; the queue was full (503); the worker died under it (500 or 507, once). Redirects are
not followed: a token goes to the address it was given for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .. import errors
from ..errors import (
    AuthenticationError,
    IsplitError,
    ProtocolError,
    ServerBusyError,
    ServerUnavailableError,
    TransportError,
    UnknownModelError,
    WireError,
    WireSizeError,
)
from ..wire import load_json

if TYPE_CHECKING:
    import requests

Token = str | Callable[[], str] | None
"""A token, or a function that reads it."""

DEFAULT_TIMEOUT: Final = (5.0, 60.0)
MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_DIED: Final = (500, 507)
"""TorchServe's answers for a worker that died under a request; 507 where it was killed, by lack of memory mostly."""
_BACKOFF_S: Final = 0.1
_MAX_BACKOFF_S: Final = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """An answer with status 200."""

    body: bytes
    headers: Mapping[str, str]


class Transport:
    """A connection to one server.

    Parameters: ``url``, ``http(s)://host:port[/prefix]``; ``token``, TorchServe's inference token, or a callable that
    reads it (called once, and once more when the server refuses the token as expired); ``timeout``, seconds to
    connect and between two pieces of an answer; ``retries``, how often a request is sent again at most.

    ``bytes_sent`` counts the bodies of all attempts. Not for several threads at once.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        timeout: tuple[float, float] = DEFAULT_TIMEOUT,
        retries: int = 2,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._url = _checked(url)
        self._token = token
        self._known: str | None = None
        self._timeout = timeout
        self._retries = retries
        self._max = max_response_bytes
        self._session: requests.Session | None = None

    def get(self, path: str) -> Reply:
        """GET ``path``. Raises the errors of :func:`post`."""
        return self._request("GET", path, None, {})

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST a body to ``path``.

        Raises what the server answered (:func:`errors.from_json`), or ServerUnavailableError (nothing answers),
        ServerBusyError (the queue stays full), AuthenticationError, WireSizeError (above the server's limit),
        UnknownModelError, ProtocolError (an answer that is not ours).
        """
        return self._request("POST", path, body, headers)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._session is None:
            return
        from requests.adapters import HTTPAdapter

        for adapter in self._session.adapters.values():
            # urllib3 closes a pool when nothing refers to it: not while an exception with its stack is being kept.
            pools: Any = adapter.poolmanager.pools if isinstance(adapter, HTTPAdapter) else {}
            for key in pools.keys():  # noqa: SIM118  its own mapping, which cannot be iterated
                pools[key].close()
        self._session.close()
        self._session = None

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        left, may_renew, may_die = self._retries, callable(self._token), True
        while True:
            try:
                status, answer, found = self._once(method, path, body, headers)
            except _BrokenError as broken:
                error: IsplitError = ServerUnavailableError(str(broken))
                again = True
            else:
                if status == 200:
                    return Reply(answer, found)
                error = _error(status, answer, 0 if body is None else len(body))
                again = isinstance(error, ServerBusyError)
                if isinstance(error, AuthenticationError) and may_renew:
                    may_renew, self._known = False, None
                    continue
                if may_die and status in _DIED and "worker died" in error.message.lower():
                    may_die, again = False, True
            if not again or left <= 0:
                raise error
            self._wait(self._retries - left)
            left -= 1

    def _once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of one attempt. Raises _BrokenError where trying again is safe."""
        import requests

        session = self._session = self._session or requests.Session()
        # A body that is not compressed has the size it says: nothing unfolds on the way in.
        sent = {**headers, "Accept-Encoding": "identity"}
        size = "" if body is None else f" with a body of {len(body)} bytes"
        where = f"{method} {self._url}{path}{size}"
        try:
            answer = session.request(
                method,
                self._url + path,
                data=body,
                headers=sent,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
                auth=self._authorize,  # and so no password of a .netrc file, nor of the address
            )
        except requests.Timeout as error:
            raise ServerUnavailableError(
                f"{where}: no answer within {self._timeout} s (connect, read)"
            ) from error
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
            raise ServerUnavailableError(f"{where}: {_reason(error)}") from error
        except requests.ConnectionError as error:
            self.close()
            raise _BrokenError(f"{where}: {_reason(error)}") from error
        except (requests.RequestException, ValueError) as error:
            raise TransportError(f"{where}: {_reason(error)}") from error
        try:
            return answer.status_code, self._read(answer, where), answer.headers
        except requests.RequestException as error:
            self.close()
            raise ServerUnavailableError(
                f"{where}: the answer broke off ({_reason(error)})"
            ) from error
        finally:
            answer.close()

    def _read(self, answer: requests.Response, where: str) -> bytes:
        coding = answer.headers.get("Content-Encoding", "identity")
        if coding != "identity":
            raise ProtocolError(
                f"{where}: answered with content coding {coding[:40]!a}, which was not asked for"
            )
        chunks, total = [], 0
        for chunk in answer.iter_content(_CHUNK):
            total += len(chunk)
            if total > self._max:
                raise ProtocolError(f"{where}: an answer of more than {self._max} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            if self._known is None:
                self._known = read_token(self._token)
            request.headers["Authorization"] = f"Bearer {self._known}"
        return request

    def _wait(self, attempt: int) -> None:
        # Spread out, so that devices that failed together do not come back together.
        pause = min(_BACKOFF_S * 2**attempt, _MAX_BACKOFF_S) * random.uniform(0.5, 1.5)  # noqa: S311
        time.sleep(pause)


class _BrokenError(Exception):
    """The connection was refused, or broke before an answer."""


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.username is not None or parts.query or parts.fragment:
        raise TransportError(
            "expected an address like http://host:8080, without user, query or fragment"
        )
    return url.rstrip("/")


def read_token(token: str | Callable[[], str]) -> str:
    """A token now. Raises AuthenticationError where the callable fails, or what it gives is no token."""
    try:
        value = token() if callable(token) else token
    except IsplitError:
        raise
    except Exception as error:  # the caller's code
        raise AuthenticationError(f"the token callable failed ({type(error).__name__})") from error
    if (
        not isinstance(value, str)
        or not value.isascii()
        or not value.isprintable()
        or " " in value
        or not value
    ):
        raise AuthenticationError(
            "the token is no string of printable ASCII characters without spaces"
        )
    return value


def _error(status: int, body: bytes, sent: int) -> IsplitError:
    """What an answer other than 200 means: ours, TorchServe's own, or a stranger's."""
    try:
        parsed: Any = load_json(body)
    except WireError:
        parsed = None
    raw: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    if isinstance(raw.get("code"), str):
        return errors.from_json(raw, status=status)
    kind, message = str(raw.get("type", "")), str(raw.get("message", ""))[:500]
    said = f"HTTP {status}: {message or _printable(body) or 'no body'}"
    if status == 413:
        return WireSizeError(
            f"the server refused a body of {sent} bytes: above its max_request_size (6553500 unless configured)",
            sent=sent,
        )
    if kind == "InvalidKeyException" or status in (401, 403):
        return AuthenticationError(f"the server refused the token, or wants one ({said})")
    if status == 404 and kind.startswith("Model"):
        return UnknownModelError(said)
    if status == 503 and "has no worker" in message:
        return ServerBusyError(f"the server's queue is full, or no worker runs ({said})")
    if status >= 500:
        return ServerUnavailableError(said)
    return ProtocolError(said)


def _printable(body: bytes) -> str:
    return "".join(
        c if c.isprintable() else " " for c in body[:200].decode(errors="replace")
    ).strip()


def _reason(error: BaseException) -> str:
    """The innermost reason: urllib3's messages repeat the address at every level."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {str(error)[:200]}"
