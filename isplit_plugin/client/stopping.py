"""Ending a head's run that nobody waits for any more.

The device's own answer of a hedged photo is in vain once the server's is here. What is left of its
run would slow the next photo's head down.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar


class Stop:
    """Ends runs of heads. It stays set, so that a run that begins later ends, too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: list[Callable[[], None]] = []
        self._is_set = False

    def set(self) -> None:
        """End what runs under this, from any thread."""
        with self._lock:
            self._is_set = True
            for end in self._ends:
                end()

    @contextlib.contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """Call ``end`` when this is set, at once if it is; not any more behind the block."""
        with self._lock:
            self._ends.append(end)
            if self._is_set:
                end()
        try:
            yield
        finally:
            with self._lock:
                self._ends.remove(end)


_CURRENT: ContextVar[Stop | None] = ContextVar("isplit stop", default=None)


def current_stop() -> Stop | None:
    """What may end the runs of this thread; ``None`` for nothing.

    A head runtime that can end a run asks for it. A run that was ended raises any exception.
    """
    return _CURRENT.get()


@contextlib.contextmanager
def stoppable(stop: Stop) -> Iterator[None]:
    """Let ``stop`` end the runs of heads in this block, of this thread."""
    token = _CURRENT.set(stop)
    try:
        yield
    finally:
        _CURRENT.reset(token)
