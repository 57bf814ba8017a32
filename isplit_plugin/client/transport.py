"""HTTP to TorchServe: kept connections, deadlines, bounded retries, typed errors.

A request is sent again only if the server cannot have answered it or says that it did not run it:

- the connection was refused, or broke before an answer;
- the queue was full or the store busy (503), or a forwarder says when to try again (429, 503);
- the worker died under the request (500 or 507); this is tried once.

Redirects are not followed, because a token is for one address only.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from .. import __version__
from ..errors import (
    AuthenticationError,
    IsplitError,
    ProtocolError,
    ServerBusyError,
    ServerTimeoutError,
    ServerUnavailableError,
    StoreBusyError,
    TokenError,
    TransportError,
)
from .answered_errors import MAX_ERROR_BYTES, answered_error, retry_after_s
from .budget import DEFAULT_TIMEOUT, Budget, Timeout, read_seconds, read_timeout, spending

if TYPE_CHECKING:
    import requests

    from .bounded_http import BoundedAdapter

Token = str | Callable[[], str] | None
"""A token, or a callable that returns the current one."""

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
_MAX_FRAMING_BYTES: Final = 1024 * 1024
"""Status lines, headers, trailers and the framing of chunks, besides a quarter of the body."""
_CHUNK: Final = 64 * 1024
_DIED: Final = (500, 507)
"""TorchServe's statuses for a worker that died under a request; 507 if it was killed."""
_PING_S: Final = 5.0
_BACKOFF_S: Final = 0.1
_MAX_BACKOFF_S: Final = 2.0
_LOGGER = logging.getLogger("isplit.client")


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """An answer with status 200."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]
    max_bytes: int
    within_s: float = math.inf

    @property
    def size(self) -> int:
        return 0 if self.body is None else len(self.body)


class Transport:
    """Connections to one server. Several threads may use it, each over a connection of its own.

    All limits of time hold whatever the server does: whether it does not accept the connection,
    sends a byte a second, or never stops sending headers. Two waits are not the transport's and
    are not bounded: the operating system's, when it looks up the host's name, and ``token``.

    Parameters:
        url: ``http(s)://host:port``, with or without a prefix of the path.
        token: a forwarder's device token, or TorchServe's inference token, or a callable that
            returns it. The callable is called once, and once more when the server refuses the
            token.
        timeout: seconds for a whole attempt, from connecting to the last byte of the answer; or
            two numbers, seconds to connect (to one address of the host) and seconds for a whole
            attempt. A number alone leaves 5 seconds of it to connect. An attempt that runs out of
            time is not repeated, because the server may be working on it.
        deadline: seconds for a whole call, with all its attempts and the pauses between them. By
            default as long as one attempt: attempts that fail quickly are repeated within it.
        retries: how often a request is sent again at most.
        max_response_bytes: the largest answer to accept.

    Raises:
        TransportError: ``url`` is not an address, or a limit is not a number of seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        deadline: float | None = None,
        retries: int = 2,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._url = _checked_url(url)
        self._token = token
        self._current_token: str | None = None
        self._connect_s, self._attempt_s = read_timeout(timeout)
        self.call_s = self._attempt_s if deadline is None else read_seconds(deadline, "deadline")
        self._retries = retries
        self._max_response_bytes = max_response_bytes
        self._lock = threading.Lock()
        self._connections: tuple[requests.Session, BoundedAdapter] | None = None
        self._budgets: set[Budget] = set()

    def get(self, path: str, *, max_bytes: int | None = None) -> Reply:
        """GET ``path``. Parameters and errors as of :meth:`post`."""
        return self._call(_Request("GET", path, None, {}, self._bytes_allowed(max_bytes)))

    def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        max_bytes: int | None = None,
        within_s: float = math.inf,
    ) -> Reply:
        """POST a body to ``path``.

        Parameters:
            max_bytes: the largest answer to this request, at most ``max_response_bytes``.
            within_s: seconds for all attempts, where that is less than the deadline.

        Raises:
            IsplitError: the error that the server answered (:func:`errors.from_json`).
            ServerUnavailableError: nothing answers.
            ServerTimeoutError: no complete answer came in time.
            ServerBusyError: the queue stays full.
            AuthenticationError: the server refuses the token.
            WireSizeError: the body is above the server's limit.
            UnknownModelError: no model of this name is registered.
            ProtocolError: the answer is not one of isplit or TorchServe, or it is too large.
        """
        limit = self._bytes_allowed(max_bytes)
        return self._call(_Request("POST", path, body, headers, limit, within_s))

    def for_pings(self) -> Transport:
        """A transport to the same server for :meth:`is_answering`, which waits for less long."""
        timeout = (min(self._connect_s, _PING_S), min(self._attempt_s, _PING_S))
        return Transport(self._url, token=self._token, timeout=timeout, retries=0)

    def is_answering(self) -> bool:
        """Whether ``/ping`` gets an answer, in one attempt. It may be an error of the server.

        502 to 504 are no answers: a proxy says so for a server that does not answer.
        """
        self._session()
        ends_at = time.monotonic() + self.call_s
        try:
            token = self._token_now()
            status, *_ = self._attempt(_Request("GET", "/ping", None, {}, 4096), token, ends_at)
        except (_BrokenError, ServerUnavailableError):
            return False
        except IsplitError:
            return True
        return status not in (502, 503, 504)

    def close(self) -> None:
        """Close the connections that are not in use; the next request opens a new one."""
        with self._lock:
            connections, self._connections = self._connections, None
        if connections is not None:
            session, adapter = connections
            adapter.close_now()
            session.close()

    def cancel(self) -> None:
        """End the requests that other threads are waiting for, with ServerUnavailableError."""
        with self._lock:
            budgets = list(self._budgets)
        for budget in budgets:
            budget.cancel()

    def _bytes_allowed(self, max_bytes: int | None) -> int:
        limit = self._max_response_bytes
        return limit if max_bytes is None else min(limit, max_bytes)

    def _call(self, request: _Request) -> Reply:
        self._session()  # loading requests at the first call is not the server's time
        ends_at = time.monotonic() + min(self.call_s, request.within_s)
        retries = 0
        may_renew_token = callable(self._token)
        may_lose_worker = True
        while True:
            token = self._token_now()
            try:
                status, body, headers = self._attempt(request, token, ends_at)
            except _BrokenError as broken:
                error: IsplitError = ServerUnavailableError(str(broken))
                again = True
            else:
                if status == 200:
                    return Reply(body, headers)
                error = answered_error(status, body, request.size)
                is_busy = isinstance(error, ServerBusyError | StoreBusyError)
                again = is_busy or bool(retry_after_s(error))
                if isinstance(error, AuthenticationError | TokenError) and may_renew_token:
                    may_renew_token = False
                    self._forget_token(token)
                    continue
                if may_lose_worker and status in _DIED and "worker died" in error.message.lower():
                    may_lose_worker = False
                    again = True
            pause_s = max(_pause_s(retries), retry_after_s(error))
            if not again or retries >= self._retries or time.monotonic() + pause_s >= ends_at:
                raise error
            retries += 1
            # Never the message: what the server wrote could hold what the client sent.
            _LOGGER.warning(
                "%s %s: %s, retry %d of %d in %.1f s",
                request.method,
                request.path,
                error.code,
                retries,
                self._retries,
                pause_s,
            )
            time.sleep(pause_s)

    def _attempt(
        self, request: _Request, token: str | None, ends_at: float
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of one attempt. Raises _BrokenError if it is safe to retry."""
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            raise _timed_out(_address(self._url, request), self.call_s)
        limit = request.max_bytes + request.max_bytes // 4 + _MAX_FRAMING_BYTES
        budget = Budget(min(self._attempt_s, left_s), self._connect_s, limit)
        with self._lock:
            self._budgets.add(budget)
        started = time.monotonic()
        try:
            with spending(budget):
                status, body, headers = self._exchange(request, token, budget)
        finally:
            with self._lock:
                self._budgets.discard(budget)
        _LOGGER.debug(
            "%s %s: HTTP %d, %d bytes sent, %d received, %.1f ms",
            request.method,
            request.path,
            status,
            request.size,
            len(body),
            (time.monotonic() - started) * 1e3,
        )
        return status, body, headers

    def _exchange(
        self, request: _Request, token: str | None, budget: Budget
    ) -> tuple[int, bytes, Mapping[str, str]]:
        import requests

        def authorize(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
            if token is not None:
                prepared.headers["Authorization"] = f"Bearer {token}"
            return prepared

        where = _address(self._url, request)
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
                raise _BrokenError(f"{where}: {_reason(error)}") from error
            raise TransportError(f"{where}: {_reason(error)}") from error
        try:
            return answer.status_code, _read(answer, where, request.max_bytes), answer.headers
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

    def _token_now(self) -> str | None:
        if self._token is None:
            return None
        with self._lock:
            token = self._current_token
        if token is None:
            token = read_token(self._token)
            with self._lock:
                self._current_token = token
        return token

    def _forget_token(self, refused: str | None) -> None:
        """Read the token again next time, unless another thread has renewed it already."""
        with self._lock:
            if self._current_token == refused:
                self._current_token = None


class _BrokenError(Exception):
    """The connection was refused, or broke before an answer."""


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
        raise _timed_out(where, budget.seconds) from error


def _too_large(where: str, limit: int) -> ProtocolError:
    return ProtocolError(f"{where}: expected an answer of at most {limit} bytes")


def _timed_out(where: str, seconds: float) -> ServerTimeoutError:
    return ServerTimeoutError(f"{where}: no complete answer within {seconds:.3g} s")


def _address(url: str, request: _Request) -> str:
    size = "" if request.body is None else f" with a body of {request.size} bytes"
    return f"{request.method} {url}{request.path}{size}"


def _pause_s(retries: int) -> float:
    # At random, so that devices that failed together do not come back together.
    longest: float = min(_BACKOFF_S * 2**retries, _MAX_BACKOFF_S)
    return longest * random.uniform(0.5, 1.5)  # noqa: S311


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


def _reason(error: BaseException) -> str:
    """The innermost cause, because urllib3's outer messages repeat the address."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    text = "".join(c if c.isprintable() else " " for c in str(error)[:200])
    return f"{type(error).__name__}: {text}"
