"""The sampler: computes the importance of a few requests in the background.

Three limits hold at once:

- A **share** of the requests, chosen by a hash of the request id, so that whoever knows the ids can
  tell which they were (:func:`is_sampled`).
- **Idle time**: a backward pass starts only while no request is handled, and none was for
  ``idle_s``. A worker cannot see the server's queue, but what waits there arrives within that time.
- A **CPU budget**: the CPU time of the passes over wall time, a token bucket of one minute. A pass
  that costs more than is left makes debt, and the next one waits.

Requests that do not fit into the bounded queue are dropped, the newest first, and counted.

The thread keeps the priority of its process, unless ``nice`` says otherwise. A low one looks
kinder, but the thread sometimes holds Python's global lock, and whoever waits for the lock then
waits for a thread that the system hardly runs: with two cores and three busy processes a request
was held up by 20 ms at nice 0, 150 ms at 10, 800 ms at 19.
"""

from __future__ import annotations

import hashlib
import logging
import math
import operator
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..schema import INPUT, OUTPUT, Observation
from ..token_bucket import TokenBucket
from .aggregates.samples import ImportanceSample
from .lifecycle import BackgroundWorker
from .recorder import Recorder

DEFAULT_SHARE: Final = 0.05
DEFAULT_CPU_BUDGET: Final = 0.01
WINDOW_S: Final = 60.0
"""The capacity of the CPU budget, in seconds of wall time."""
_LOGGER = logging.getLogger(__name__)

ImportanceFn = Callable[[str, npt.NDArray[np.float32], int], npt.ArrayLike]
"""(split point, activation (1, ...), class id) -> the importance curve of that class.

The curve is (P,) or (1, P), and NaN before the split point.
"""
LabelFn = Callable[[str], int | None]
"""(request id) -> its true class, ``None`` where there is no label yet. Never raises."""


def is_sampled(request_id: str, share: float) -> bool:
    """Whether a request is sampled: BLAKE2b of its id, over 2^64, is below ``share``."""
    digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


class _Request(NamedTuple):
    observation: Observation
    activation: npt.NDArray[np.float32]


