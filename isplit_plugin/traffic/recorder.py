"""The recorder: takes what requests leave behind, off the request path, and writes it to the store.

``observe`` and its like append to a bounded queue and return; they never wait for the store, never start more than one
thread and never raise. **When the queue is full the newest observation is dropped** and counted: what was taken stays
in order, and a burst costs the burst's own tail rather than what came before it. A background thread empties the queue
into a :class:`.delta.Delta` and writes it at least every ``flush_s``. While the store is down the delta goes on
aggregating (it is bounded by its keys, not by requests) and the next try waits twice as long, at most
``MAX_BACKOFF_S``; a delta is cleared only when its transaction was committed, so nothing is written twice.

Before the store was opened for the first time its shift and half-life are not known: until then things wait in the
queue. A killed process loses at most what came since its last flush.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..errors import IsplitError
from ..profile import Profile
from ..schema import Cut, Manifest, Observation
from .delta import OTHER, Delta
from .moments import DEFAULT_HALF_LIFE_S, F64
from .store import Store

MAX_BACKOFF_S: Final = 10.0
_MAX_DROP_KEYS: Final = 256
_log = logging.getLogger(__name__)
_alive: weakref.WeakSet[Recorder] = weakref.WeakSet()


class _Curves(NamedTuple):
    class_ids: list[int]
    values: F64
    source: str
    target: str
    group: str
    at: float
    device: str | None


class _Label(NamedTuple):
    cut: Cut
    class_id: int
    group: str
    at: float
    correct: bool


class Recorder:
    """Counts the requests of one network and writes the counts to the store.

    ``manifest`` and ``profile``: put into the store when it is opened, and again should its file be replaced; without
    them the network must be in the store by then. ``flush_s``: seconds between flushes. ``max_queue``: observations
    that may wait; ``max_keys``: aggregates that may wait while the store is down. ``identity``: importance counts by
    device (see :mod:`.devices`), and what has no verified device belongs to one; without it, each request counts by
    itself. ``labels``: keep requests for a day, so that they can be labelled (see :mod:`.labels`).

    The background thread starts with the first observation, in whatever process that happens; a forked child starts
    afresh and leaves its parent's observations to the parent.
    """

    def __init__(
        self,
        store_url: str | Path,
        network_hash: str,
        *,
        manifest: Manifest | None = None,
        profile: Profile | bytes | None = None,
        flush_s: float = 1.0,
        max_queue: int = 8192,
        max_keys: int = 50_000,
        half_life_s: int = DEFAULT_HALF_LIFE_S,
        identity: bool = False,
        labels: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = store_url
        self._network = network_hash
        self._manifest = manifest
        self._profile = profile
        self._flush_s = flush_s
        self._max_queue = max_queue
        self._max_keys = max_keys
        self._half_life_s = half_life_s
        self._identity = identity
        self._labels = labels
        self._clock = clock
        self._closed = False
        self._reset()
        _alive.add(self)

    def _reset(self) -> None:
        self._queue: deque[Observation | _Curves | _Label] = deque()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted = 0  # flushes asked for, and the last of them that is done
        self._done = 0
        self._drops: dict[tuple[Cut, str], tuple[int, float]] = {}
        self._store: Store | None = None
        self._delta: Delta | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._last_error = ""
        self._counts = dict.fromkeys(
            (
                "observed",
                "dropped",
                "invalid",
                "importance",
                "overflow",
                "flushes",
                "flush_failures",
            ),
            0,
        )

    # ------------------------------------------------------------------------------------------ the request's side

    def observe(self, observation: Observation) -> bool:
        """Take one request. ``False`` where it was dropped. Costs microseconds; never blocks, never raises."""
        return self._take(observation)

    def add_importance(  # noqa: PLR0917
        self,
        class_ids: Iterable[int],
        values: npt.ArrayLike,
        source: str = "tail",
        target: str = "predicted",
        group: str = "all",
        at: float | None = None,
        device: str | None = None,
    ) -> bool:
        """Take importance curves: ``values`` (N, P), NaN before the first known point, of the classes ``class_ids``
        (N,). ``source``: "tail", "input" or "probe"; ``target``: "predicted" or "true"; ``device``: whose
        they are, the hash of a verified id. Never blocks, never raises."""
        try:
            curves = np.array(values, dtype=np.float64)
            ids = [int(c) for c in class_ids]
            when = self._clock() if at is None else at
            return self._take(_Curves(ids, curves, source, target, group, when, device))
        except Exception:
            return self._refuse()

    def label(
        self,
        cut: Cut,
        class_id: int,
        *,
        correct: bool,
        group: str = "all",
        at: float | None = None,
    ) -> bool:
        """Take the label of a prediction of ``class_id``: was it ``correct``? Never blocks, never raises."""
        try:
            now = self._clock() if at is None else at
            return self._take(_Label(cut, int(class_id), group, now, bool(correct)))
        except Exception:
            return self._refuse()

    def label_of(self, request_id: str) -> int | None:
        """The true class of a request, where its label has come by now. One read; never raises."""
        store = self._store
        if store is None or not self._labels or not request_id:
            return None
        try:
            return store.label_of(request_id)
        except Exception:
            return None

    def counters(self) -> dict[str, int]:
        """observed, dropped (queue full), invalid, importance (curves), overflow (more keys than fit), flushes,
        flush_failures, queued (waiting now) and pending (aggregates waiting now)."""
        delta = self._delta
        return {
            **self._counts,
            "queued": len(self._queue),
            "pending": 0 if delta is None else len(delta),
        }

    @property
    def last_error(self) -> str:
        """Why the last flush failed; empty after one that did not."""
        return self._last_error

    def start(self) -> None:
        """Start the background thread now: the network is put into the store before the first request comes, however
        long that takes to succeed. Never blocks, never raises."""
        try:
            self._start()
        except Exception:
            self._refuse()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Write everything taken so far now; ``True`` once it is in the store. For tests and for closing down."""
        self.start()
        with self._condition:
            self._wanted += 1
            mine = self._wanted
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._done >= mine or self._closed, timeout_s)
            return self._done >= mine and not self._last_error

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush once more and stop; later observations are dropped."""
        with self._condition:
            self._closed = True
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

    def _take(self, item: Observation | _Curves | _Label) -> bool:
        try:
            if self._closed or len(self._queue) >= self._max_queue:
                return self._drop(item)
            self._queue.append(item)
            if self._thread is None:
                self._start()
        except Exception:
            return self._refuse()
        return True

    def _drop(self, item: Observation | _Curves | _Label) -> bool:
        with self._condition:
            self._counts["dropped"] += 1
            if isinstance(item, Observation):
                key = (item.cut, item.group)
                if key not in self._drops and len(self._drops) >= _MAX_DROP_KEYS:
                    key = (Cut(OTHER, OTHER), OTHER)
                self._drops[key] = (self._drops.get(key, (0, 0.0))[0] + 1, item.at)
        return False

    def _refuse(self) -> bool:
        self._counts["invalid"] += 1
        return False

    def _start(self) -> None:
        with self._condition:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name="isplit-recorder", daemon=True
                )
                self._thread.start()

    # ------------------------------------------------------------------------------------------ the thread's side

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._closed or self._wanted > self._done, self._flush_s
                )
                closing, wanted = self._closed, self._wanted
            try:
                self._cycle(at_once=closing or wanted > self._done)
            except Exception as error:  # whatever it is, the next cycle tries again
                self._failed(error)
            with self._condition:
                self._done = wanted
                self._condition.notify_all()
        if self._store is not None:
            self._store.close()

    def _cycle(self, *, at_once: bool) -> None:
        due = at_once or time.monotonic() >= self._retry_at
        if self._store is None and due:
            self._open()
        if self._delta is not None:
            self._drain(self._delta)
        if self._store is None or not due:
            return
        if self._delta is None or not len(self._delta):
            self._store.revision()  # notices a file that was deleted or replaced, and puts the network there again
            self._failures, self._last_error = 0, ""
            return
        known = self._store.add(self._network, self._delta)
        self._delta.clear()
        for kind, names in known.items():
            self._delta.names[kind].known = names
        self._counts["flushes"] += 1
        self._failures, self._last_error = 0, ""

    def _open(self) -> None:
        store = Store(self._url, half_life_s=self._half_life_s)
        try:
            if self._manifest is not None:
                store.put_network(self._manifest, self._profile)
            else:
                self._manifest, self._profile = store.kept(self._network)
            if self._delta is None:
                mean0 = store.mean0(self._network)
                classes = len(self._manifest.classes)
                keep = {"identity": self._identity, "labels": self._labels}
                self._delta = Delta(
                    mean0, store.half_life_s, classes, max_keys=self._max_keys, **keep
                )
        except BaseException:
            store.close()
            raise
        self._store = store

    def _drain(self, delta: Delta) -> None:
        for _ in range(len(self._queue)):
            item = self._queue.popleft()
            try:
                if isinstance(item, Observation):
                    delta.add_observation(item)
                    self._counts["observed"] += 1
                elif isinstance(item, _Label):
                    delta.add_label(*item[:4], correct=item.correct)
                else:
                    bad = delta.add_importance(
                        item.class_ids,
                        item.values,
                        source=item.source,
                        target=item.target,
                        group=item.group,
                        at=item.at,
                        device=item.device,
                    )
                    self._counts["invalid"] += bad
                    self._counts["importance"] += len(item.class_ids) - bad
            except (ValueError, TypeError, OverflowError, AttributeError):
                self._counts["invalid"] += 1
        with self._condition:
            drops, self._drops = self._drops, {}
        for (cut, group), (number, at) in drops.items():
            delta.add_drops(cut, group, at, number)
        self._counts["overflow"] = delta.overflow

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._retry_at = time.monotonic() + min(
            MAX_BACKOFF_S, self._flush_s * 2 ** min(self._failures - 1, 10)
        )
        text = (
            error.message if isinstance(error, IsplitError) else f"{type(error).__name__}: {error}"
        )
        if text != self._last_error:
            _log.warning("statistics wait: %s", text.replace("\n", " ").replace("\r", " "))
        self._last_error = text
        self._counts["flush_failures"] += 1
        if self._store is not None:
            self._store.close()
            self._store = None  # opened again, and the network put again, when it is next tried

    def _after_fork(self) -> None:
        if self._store is not None:
            self._store.after_fork()
        self._reset()


def _after_fork_in_child() -> None:
    for recorder in list(_alive):
        recorder._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
