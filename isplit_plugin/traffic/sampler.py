"""The sampler: importance of a few requests, computed in the background without costing the others anything.

Three limits hold at once. A **share** of the requests, chosen by a hash of the request id, so that anyone who knows
the ids can tell which they were (:func:`is_sampled`). **Idle time**: a backward pass starts only while no request is
being handled and none was for ``idle_s``; the server's own queue cannot be seen from a worker, but whatever waits there
arrives within that time. And a **CPU budget**: CPU time of the passes over wall time, a token bucket of one minute, so
a pass that costs more than there is runs into debt and the next one waits. What does not fit into the bounded queue is
dropped, the newest first, and counted.

The thread keeps the priority of its process unless ``nice`` says otherwise. A low one looks kinder, but this thread
holds Python's global lock at times, and whoever waits for the lock then waits for a thread that the system hardly
runs: with two cores and three busy processes a request was held up by 20 ms at nice 0, 150 ms at 10, 800 ms at 19.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..schema import INPUT, OUTPUT
from .recorder import Recorder

DEFAULT_SHARE: Final = 0.05
DEFAULT_CPU_BUDGET: Final = 0.01
WINDOW_S: Final = 60.0
_log = logging.getLogger(__name__)
_alive: weakref.WeakSet[Sampler] = weakref.WeakSet()

ImportanceFn = Callable[[str, npt.NDArray[np.float32], int], npt.ArrayLike]
"""(split point, activation (1, ...), class id) -> the importance curve of that class, (P,) or (1, P), NaN before the
split point."""


def is_sampled(request_id: str, share: float) -> bool:
    """Whether a request is one of the sampled: BLAKE2b of its id, as a fraction of 2^64, lies below ``share``."""
    digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


class _Item(NamedTuple):
    request_id: str
    split_point: str
    activation: npt.NDArray[np.float32]
    class_id: int
    group: str
    at: float
    device: str | None


class Sampler:
    """Computes the importance of a sampled few requests and hands it to ``recorder``.

    ``importance_fn``: see :data:`ImportanceFn`; runs in the sampler's thread. ``share`` of the requests, in [0, 1].
    ``cpu_budget``: CPU seconds of one core per second of wall time; 1 or more is no limit. ``threads``: the threads
    ``importance_fn`` computes with, by which the measured CPU time of the one thread is multiplied. ``max_queue`` and
    ``max_bytes`` bound the activations that wait. ``idle_s``: how long the worker must have been idle. ``nice``: by how
    much to lower the thread's priority (Linux), see above.
    """

    def __init__(
        self,
        importance_fn: ImportanceFn,
        recorder: Recorder,
        share: float = DEFAULT_SHARE,
        cpu_budget: float = DEFAULT_CPU_BUDGET,
        *,
        threads: int = 1,
        max_queue: int = 64,
        max_bytes: int = 64 << 20,
        idle_s: float = 0.02,
        nice: int = 0,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._importance_fn = importance_fn
        self._recorder = recorder
        self._share = share
        self._budget = cpu_budget
        self._threads = max(1, threads)
        self._max_queue = max_queue
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        self._nice = nice
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._closed = threading.Event()
        self._reset()
        _alive.add(self)

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._bytes = 0
        self._busy = 0
        self._idle_since = self._clock() - self._idle_s
        self._tokens = self._budget * WINDOW_S
        self._filled_at = self._clock()
        self._thread: threading.Thread | None = None
        self._warned = False
        self._cpu_s = 0.0
        self._running = 0
        self._counts = dict.fromkeys(("offered", "sampled", "dropped", "computed", "failed"), 0)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around the handling of requests: no pass starts meanwhile. May be nested, and entered by several threads."""
        with self._condition:
            self._busy += 1
        try:
            yield
        finally:
            with self._condition:
                self._busy -= 1
                self._idle_since = self._clock()
                self._condition.notify_all()

    def offer(
        self,
        request_id: str,
        split_point: str,
        activation: npt.ArrayLike,
        class_id: int,
        *,
        group: str = "all",
        at: float | None = None,
        device: str | None = None,
    ) -> bool:
        """Offer one request: its decoded activation (1, ...) and predicted class. ``True`` where it was taken.

        ``at``: epoch seconds, now by default; ``device`` as in an Observation. The activation is copied if the request
        is one of the sampled. Never blocks, never raises.
        """
        try:
            self._counts["offered"] += 1
            if (
                self._closed.is_set()
                or split_point == OUTPUT
                or not is_sampled(request_id, self._share)
            ):
                return False
            self._counts["sampled"] += 1
            given = np.asarray(activation)
            if not self._fits(given.nbytes):  # before it is copied
                self._counts["dropped"] += 1
                return False
            copied = np.array(given, dtype=np.float32, order="C")
            when = time.time() if at is None else float(at)
            item = _Item(request_id, split_point, copied, int(class_id), group, when, device)
            with self._condition:
                if self._closed.is_set() or not self._fits(copied.nbytes):
                    self._counts["dropped"] += 1
                    return False
                self._queue.append(item)
                self._bytes += copied.nbytes
                self._condition.notify_all()
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="isplit-sampler", daemon=True
                    )
                    self._thread.start()
        except Exception as error:
            self._failed(error)
            return False
        return True

    def counters(self) -> dict[str, float]:
        """offered, sampled (chosen by the hash), dropped (no room), computed, failed, queued and queued_bytes (waiting
        now), running (passes under way), cpu_s (CPU seconds of all passes)."""
        now = {
            "queued": len(self._queue),
            "queued_bytes": self._bytes,
            "running": self._running,
            "cpu_s": self._cpu_s,
        }
        return {**self._counts, **now}

    def close(self, timeout_s: float = 30.0) -> None:
        """Forget what waits and stop; a pass under way is waited for, and its result not recorded."""
        with self._condition:
            self._closed.set()
            self._queue.clear()
            self._bytes = 0
            self._condition.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ the thread's side

    def _run(self) -> None:
        if self._nice and sys.platform == "linux":  # elsewhere it would change the whole process
            with suppress(OSError):
                thread = threading.get_native_id()
                os.setpriority(
                    os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + self._nice
                )
        while (item := self._next()) is not None:
            before = self._cpu_clock()
            curves = self._curves(item)
            spent = (self._cpu_clock() - before) * self._threads
            self._tokens -= spent
            self._cpu_s += spent
            if not self._closed.is_set():
                source = "input" if item.split_point == INPUT else "tail"
                self._counts["computed"] += bool(curves)
                for target, class_id, curve in curves:
                    ids, group = [class_id], item.group
                    self._recorder.add_importance(
                        ids, curve, source, target, group, item.at, item.device
                    )

    def _curves(self, item: _Item) -> list[tuple[str, int, npt.NDArray[np.float64]]]:
        """The curve of the predicted class, and that of the true class where the label has come by now."""
        found = []
        try:
            curve = self._curve(item, item.class_id)
            found.append(("predicted", item.class_id, curve))
            label = self._recorder.label_of(item.request_id)
            if label is not None:
                true = curve if label == item.class_id else self._curve(item, label)
                found.append(("true", label, true))
        except Exception as error:
            self._failed(error)
        return found

    def _curve(self, item: _Item, class_id: int) -> npt.NDArray[np.float64]:
        values = self._importance_fn(item.split_point, item.activation, class_id)
        return np.asarray(values, np.float64).reshape(1, -1)

    def _next(self) -> _Item | None:
        """The next item, once there is one, the worker is idle and the budget allows; ``None`` once closed."""
        with self._condition:
            while not self._closed.is_set():
                wait = self._wait_s()
                if wait == 0.0:
                    self._running = 1  # before it leaves the queue: nobody sees neither
                    item = self._queue.popleft()
                    self._bytes -= item.activation.nbytes
                    return item
                self._condition.wait(wait)
        return None

    def _wait_s(self) -> float | None:
        """Seconds until it is worth looking again: 0 is now, ``None`` is when somebody notifies."""
        if not self._queue or self._busy:
            return None
        now = self._clock()
        missing = self._idle_s - (now - self._idle_since)
        if self._budget < 1:
            self._tokens = min(
                self._budget * WINDOW_S, self._tokens + self._budget * (now - self._filled_at)
            )
            self._filled_at = now
            if self._tokens <= 0:
                if self._budget <= 0:
                    return None
                missing = max(missing, -self._tokens / self._budget)
                return max(missing, 1e-3)
        return max(missing, 0.0)

    def _fits(self, nbytes: int) -> bool:
        return len(self._queue) < self._max_queue and self._bytes + nbytes <= self._max_bytes

    def _failed(self, error: Exception) -> None:
        self._counts["failed"] += 1
        if not self._warned:
            self._warned = True
            _log.warning(
                "importance of a sampled request failed: %s",
                f"{type(error).__name__}: {error!r}"[:300],
            )

    def _after_fork(self) -> None:
        self._reset()


def _after_fork_in_child() -> None:
    for sampler in list(_alive):
        sampler._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