class Sampler(BackgroundWorker):
    """Computes the importance of sampled requests and hands it to a recorder.

    Parameters:
        importance_fn: computes one curve, in the sampler's thread; see :data:`ImportanceFn`.
        recorder: where the samples go.
        share: the share of the requests, in [0, 1].
        cpu_budget: CPU seconds of one core per second of wall time; 1 or more is no limit.
        label_of: reads labels, in the sampler's thread; see :data:`LabelFn`. Without it, only the
            predicted class is computed.
        threads: the threads of ``importance_fn``, which multiply the CPU time of the one thread
            that is measured.
        max_queue, max_bytes: limits of the activations that wait.
        idle_s: how long the worker must have been idle before a pass starts.
        nice: by how much to lower the thread's priority, on Linux.
    """

    def __init__(
        self,
        importance_fn: ImportanceFn,
        recorder: Recorder,
        share: float = DEFAULT_SHARE,
        cpu_budget: float = DEFAULT_CPU_BUDGET,
        *,
        label_of: LabelFn | None = None,
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
        self._cpu_budget = cpu_budget
        self._label_of = label_of
        self._threads = max(1, threads)
        self._max_queue = max_queue
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        self._nice = nice
        self._clock = clock
        self._cpu_clock = cpu_clock
        super().__init__("isplit-sampler")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around the handling of requests: no pass starts meanwhile. Nestable, for all threads."""
        with self._condition:
            self._busy += 1
        try:
            yield
        finally:
            with self._condition:
                self._busy -= 1
                self._idle_since = self._clock()
                # A thread that has nothing to do is not woken up: it would want Python's global
                # lock at the moment when the answer is sent.
                if self._queue:
                    self._condition.notify_all()

    def offer(self, observation: Observation, activation: npt.ArrayLike) -> bool:
        """Offer a request with its decoded activation (1, ...); ``True`` if it was taken.

        Failed requests and those without a tail are never sampled. The activation of a sampled
        request is copied. Does not wait, never raises.
        """
        try:
            self._counts["offered"] += 1
            if not self._is_chosen(observation):
                return False
            self._counts["sampled"] += 1
            array = np.asarray(activation)
            if not self._fits(array.nbytes):  # before it is copied
                self._counts["dropped"] += 1
                return False
            copied = np.array(array, dtype=np.float32, order="C")
            with self._condition:
                if self._closed or not self._fits(copied.nbytes):
                    self._counts["dropped"] += 1
                    return False
                self._queue.append(_Request(observation, copied))
                self._queued_bytes += copied.nbytes
                self._condition.notify_all()
                self._start_thread()
        except Exception as error:
            self._note_failure(error)
            return False
        return True

    def counters(self) -> dict[str, float]:
        """Counts since the start of the process.

        offered; sampled: chosen by the hash; dropped: found no room; computed, failed; queued,
        queued_bytes: requests in the queue now; running: passes under way now; cpu_s: CPU seconds
        of all passes.
        """
        return {
            **self._counts,
            "queued": len(self._queue),
            "queued_bytes": self._queued_bytes,
            "running": self._running,
            "cpu_s": self._cpu_s,
        }

    # ------------------------------------------------------------------------ the request's side

    def _reset(self) -> None:
        super()._reset()
        self._queue: deque[_Request] = deque()
        self._queued_bytes = 0
        self._busy = 0
        self._idle_since = self._clock() - self._idle_s
        self._bucket: TokenBucket | None = None
        if self._cpu_budget < 1:
            capacity = self._cpu_budget * WINDOW_S
            self._bucket = TokenBucket(self._cpu_budget, capacity, self._clock)
        self._has_warned = False
        self._cpu_s = 0.0
        self._running = 0
        self._counts = dict.fromkeys(("offered", "sampled", "dropped", "computed", "failed"), 0)

    def _is_chosen(self, observation: Observation) -> bool:
        if self._closed or observation.class_id is None:
            return False
        operator.index(observation.class_id)  # raises TypeError for anything but a whole number
        at_output = observation.cut.split_point == OUTPUT
        return not at_output and is_sampled(observation.request_id, self._share)

    def _fits(self, nbytes: int) -> bool:
        return len(self._queue) < self._max_queue and self._queued_bytes + nbytes <= self._max_bytes

    def _on_close(self) -> None:
        """Forget the queue. A pass under way ends, and its result is not recorded."""
        self._queue.clear()
        self._queued_bytes = 0

    # ------------------------------------------------------------------------- the thread's side

    def _run(self) -> None:
        self._lower_priority()
        while (request := self._next()) is not None:
            begin = self._cpu_clock()
            samples = self._compute(request)
            cpu_s = (self._cpu_clock() - begin) * self._threads
            if self._bucket is not None:
                self._bucket.take(cpu_s)
            self._cpu_s += cpu_s
            if not self._closed:
                for sample in samples:
                    self._recorder.add_importance(sample)
                self._counts["computed"] += bool(samples)
            self._running = 0

    def _lower_priority(self) -> None:
        if not self._nice or sys.platform != "linux":  # elsewhere it changes the whole process
            return
        with suppress(OSError):
            thread = threading.get_native_id()
            priority = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, priority + self._nice)

    def _compute(self, request: _Request) -> list[ImportanceSample]:
        """The curve of the predicted class, and that of the true class where it is known."""
        predicted = operator.index(request.observation.class_id)  # type: ignore[arg-type]
        samples: list[ImportanceSample] = []
        try:
            curve = self._curve(request, predicted)
            samples.append(_sample(request.observation, "predicted", predicted, curve))
            label = None
            if self._label_of is not None:
                label = self._label_of(request.observation.request_id)
            if label is not None:
                if label != predicted:
                    curve = self._curve(request, label)
                samples.append(_sample(request.observation, "true", label, curve))
        except Exception as error:
            self._note_failure(error)
        return samples

    def _curve(self, request: _Request, class_id: int) -> npt.NDArray[np.float64]:
        split_point = request.observation.cut.split_point
        values = self._importance_fn(split_point, request.activation, class_id)
        return np.asarray(values, np.float64).reshape(-1)

    def _next(self) -> _Request | None:
        """The next request, once the limits allow it; ``None`` once the sampler is closed."""
        with self._condition:
            while not self._closed:
                wait_s = self._wait_s()
                if wait_s == 0.0:
                    self._running = 1  # before it leaves the queue: it is always in one counter
                    request = self._queue.popleft()
                    self._queued_bytes -= request.activation.nbytes
                    return request
                self._condition.wait(wait_s)
        return None

    def _wait_s(self) -> float | None:
        """Seconds until a pass may start; ``None`` if that takes a notification."""
        if not self._queue or self._busy:
            return None
        idle_wait_s = max(0.0, self._idle_s - (self._clock() - self._idle_since))
        if self._bucket is None or self._bucket.level() > 0:
            return idle_wait_s
        budget_wait_s = math.inf if self._cpu_budget <= 0 else self._bucket.seconds_until(0.0)
        return None if math.isinf(budget_wait_s) else max(idle_wait_s, budget_wait_s, 1e-3)

    def _note_failure(self, error: Exception) -> None:
        self._counts["failed"] += 1
        if not self._has_warned:
            self._has_warned = True
            text = f"{type(error).__name__}: {error!r}"[:300]
            _LOGGER.warning("importance of a sampled request failed: %s", text)


def _sample(
    observation: Observation, target: str, class_id: int, curve: npt.NDArray[np.float64]
) -> ImportanceSample:
    return ImportanceSample(
        class_id=class_id,
        curve=curve,
        source="input" if observation.cut.split_point == INPUT else "tail",
        target=target,
        group=observation.group,
        at=observation.at,
        device=observation.device,
    )
