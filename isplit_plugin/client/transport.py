"""HTTP to TorchServe: deadlines, bounded retries, tokens, typed errors.

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
from typing import Final
from urllib.parse import urlsplit

from ..errors import (
    AuthenticationError,
    IsplitError,
    ServerBusyError,
    ServerUnavailableError,
    StoreBusyError,
    TokenError,
    TransportError,
)
from .answered_errors import answered_error, retry_after_s
from .budget import DEFAULT_TIMEOUT, Timeout, read_seconds, read_timeout
from .connections import Answer, BrokenError, Connections, Request, address, timed_out

Token = str | Callable[[], str] | None
"""A token, or a callable that returns the current one."""

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
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
        self._connections = Connections(self._url, self._connect_s, self._attempt_s)

    def get(self, path: str, *, max_bytes: int | None = None) -> Reply:
        """GET ``path``. Parameters and errors as of :meth:`post`."""
        return self._call(Request("GET", path, None, {}, self._bytes_allowed(max_bytes)))

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
        return self._call(Request("POST", path, body, headers, limit, within_s))

    def for_pings(self) -> Transport:
        """A transport to the same server for :meth:`is_answering`, which waits for less long."""
        timeout = (min(self._connect_s, _PING_S), min(self._attempt_s, _PING_S))
        return Transport(self._url, token=self._token, timeout=timeout, retries=0)

    def is_answering(self) -> bool:
        """Whether ``/ping`` gets an answer, in one attempt. It may be an error of the server.

        502 to 504 are no answers: a proxy says so for a server that does not answer.
        """
        self._connections.open()
        ends_at = time.monotonic() + self.call_s
        try:
            token = self._token_now()
            status, *_ = self._attempt(Request("GET", "/ping", None, {}, 4096), token, ends_at)
        except (BrokenError, ServerUnavailableError):
            return False
        except IsplitError:
            return True
        return status not in (502, 503, 504)

    def close(self) -> None:
        """Close the connections that are not in use; the next request opens a new one."""
        self._connections.close()

    def cancel(self) -> None:
        """End the requests that other threads are waiting for, with ServerUnavailableError."""
        self._connections.cancel()

    def _bytes_allowed(self, max_bytes: int | None) -> int:
        limit = self._max_response_bytes
        return limit if max_bytes is None else min(limit, max_bytes)

    def _call(self, request: Request) -> Reply:
        self._connections.open()
        ends_at = time.monotonic() + min(self.call_s, request.within_s)
        retries = 0
        may_renew_token = callable(self._token)
        may_lose_worker = True
        while True:
            token = self._token_now()
            try:
                status, body, headers = self._attempt(request, token, ends_at)
            except BrokenError as broken:
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

    def _attempt(self, request: Request, token: str | None, ends_at: float) -> Answer:
        """One attempt. Raises BrokenError if it is safe to retry, ServerTimeoutError without time."""
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            raise timed_out(address(self._url, request), self.call_s)
        return self._connections.attempt(request, token, left_s)

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
