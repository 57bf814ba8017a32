"""The recorder: takes observations and importance samples, off the request path.

``observe`` and ``add_importance`` append to a bounded queue and return. They never wait for the
store and never raise. When the queue is full, the newest observation is dropped and counted. A
background thread moves the queue into a :class:`.delta.Delta` and writes it at least every
``flush_s`` (:mod:`.writer`). While the store is down the delta goes on counting, bounded by its
keys and not by requests. A killed process loses what came since its last flush.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from ..profile import Profile
from ..schema import Cut, Manifest, Observation
from .aggregates.delta import Delta
from .aggregates.keys import OTHER
from .aggregates.moments import DEFAULT_HALF_LIFE_S
from .aggregates.samples import ImportanceSample
from .lifecycle import FlushingWorker
from .writer import DeltaWriter

_MAX_DROP_KEYS: Final = 256


class Recorder(FlushingWorker):
    """Counts the requests of one network and writes the counts to a store.

    The background thread starts with the first observation, in whatever process that happens. A
    forked child starts with an empty queue.

    Parameters:
        store_url: where the store is, as in :class:`.store.Store`.
        network_hash: the network that is counted.
        manifest, profile: put into the store when it is opened, and again should its file be
            replaced. Without a manifest the network must be in the store by then.
        flush_s: seconds between flushes.
        max_queue: observations that may wait in the queue.
        max_keys: keys of the delta, for the time while the store is down.
        half_life_s: the half-life of a store that is created.
        by_device: average importance by device
            (:mod:`isplit_plugin.traffic.aggregates.devices`); else every request counts by itself.
        keep_requests: keep requests for a day, so that they can be labelled
            (:mod:`isplit_plugin.traffic.rows.request`).
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
        by_device: bool = False,
        keep_requests: bool = False,
    ) -> None:
        self._max_queue = max_queue
        self._new_writer: Callable[[], DeltaWriter] = partial(
            DeltaWriter,
            store_url,
            network_hash,
            manifest=manifest,
            profile=profile,
            half_life_s=half_life_s,
            max_keys=max_keys,
            by_device=by_device,
            keep_requests=keep_requests,
            retry_s=flush_s,
        )
        super().__init__("isplit-recorder", flush_s)

    def observe(self, observation: Observation) -> bool:
        """Take one request; ``False`` if it was dropped. Takes microseconds, never raises."""
        return self._take(observation)

    def add_importance(self, sample: ImportanceSample) -> bool:
        """Take a copy of an importance sample; ``False`` if it was dropped. Never raises."""
        try:
            curve = np.array(sample.curve, dtype=np.float64)
            return self._take(replace(sample, curve=curve))
        except Exception:
            return self._refuse()

    def counters(self) -> dict[str, int]:
        """Counts since the start of the process.

        observed, importance: observations and samples that were counted; dropped: those that found
        the queue full; invalid: those with impossible values; overflow: those that found no key;
        flushes, flush_failures; moved_deltas: flushes whose times were more than five minutes ahead
        of the store's clock or behind it, and were moved; queued: observations in the queue now;
        pending: keys that are not written yet.
        """
        delta = self._writer.delta
        return {
            **self._counts,
            "overflow": 0 if delta is None else delta.overflow,
            "flushes": self._writer.flushes,
            "flush_failures": self._writer.failures,
            "moved_deltas": self._writer.moved_deltas,
            "queued": len(self._queue),
            "pending": 0 if delta is None else len(delta),
        }

    @property
    def last_error(self) -> str:
        """Why the last flush failed; empty after a success."""
        return self._writer.last_error

    def start(self) -> None:
        """Start the thread, which puts the network into the store. Does not wait, never raises."""
        try:
            self._start_thread()
        except Exception:
            self._refuse()

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush once more and stop. Later observations are dropped."""
        super().close(timeout_s)

    # ------------------------------------------------------------------------ the request's side

    def _reset(self) -> None:
        super()._reset()
        self._queue: deque[Observation | ImportanceSample] = deque()
        self._writer = self._new_writer()
        self._drops: dict[tuple[Cut, str], tuple[int, float]] = {}
        self._counts = dict.fromkeys(("observed", "dropped", "invalid", "importance"), 0)

    def _take(self, item: Observation | ImportanceSample) -> bool:
        try:
            if self._closed or len(self._queue) >= self._max_queue:
                return self._drop(item)
            self._queue.append(item)
            if self._thread is None:
                self._start_thread()
        except Exception:
            return self._refuse()
        return True

    def _drop(self, item: Observation | ImportanceSample) -> bool:
        with self._condition:
            self._counts["dropped"] += 1
            if isinstance(item, Observation):
                key = (item.cut, item.group)
                if key not in self._drops and len(self._drops) >= _MAX_DROP_KEYS:
                    key = (Cut(OTHER, OTHER), OTHER)
                number, _ = self._drops.get(key, (0, 0.0))
                self._drops[key] = (number + 1, item.at)
        return False

    def _refuse(self) -> bool:
        self._counts["invalid"] += 1
        return False

    # ------------------------------------------------------------------------- the thread's side

    def _cycle(self, *, at_once: bool) -> None:
        is_due = at_once or self._writer.is_due()
        if is_due:
            self._writer.open()
        if self._writer.delta is not None:
            self._drain(self._writer.delta)
        if is_due:
            self._writer.write()

    def _note_failure(self, error: Exception) -> None:
        self._writer.note_failure(error)

    def _finish(self) -> None:
        self._writer.close()

    def _drain(self, delta: Delta) -> None:
        """Move the queue and the drops into the delta."""
        for _ in range(len(self._queue)):
            item = self._queue.popleft()
            try:
                if isinstance(item, ImportanceSample):
                    delta.add_importance(item)
                    self._counts["importance"] += 1
                else:
                    delta.add_observation(item)
                    self._counts["observed"] += 1
            except (ValueError, TypeError, OverflowError, AttributeError):
                self._counts["invalid"] += 1
        with self._condition:
            drops = self._drops
            self._drops = {}
        for (cut, group), (number, at) in drops.items():
            delta.add_drops(cut, group, at, number)
