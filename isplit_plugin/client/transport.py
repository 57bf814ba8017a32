"""HTTP to TorchServe: one kept connection, timeouts, bounded retries, typed errors.

A request is sent again only if the server cannot have answered it or says that it did not run it:

- the connection was refused, or broke before an answer;
- the queue was full (503);
- the worker died under the request (500 or 507); this is tried once.

Redirects are not followed, because a token is for one address only.
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
"""A token, or a callable that returns the current one."""

DEFAULT_TIMEOUT: Final = (5.0, 60.0)
MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_DIED: Final = (500, 507)
"""TorchServe's statuses for a worker that died under a request; 507 if it was killed."""
_BACKOFF_S: Final = 0.1
_MAX_BACKOFF_S: Final = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """An answer with status 200."""

    body: bytes
    headers: Mapping[str, str]


class Transport:
    """A connection to one server. It must not be used by several threads at once.

    Parameters:
        url: ``http(s)://host:port``, with or without a prefix of the path.
        token: TorchServe's inference token, or a callable that returns it. The callable is called
            once, and once more when the server refuses the token.
        timeout: seconds to connect, and seconds between two pieces of an answer.
        retries: how often a request is sent again at most.
        max_response_bytes: the largest answer to accept.

    Raises:
        TransportError: ``url`` is not an address.
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
        self._url = _checked_url(url)
        self._token = token
        self._current_token: str | None = None
        self._timeout = timeout
        self._retries = retries
        self._max_response_bytes = max_response_bytes
        self._session: requests.Session | None = None

    def get(self, path: str) -> Reply:
        """GET ``path``. Raises as :meth:`post`."""
        return self._request("GET", path, None, {})

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST a body to ``path``.

        Raises:
            IsplitError: the error that the server answered (:func:`errors.from_json`).
            ServerUnavailableError: nothing answers.
            ServerBusyError: the queue stays full.
            AuthenticationError: the server refuses the token.
            WireSizeError: the body is above the server's limit.
            UnknownModelError: no model of this name is registered.
            ProtocolError: the answer is not one of isplit or TorchServe.
        """
        return self._request("POST", path, body, headers)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._session is None:
            return
        from requests.adapters import HTTPAdapter

        for adapter in self._session.adapters.values():
            # Closes the pools now. urllib3 would wait until no exception refers to them.
            pools: Any = adapter.poolmanager.pools if isinstance(adapter, HTTPAdapter) else {}
            for key in pools.keys():  # noqa: SIM118  its own mapping, which cannot be iterated
                pools[key].close()
        self._session.close()
        self._session = None

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        retries = 0
        may_renew_token = callable(self._token)
        may_lose_worker = True
        while True:
            try:
                status, answer, answer_headers = self._once(method, path, body, headers)
            except _BrokenError as broken:
                error: IsplitError = ServerUnavailableError(str(broken))
                again = True
            else:
                if status == 200:
                    return Reply(answer, answer_headers)
                error = _error(status, answer, 0 if body is None else len(body))
                again = isinstance(error, ServerBusyError)
                if isinstance(error, AuthenticationError) and may_renew_token:
                    may_renew_token = False
                    self._current_token = None
                    continue
                if may_lose_worker and status in _DIED and "worker died" in error.message.lower():
                    may_lose_worker = False
                    again = True
            if not again or retries >= self._retries:
                raise error
            _pause(retries)
            retries += 1

    def _once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of one attempt. Raises _BrokenError if it is safe to retry."""
        import requests

        session = self._session = self._session or requests.Session()
        # Without compression, an answer cannot grow when it is read.
        all_headers = {**headers, "Accept-Encoding": "identity"}
        size = "" if body is None else f" with a body of {len(body)} bytes"
        where = f"{method} {self._url}{path}{size}"
        try:
            answer = session.request(
                method,
                self._url + path,
                data=body,
                headers=all_headers,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
                auth=self._authorize,  # instead of a password from .netrc
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
            raise ProtocolError(f"{where}: expected content coding identity, got {coding[:40]!a}")
        chunks, total = [], 0
        for chunk in answer.iter_content(_CHUNK):
            total += len(chunk)
            if total > self._max_response_bytes:
                raise ProtocolError(
                    f"{where}: expected an answer of at most {self._max_response_bytes} bytes"
                )
            chunks.append(chunk)
        return b"".join(chunks)

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            if self._current_token is None:
                self._current_token = read_token(self._token)
            request.headers["Authorization"] = f"Bearer {self._current_token}"
        return request


class _BrokenError(Exception):
    """The connection was refused, or broke before an answer."""


def _pause(retries: int) -> None:
    # At random, so that devices that failed together do not come back together.
    longest = min(_BACKOFF_S * 2**retries, _MAX_BACKOFF_S)
    time.sleep(longest * random.uniform(0.5, 1.5))  # noqa: S311


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment:
        raise TransportError(
            "expected an address like http://host:8080, without user, query or fragment"
        )
    return url.rstrip("/")


def read_token(token: str | Callable[[], str]) -> str:
    """The token now. Raises AuthenticationError if the callable fails or returns no token."""
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
        raise AuthenticationError("expected a token of printable ASCII characters without spaces")
    return value


def _error(status: int, body: bytes, sent: int) -> IsplitError:
    """The error for an answer other than 200, which may come from isplit, TorchServe or a proxy."""
    try:
        parsed: Any = load_json(body)
    except WireError:
        parsed = None
    raw: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    if isinstance(raw.get("code"), str):
        return errors.from_json(raw, status=status)
    kind, message = str(raw.get("type", "")), str(raw.get("message", ""))[:500]
    answer = f"HTTP {status}: {message or _printable(body) or 'no body'}"
    if status == 413:
        return WireSizeError(
            f"the server refused a body of {sent} bytes: more than its max_request_size "
            "(6553500 by default)",
            sent=sent,
        )
    if kind == "InvalidKeyException" or status in (401, 403):
        return AuthenticationError(f"the server refused the token, or requires one ({answer})")
    if status == 404 and kind.startswith("Model"):
        return UnknownModelError(answer)
    if status == 503 and "has no worker" in message:
        return ServerBusyError(f"the server's queue is full, or no worker runs ({answer})")
    if status >= 500:
        return ServerUnavailableError(answer)
    return ProtocolError(answer)


def _printable(body: bytes) -> str:
    return "".join(
        c if c.isprintable() else " " for c in body[:200].decode(errors="replace")
    ).strip()


def _reason(error: BaseException) -> str:
    """The innermost cause, because urllib3's outer messages repeat the address."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {str(error)[:200]}"
