"""The newest recommendation, asked for in the background so that no photo waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from ..closing import Closing
from ..errors import IsplitError
from ..growing_pause import GrowingPause
from ..schema import Recommendation

_RETRY_S: Final = 2.0
"""The first pause after a question that failed; it doubles up to the usual pause."""
_LOGGER = logging.getLogger("isplit.client")


class Advice(Closing):
    """Keeps the newest recommendation.

    Parameters:
        ask: returns one, or raises an IsplitError.
        refresh_s: seconds between two questions.

    A question that fails leaves the last answer in force.
    """

    def __init__(self, ask: Callable[[], Recommendation], *, refresh_s: float) -> None:
        self._ask = ask
        self._refresh_s = refresh_s
        self._newest: Recommendation | None = None
        self._error: IsplitError | None = None
        self._closed = threading.Event()
        self._answered = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def newest(self) -> Recommendation | None:
        """The newest recommendation; ``None`` before the first."""
        return self._newest

    @property
    def error(self) -> IsplitError | None:
        """Why the last question failed; ``None`` if it did not."""
        return self._error

    def start(self) -> None:
        """Begin to ask. Further calls do nothing."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="isplit advice", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float) -> Recommendation | None:
        """The newest recommendation, after at most ``timeout_s`` for the first answer."""
        self.start()
        self._answered.wait(timeout_s)
        return self._newest

    def close(self) -> None:
        """Ask no more. A question that is under way ends by itself."""
        self._closed.set()

    def _run(self) -> None:
        pause = GrowingPause(_RETRY_S, self._refresh_s)
        while not self._closed.is_set():
            if self._refresh():
                pause.reset()
                self._closed.wait(self._refresh_s)
            else:
                self._closed.wait(pause.grow())

    def _refresh(self) -> bool:
        try:
            newest = self._ask()
        except IsplitError as error:
            if not self._closed.is_set():
                _LOGGER.info("no new advice: %s", error.message)
            self._error = error
            return False
        finally:
            self._answered.set()
        if self._newest is None or newest.revision != self._newest.revision:
            _LOGGER.debug("advice %s for %s", newest.revision, newest.model)
        self._newest = newest
        self._error = None
        return True
