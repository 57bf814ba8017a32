"""Progress in lines of text, for output that is not a terminal."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final, Self

INTERVAL_S: Final = 15.0


class ProgressLines:
    """Prints a line of progress on stderr at regular intervals, as a context manager.

    A thread prints, because one step may take longer than the interval. Call the object with the
    number of photos done and their total (``None``: unknown).

    Parameters:
        interval_s: seconds between two lines.
        doing: what the lines say is going on. things: what is counted.
        afterwards: what goes on when all is done.
    """

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        *,
        doing: str = "measuring",
        things: str = "photos",
        afterwards: str = "measuring the times of head and tail",
    ) -> None:
        self._doing, self._things, self._afterwards = doing, things, afterwards
        self._interval_s = interval_s
        self._progress: tuple[int, int | None] = (0, None)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._print_lines, daemon=True)

    def __call__(self, done: int, total: int | None) -> None:
        self._progress = (done, total)

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _print_lines(self) -> None:
        while not self._ended.wait(self._interval_s):
            seconds = time.monotonic() - self._started
            print(f"{self._line()} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    def _line(self) -> str:
        done, total = self._progress
        if done == total:
            return self._afterwards
        return f"{self._doing}: {done} of {'?' if total is None else total} {self._things}"
