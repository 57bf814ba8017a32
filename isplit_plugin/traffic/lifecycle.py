"""What starts, stops and forks: a fresh start in a forked child, and a background thread."""

from __future__ import annotations

import os
import threading
import weakref

from ..closing import Closing


class ForkAware:
    """An object that is told when its process was forked."""

    def __init__(self) -> None:
        _fork_aware.add(self)

    def _after_fork(self) -> None:
        """Called in the child process, before anything else runs there."""
        raise NotImplementedError


_fork_aware: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for instance in list(_fork_aware):
        instance._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


class BackgroundWorker(ForkAware, Closing):
    """A daemon thread with a condition. It starts when it is first needed and stops at ``close()``.

    A forked child has no thread and a fresh state: its parent's work remains with the parent.
    Subclasses implement :meth:`_run`, which returns once ``_closed`` is set, and extend
    :meth:`_reset`, which makes the fresh state.
    """

    def __init__(self, thread_name: str) -> None:
        super().__init__()
        self._thread_name = thread_name
        self._closed = False
        self._reset()

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop the thread, and wait for it for at most ``timeout_s`` seconds."""
        with self._condition:
            self._closed = True
            self._on_close()
            self._condition.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None

    def _start_thread(self) -> None:
        with self._condition:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name=self._thread_name, daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        raise NotImplementedError

    def _on_close(self) -> None:
        """Called with the condition held, when the worker is closed."""

    def _after_fork(self) -> None:
        self._reset()


class FlushingWorker(BackgroundWorker):
    """A worker that writes what it was given every ``flush_s`` seconds, and when it is asked to.

    Subclasses implement :meth:`_cycle`, :meth:`_note_failure`, :meth:`_finish` and
    :attr:`last_error`.
    """

    def __init__(self, thread_name: str, flush_s: float) -> None:
        self._flush_s = flush_s
        super().__init__(thread_name)

    @property
    def last_error(self) -> str:
        """Why the last flush failed; empty after a success."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the thread. Does not wait."""
        self._start_thread()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Write everything that was taken so far; ``True`` once it is in the store."""
        self.start()
        with self._condition:
            self._flushes_wanted += 1
            number = self._flushes_wanted
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: self._flushes_done >= number or self._closed, timeout_s
            )
            return self._flushes_done >= number and not self.last_error

    def _reset(self) -> None:
        super()._reset()
        self._flushes_wanted = 0
        self._flushes_done = 0

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._closed or self._flushes_wanted > self._flushes_done,
                    self._flush_s,
                )
                closing, wanted = self._closed, self._flushes_wanted
                at_once = closing or wanted > self._flushes_done
            try:
                self._cycle(at_once=at_once)
            except Exception as error:  # whatever it is, the next cycle tries again
                self._note_failure(error)
            with self._condition:
                self._flushes_done = wanted
                self._condition.notify_all()
        self._finish()

    def _cycle(self, *, at_once: bool) -> None:
        """Take in what was given, and write it where it is due; ``at_once``: all of it."""
        raise NotImplementedError

    def _note_failure(self, error: Exception) -> None:
        """A cycle failed."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Called once after the last cycle."""
        raise NotImplementedError
