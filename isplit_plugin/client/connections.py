"""Connections to one server, and single attempts of requests over them, each within a budget.

What is tried again, and with which token, is up to :mod:`.transport`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from .. import __version__
from ..errors import ProtocolError, ServerTimeoutError, ServerUnavailableError, TransportError
from .answered_errors import MAX_ERROR_BYTES
from .budget import Budget, spending

if TYPE_CHECKING:
    import requests

    from .bounded_http import BoundedAdapter

_MAX_FRAMING_BYTES: Final = 1024 * 1024
"""Status lines, headers, trailers and the framing of chunks, besides a quarter of the body."""
_CHUNK: Final = 64 * 1024
_LOGGER = logging.getLogger("isplit.client")


class Answer(NamedTuple):
    """An answer with any status; of one other than 200 only the start of the body."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request.

    Attributes:
        path: behind the address of the server.
        max_bytes: of the answer's body, at most.
        within_s: seconds for all attempts.
    """

    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]
    max_bytes: int
    within_s: float = math.inf

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return 0 if self.body is None else len(self.body)


class BrokenError(Exception):
    """The connection was refused, or broke before an answer."""


class Connections:
    """Connections to one server. Several threads may use them, each one of its own.

    Parameters:
        url: of the server, without a slash at its end.
        connect_s: seconds to connect to one address of the host.
        attempt_s: seconds for a whole attempt.
    """

    def __init__(self, url: str, connect_s: float, attempt_s: float) -> None:
        self._url = url
        self._connect_s = connect_s
        self._attempt_s = attempt_s
        self._lock = threading.Lock()
        self._connections: tuple[requests.Session, BoundedAdapter] | None = None
        self._budgets: set[Budget] = set()

    def open(self) -> None:
        """Load requests, at the first call: that is not the server's time."""
        self._session()

    def attempt(self, request: Request, token: str | None, left_s: float) -> Answer:
        """One attempt, which ends within ``left_s`` seconds or those of an attempt.

        Raises:
            BrokenError: it is safe to send the request again.
            ServerUnavailableError, ServerTimeoutError, ProtocolError, TransportError: it is not.
        """
        limit = request.max_bytes + request.max_bytes // 4 + _MAX_FRAMING_BYTES
        budget = Budget(min(self._attempt_s, left_s), self._connect_s, limit)
        with self._lock:
            self._budgets.add(budget)
        started = time.monotonic()
        try:
            with spending(budget):
                answer = self._exchange(request, token, budget)
        finally:
            with self._lock:
                self._budgets.discard(budget)
        _LOGGER.debug(
            "%s %s: HTTP %d, %d bytes sent, %d received, %.1f ms",
            request.method,
            request.path,
            answer.status,
            request.size,
            len(answer.body),
            (time.monotonic() - started) * 1e3,
        )
        return answer

    def close(self) -> None:
        """Close the connections that are not in use; the next request opens new ones."""
        with self._lock:
            connections, self._connections = self._connections, None
        if connections is not None:
            session, adapter = connections
            adapter.close_now()
            session.close()

    def cancel(self) -> None:
        """End the attempts that other threads are waiting for, with ServerUnavailableError."""
        with self._lock:
            budgets = list(self._budgets)
        for budget in budgets:
            budget.cancel()

    def _exchange(self, request: Request, token: str | None, budget: Budget) -> Answer:
        import requests

        def authorize(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
            if token is not None:
                prepared.headers["Authorization"] = f"Bearer {token}"
            return prepared

        where = address(self._url, request)
        try:
            answer = self._session().request(
                request.method,
                self._url + request.path,
                data=request.body,
                # Without compression, an answer cannot grow when it is read.
                headers={**request.headers, "Accept-Encoding": "identity"},
                timeout=(self._connect_s, budget.seconds),
                allow_redirects=False,
                stream=True,
                auth=authorize,  # instead of a password from .netrc
            )
        except (requests.RequestException, ValueError) as error:
            _raise_for_budget(error, budget, where, request.max_bytes)
            if isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError):
                raise ServerUnavailableError(f"{where}: {_reason(error)}") from error
            if isinstance(error, requests.ConnectionError):
                raise BrokenError(f"{where}: {_reason(error)}") from error
            raise TransportError(f"{where}: {_reason(error)}") from error
        try:
            body = _read(answer, where, request.max_bytes)
            return Answer(answer.status_code, body, answer.headers)
        except requests.RequestException as error:
            _raise_for_budget(error, budget, where, request.max_bytes)
            raise ServerUnavailableError(
                f"{where}: the answer broke off ({_reason(error)})"
            ) from error
        finally:
            answer.close()

    def _session(self) -> requests.Session:
        with self._lock:
            if self._connections is None:
                self._connections = _open_session()
            return self._connections[0]


def _open_session() -> tuple[requests.Session, BoundedAdapter]:
    from http.cookiejar import DefaultCookiePolicy

    import requests

    from .bounded_http import BoundedAdapter

    session = requests.Session()
    # Each request carries them: what HTTP/1.1 means anyway is left out.
    session.headers.clear()
    session.headers["User-Agent"] = f"isplit/{__version__}"
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # keep none
    adapter = BoundedAdapter()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session, adapter


def _read(answer: requests.Response, where: str, max_bytes: int) -> bytes:
    """The body. Of an answer other than 200 only the start, where its error is."""
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise ProtocolError(f"{where}: expected content coding identity, got {coding[:40]!a}")
    is_error = answer.status_code != 200
    limit = MAX_ERROR_BYTES if is_error else max_bytes
    announced = answer.headers.get("Content-Length", "")
    if not is_error and announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_large(where, limit)
    body = bytearray()
    for chunk in answer.iter_content(_CHUNK):
        body += chunk
        if len(body) > limit:
            if not is_error:
                raise _too_large(where, limit)
            break
    return bytes(body[:limit])


def _raise_for_budget(error: Exception, budget: Budget, where: str, max_bytes: int) -> None:
    """Raise the error of a budget that was used up."""
    import requests

    if budget.cancelled:
        raise ServerUnavailableError(f"{where}: cancelled") from error
    if budget.exceeded:
        raise _too_large(where, max_bytes) from error
    if isinstance(error, requests.ConnectTimeout) and not budget.expired:
        raise ServerTimeoutError(f"{where}: cannot connect in time") from error
    if budget.expired or isinstance(error, requests.Timeout):
        raise timed_out(where, budget.seconds) from error


def _too_large(where: str, limit: int) -> ProtocolError:
    return ProtocolError(f"{where}: expected an answer of at most {limit} bytes")


def timed_out(where: str, seconds: float) -> ServerTimeoutError:
    """The error of a request without a complete answer in time."""
    return ServerTimeoutError(f"{where}: no complete answer within {seconds:.3g} s")


def address(url: str, request: Request) -> str:
    """Where a request goes, for messages."""
    size = "" if request.body is None else f" with a body of {request.size} bytes"
    return f"{request.method} {url}{request.path}{size}"


def _reason(error: BaseException) -> str:
    """The innermost cause, because urllib3's outer messages repeat the address."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    text = "".join(c if c.isprintable() else " " for c in str(error)[:200])
    return f"{type(error).__name__}: {text}"
