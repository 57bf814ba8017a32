"""The cool-down of a client with a local fallback: an outage is paid for once, not with every photo.

After a failure nobody asks the server. A thread in the background asks for ``/ping`` after a pause,
again and again while it gets no answer, with growing pauses. Once there is an answer, one prediction
is the trial: if it succeeds, the server is asked as before. If it fails, the pauses go on growing.
"""

from __future__ import annotations

import logging
import random
import threading
from enum import Enum
from typing import Final, Protocol

from ..growing_pause import GrowingPause
from .budget import read_seconds

DEFAULT_COOL_DOWN: Final = (1.0, 60.0)
"""Seconds of the shortest and the longest pause."""
THREAD_NAME: Final = "isplit-cool-down"

_CLOSE_S: Final = 5.0
_LOGGER = logging.getLogger("isplit.client")


class Answering(Protocol):
    """What can be asked whether it answers."""

    def is_answering(self) -> bool: ...

    def cancel(self) -> None:
        """Make a running :meth:`is_answering` return soon."""
        ...

    def close(self) -> None: ...


class _State(Enum):
    ANSWERS = "answers"
    SILENT = "silent"
    ON_TRIAL = "on trial"


class CoolDown:
    """Whether a server is worth asking. Several threads may use it.

    Parameters:
        server: asked in the background; :class:`Transport` is one. It is closed with this object.
        pauses: seconds of the shortest and the longest pause.

    Raises TransportError for pauses that are no seconds.
    """

    def __init__(
        self,
        server: Answering,
        pauses: tuple[float, float] = DEFAULT_COOL_DOWN,
    ) -> None:
        self._server = server
        self._pause = GrowingPause(*(read_seconds(p, "cool_down") for p in pauses))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._state = _State.ANSWERS
        self._outages = 0
        self._trial_runs = False
        self._thread: threading.Thread | None = None

    def ask(self) -> int | None:
        """A number for :meth:`succeeded`, :meth:`failed` or :meth:`undecided`.

        ``None`` while the server should be left alone.
        """
        with self._lock:
            if self._state is _State.SILENT or self._trial_runs:
                return None
            self._trial_runs = self._state is _State.ON_TRIAL
            return self._outages

    def succeeded(self, asked: int) -> None:
        """The server answered the prediction."""
        with self._lock:
            if asked == self._outages and self._state is _State.ON_TRIAL:
                self._state = _State.ANSWERS
                self._pause.reset()
                self._trial_runs = False
                _LOGGER.info("the server answers again: predictions run on it as before")

    def undecided(self, asked: int) -> None:
        """The prediction failed for a reason that says nothing about the server."""
        with self._lock:
            if asked == self._outages:
                self._trial_runs = False

    def failed(self, asked: int) -> None:
        """The server did not answer. What was asked before an outage began changes nothing."""
        with self._lock:
            if asked != self._outages or self._stop.is_set():
                return
            self._state = _State.SILENT
            self._trial_runs = False
            self._outages += 1
            thread = threading.Thread(target=self._watch, name=THREAD_NAME, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the device is out of threads: the next prediction is the trial
                self._state = _State.ON_TRIAL
            else:
                self._thread = thread

    def stop(self) -> None:
        """Let the thread end, without waiting for it."""
        self._stop.set()
        self._server.cancel()

    def close(self) -> None:
        """End the thread. Later failures start none."""
        with self._lock:
            self._stop.set()
            thread = self._thread
        waited_s = 0.0
        while thread is not None and thread.is_alive() and waited_s < _CLOSE_S:
            self._server.cancel()  # again: it may be between two requests
            thread.join(0.05)
            waited_s += 0.05
        self._server.close()

    def pause_s(self) -> float:
        """Seconds before the next try. The pause behind it is longer.

        At random by a quarter, so that devices that failed together do not come back together.
        """
        return self._pause.grow() * random.uniform(0.75, 1.25)  # noqa: S311

    def _watch(self) -> None:
        while True:
            with self._lock:
                pause_s = self.pause_s()
            _LOGGER.warning(
                "the server does not answer: predictions run here, the next try is in %.1f s",
                pause_s,
            )
            if self._stop.wait(pause_s):
                return
            answers = self._server.is_answering()
            if self._stop.is_set():
                return
            if answers:
                with self._lock:
                    self._state = _State.ON_TRIAL
                _LOGGER.info("the server is back: the next prediction tries it")
                return
