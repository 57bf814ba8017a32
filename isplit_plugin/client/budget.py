"""What one attempt of a request may take: time, and bytes of the answer.

A timeout of sockets is the time between two pieces of an answer. A server that sends a byte a
second, or never stops sending headers, stays within it for ever. So an attempt has a budget, and
everything that waits or reads asks it first.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final

from ..errors import TransportError

DEFAULT_TIMEOUT: Final = (5.0, 60.0)
"""Seconds to connect, and for a whole attempt."""

Timeout = float | tuple[float, float]
"""Seconds for a whole attempt, or seconds to connect and seconds for a whole attempt."""


class BudgetError(OSError):
    """The attempt was stopped: its answer is too large, or it was cancelled."""


class Budget:
    """The time and the bytes of one attempt.

    Parameters:
        seconds: from now to the last byte of the answer.
        connect_s: to connect to one address of the host.
        max_bytes: that may arrive, with headers and framing.

    Attributes:
        exceeded: whether more bytes arrived than allowed.
        cancelled: whether another thread ended the attempt.
    """

    def __init__(self, seconds: float, connect_s: float, max_bytes: int) -> None:
        self.seconds = seconds
        self._connect_s = connect_s
        self._ends_at = time.monotonic() + seconds
        self._bytes_left = max_bytes
        self._socket: socket.socket | None = None
        self.cancelled = False
        self.exceeded = False

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._ends_at

    def remaining_s(self) -> float:
        """Seconds that are left. Raises TimeoutError for none, BudgetError if cancelled."""
        if self.cancelled:
            raise BudgetError("the attempt was cancelled")
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"the attempt took more than {self.seconds:g} s")
        return left

    def connect_s(self) -> float:
        """Seconds to connect to the next address. Raises as :meth:`remaining_s`."""
        return min(self._connect_s, self.remaining_s())

    def take(self, nbytes: int) -> None:
        """Count bytes that arrived. Raises BudgetError above the bound."""
        self._bytes_left -= nbytes
        if self._bytes_left < 0:
            self.exceeded = True
            raise BudgetError("the answer is too large")

    def watch(self, connection: socket.socket) -> None:
        """Name the socket in use, which :meth:`cancel` shuts down."""
        self._socket = connection
        if self.cancelled:
            self.cancel()

    def cancel(self) -> None:
        """End the attempt from another thread: what waits on its socket wakes up and fails."""
        self.cancelled = True
        if self._socket is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown, which changes the object under its reader.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


_CURRENT: ContextVar[Budget] = ContextVar("isplit_budget")


def current() -> Budget:
    """The budget of the attempt that this thread makes."""
    return _CURRENT.get()


@contextmanager
def spending(budget: Budget) -> Iterator[Budget]:
    """Within this context, connections of this thread spend ``budget``."""
    token = _CURRENT.set(budget)
    try:
        yield budget
    finally:
        _CURRENT.reset(token)


def read_timeout(timeout: Timeout) -> tuple[float, float]:
    """Seconds to connect, and for a whole attempt. Raises TransportError for what is no timeout."""
    pair = timeout if isinstance(timeout, tuple) else (DEFAULT_TIMEOUT[0], timeout)
    if len(pair) != 2:
        raise TransportError(
            f"timeout: expected seconds, or seconds to connect and for the attempt, got {pair!r:.80}"
        )
    connect_s, attempt_s = (read_seconds(value, "timeout") for value in pair)
    return min(connect_s, attempt_s), attempt_s


def read_seconds(value: object, name: str) -> float:
    """A positive number of seconds. Raises TransportError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:  # type: ignore[operator]
        raise TransportError(f"{name}: expected seconds above 0, got {value!r:.80}")
    return float(value)  # type: ignore[arg-type]
