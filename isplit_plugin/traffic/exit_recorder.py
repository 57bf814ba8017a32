"""The exit recorder: takes activations and the answers of exits, off the request path.

``offer`` appends to a bounded queue and returns. A thread of its own pools the activations, adds
some of them to the sums, compares what exits say with the full network's answers, and writes all of
it to the store every ``flush_s``. Nothing here raises, and what does not fit is dropped and
counted. The same thread reads which exits are alive, so that answers can name their releases.

What a device says of its exit is believed only if the worker gets the same from the activation that
the device sent: the same class, and at most one bin apart.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ExitError, IsplitError, StoreError, WireError
from ..exits import (
    Exit,
    ExitStatement,
    ExitSums,
    Pooling,
    feature_count,
    pool,
    unsigned,
    usual_pooling,
)
from ..schema import Cut, FloatArray
from .aggregates.devices import UNSIGNED, device_of
from .aggregates.keys import HOUR_S
from .aggregates.moments import landmark
from .aggregates.sketch import merge_sketches, sketch_of
from .exit_bounds import bounds_of
from .exits import ExitBatch
from .lifecycle import FlushingWorker
from .rows.exits import AUDIT, SHADOW, CountedAnswer
from .store import Store

MAX_QUEUE: Final = 512
MAX_QUEUE_BYTES: Final = 64 * 1024 * 1024
WARM_UP: Final = 64
"""Photos from which the bounds of a cut's features are taken."""
MAX_FEATURES: Final = 1024
MAX_ANSWERS: Final = 20_000
MAX_HEARD: Final = 20_000
NO_RELEASE: Final = "none"
RETRY_S: Final = 600.0
"""Seconds after which a cut that found no room for its sums tries again."""
_SUMS_EVERY: Final = 6
"""Flushes until the sums are written again: they are large, and nobody waits for them."""
_TOGETHER: Final = 256
"""Photos that are added to the sums at once, at most."""
_LOGGER = logging.getLogger(__name__)


class ExitSample(NamedTuple):
    """One request at a split point.

    Attributes:
        cut: where it was cut.
        values: its decoded activation, without batch.
        channel_axis: of the activation, counted with the batch.
        class_id: the full network's answer.
        at: epoch seconds.
        device: the hash of a verified device id, or the name of the device that stands for all
            others; ``None`` where devices are not known.
        statement: what the device says of its exit, as it was sent.
        in_sums: whether it enters the sums.
    """

    cut: Cut
    values: FloatArray
    channel_axis: int
    class_id: int
    at: float
    device: str | None = None
    statement: str | None = None
    in_sums: bool = True


class ExitRecorder(FlushingWorker):
    """Takes sums and answers of the exits of one network.

    Parameters:
        store_url: as of :class:`.store.Store`.
        network_hash: the network that answers.
        sampling: share of the requests that enter the sums.
        flush_s: seconds between two flushes.
        by_device: devices have tokens, and each has one voice in an hour for each class; all
            without a valid one are one device. Else every photo has a voice.
        warm_up: photos from which the bounds of a cut's features are taken.
    """

    def __init__(
        self,
        store_url: str | Path,
        network_hash: str,
        *,
        sampling: float = 0.25,
        flush_s: float = 5.0,
        by_device: bool = False,
        warm_up: int = WARM_UP,
    ) -> None:
        self._url = store_url
        self._network = network_hash
        self._sampling = sampling
        self._by_device = by_device
        self._warm_up = warm_up
        super().__init__("isplit-exits", flush_s)

    def offer(
        self,
        cut: Cut,
        values: FloatArray,
        channel_axis: int,
        class_id: int,
        *,
        at: float,
        device: str | None = None,
        statement: str | None = None,
    ) -> bool:
        """Take one request; ``False`` if it was left out. Takes microseconds, never raises."""
        try:
            self._asked = True
            in_sums = random.random() < self._sampling  # noqa: S311
            if self._thread is None:
                self._start_thread()
            if not in_sums and statement is None:
                return False
            if not self._has_room(values.nbytes):
                self._counts["dropped"] += 1
                return False
            copied = np.array(values)  # a view would keep its whole batch, of which nobody counts
            voice = device_of(device) if self._by_device else None
            sample = ExitSample(cut, copied, channel_axis, class_id, at, voice, statement, in_sums)
            with self._condition:  # the thread takes away from both
                self._queued_bytes += copied.nbytes
                self._queue.append(sample)
        except Exception:
            self._counts["invalid"] += 1
            return False
        return True

    def _has_room(self, nbytes: int) -> bool:
        fits = self._queued_bytes + nbytes <= MAX_QUEUE_BYTES
        return fits and len(self._queue) < MAX_QUEUE and not self._closed

    @property
    def last_error(self) -> str:
        """Why the last flush failed; empty after a success."""
        return self._last_error

    def release(self, cut: Cut) -> str:
        """The release of the cut's exit: ``<version>.<number>``, or "none" where there is none.

        Empty while the store could not be read yet.
        """
        if self._releases is None:
            return ""
        return self._releases.get(cut, NO_RELEASE)

    def counters(self) -> dict[str, int]:
        """Counts since the start of the process.

        photos: that entered the sums; answers: of exits, that the store got; refused: statements
        that are none, are of an exit that is not alive, or that the worker does not get from the
        activation; dropped: requests that found the queue full; invalid: with impossible values;
        flushes, flush_failures.
        """
        return dict(self._counts)

    # ------------------------------------------------------------------------- the thread's side

    def _reset(self) -> None:
        super()._reset()
        self._queue: deque[ExitSample] = deque()
        self._queued_bytes = 0
        self._asked = False
        self._sums_due = 0.0
        self._counts = dict.fromkeys(
            ("photos", "answers", "refused", "dropped", "invalid", "flushes", "flush_failures"), 0
        )
        self._store: Store | None = None
        self._half_life_s = 1.0
        self._releases: Mapping[Cut, str] | None = None
        self._exits: dict[str, Exit] = {}
        self._damaged: set[str] = set()
        self._bounds: dict[Cut, ExitSums] = {}
        self._warming: dict[Cut, list[tuple[npt.NDArray[np.float32], ExitSample]]] = {}
        self._waiting: dict[Cut, list[tuple[npt.NDArray[np.float32], int, int, float]]] = {}
        self._refused_cuts: dict[Cut, float] = {}
        self._heard: OrderedDict[tuple[str, Cut, int, int], None] = OrderedDict()
        self._batch = ExitBatch()
        self._last_error = ""

    def _cycle(self, *, at_once: bool) -> None:
        nothing_new = not self._batch and not self._queue and not self._waiting
        if nothing_new and not self._asked and not at_once:
            return  # nobody to tell, and nothing to write
        self._asked = False
        if self._store is None:
            store = Store(self._url)
            self._half_life_s = store.half_life_s
            self._store = store
        self._read_exits(self._store)
        for _ in range(len(self._queue)):
            with self._condition:
                sample = self._queue.popleft()
                self._queued_bytes -= sample.values.nbytes
            try:
                self._take(self._store, sample)
            except (DataError, WireError, ValueError, TypeError, OverflowError):
                self._counts["invalid"] += 1
        self._write(self._store, at_once=at_once)
        self._last_error = ""

    def _read_exits(self, store: Store) -> None:
        """Read which exits are alive, and the content of those that are new."""
        now = time.time()
        alive = [v for v in store.exits.versions(self._network) if v.is_alive(now)]
        self._damaged &= {version.exit for version in alive}
        exits = {}
        for version in alive:
            known = self._exits.get(version.exit)
            if known is None and version.exit not in self._damaged:
                content = store.exits.content(self._network, version.exit)
                if content is None:
                    continue
                known = self._read_exit(version.exit, content)
            if known is not None:
                exits[version.exit] = known
        self._exits = exits
        self._releases = {
            version.cut: f"{version.exit[:16]}.{version.number}"
            for version in alive
            if version.exit in exits
        }

    def _read_exit(self, name: str, content: bytes) -> Exit | None:
        """The exit in a stored content; ``None`` where it is damaged, which ends no other."""
        try:
            return Exit.from_bytes(unsigned(content))
        except ExitError as error:
            _LOGGER.warning("isplit: the exit %.16s is left out: %s", name, _one_line(error))
            self._damaged.add(name)
            return None

    def _take(self, store: Store, sample: ExitSample) -> None:
        pooling = usual_pooling(sample.values.shape, sample.channel_axis)
        if feature_count(sample.values.shape, sample.channel_axis, pooling) > MAX_FEATURES:
            return
        self._batch.as_of = max(self._batch.as_of, sample.at)
        if sample.statement is not None:
            self._count_answer(sample, sample.statement)
        if sample.in_sums and self._is_first(sample):
            z = pool(sample.values, sample.channel_axis, pooling)
            self._add(store, sample, z, pooling)

    def _is_first(self, sample: ExitSample) -> bool:
        """Whether a known device was not heard of this class within the hour."""
        if sample.device is None:
            return True
        key = (sample.device, sample.cut, sample.class_id, int(sample.at // HOUR_S))
        if key in self._heard:
            return False
        self._heard[key] = None
        if len(self._heard) > MAX_HEARD:
            self._heard.popitem(last=False)
        return True

    def _count_answer(self, sample: ExitSample, text: str) -> None:
        """Compare what an exit says with the full network's answer."""
        try:
            statement = ExitStatement.parse(text)
            exit_ = self._exit_of(statement.version, sample.cut)
        except WireError:
            exit_ = None
        if exit_ is None or len(self._batch.answers) >= MAX_ANSWERS:
            self._counts["refused"] += 1
            return
        z = pool(sample.values, sample.channel_axis, exit_.pooling)
        own = exit_.answer(z)
        if own.class_id != statement.class_id or abs(own.bin - statement.bin) > 1:
            self._counts["refused"] += 1
            return
        # Without a known device each photo has a voice, so one that is sent again has none.
        voice = sample.device or hashlib.blake2b(z.tobytes(), digest_size=16).hexdigest()
        self._batch.answers.append(
            CountedAnswer(
                exit=exit_.version,
                kind=AUDIT if statement.audit else SHADOW,
                class_id=statement.class_id,
                bin=statement.bin,
                agrees=statement.class_id == sample.class_id,
                voice=voice,
                at=sample.at,
            )
        )

    def _exit_of(self, version: str, cut: Cut) -> Exit | None:
        for name, exit_ in self._exits.items():
            if name.startswith(version) and exit_.cut == cut:
                return exit_
        return None

    def _add(
        self, store: Store, sample: ExitSample, z: npt.NDArray[np.float32], pooling: Pooling
    ) -> None:
        """Add a photo to the sums; before their bounds are known, keep it for them."""
        if self._is_refused(sample.cut):
            return
        empty = self._bounds.get(sample.cut)
        if empty is None:
            stored = self._stored_sums(store, sample.cut)
            if self._is_refused(sample.cut):
                return
            if stored is not None and (stored.features, stored.pooling) == (len(z), pooling):
                empty = _like(stored)
                self._bounds[sample.cut] = empty
        if empty is None:
            warming = self._warming.setdefault(sample.cut, [])
            warming.append((z, sample._replace(values=np.empty(0, np.float32))))
            if len(warming) < self._warm_up:
                return
            low, high = bounds_of(np.stack([features for features, _ in warming]))
            self._bounds[sample.cut] = ExitSums.empty(
                self._network, sample.cut, low, high, pooling=pooling
            )
        for features, earlier in self._warming.pop(sample.cut, []):
            self._add_to_batch(earlier, features)
        if empty is not None:
            self._add_to_batch(sample, z)

    def _stored_sums(self, store: Store, cut: Cut) -> ExitSums | None:
        """The store's sums of a cut. Damaged ones stop those of the cut, and nothing else."""
        try:
            return store.exits.sums(self._network, cut)
        except StoreError as error:
            if error.details.get("reason") != "malformed":
                raise
            _LOGGER.warning("isplit: no sums for exits at %s: %s", cut, _one_line(error))
            self._refuse(cut)
            return None

    def _refuse(self, cut: Cut) -> None:
        self._refused_cuts[cut] = time.monotonic() + RETRY_S

    def _is_refused(self, cut: Cut) -> bool:
        """Whether photos of a cut enter no sums. After a while it is tried again: another cut may
        have given its place away.
        """
        until = self._refused_cuts.get(cut)
        if until is not None and time.monotonic() >= until:
            del self._refused_cuts[cut]
            until = None
        return until is not None

    def _add_to_batch(self, sample: ExitSample, z: npt.NDArray[np.float32]) -> None:
        waiting = self._waiting.setdefault(sample.cut, [])
        waiting.append((z, sample.class_id, *landmark(sample.at, self._half_life_s)))
        if len(waiting) >= _TOGETHER:
            self._fold()
        classes = self._batch.classes.setdefault(sample.cut, {})
        photos, devices = classes.get(sample.class_id, (0, sketch_of(())))
        if sample.device not in (None, UNSIGNED):
            heard = sketch_of([(str(sample.device), int(sample.at))])
            devices = merge_sketches([devices, heard])
        classes[sample.class_id] = (photos + 1, devices)
        self._counts["photos"] += 1

    def _fold(self) -> None:
        """Add the photos that wait to the sums: many at once take a fraction of the time."""
        waiting, self._waiting = self._waiting, {}
        for cut, photos in waiting.items():
            features, class_ids, epochs, weights = zip(*photos, strict=True)
            epoch = max(epochs)
            sums = self._batch.sums.get(cut)
            sums = _like(self._bounds[cut], epoch) if sums is None else sums.at_epoch(epoch)
            scaled = np.ldexp(np.array(weights), np.array(epochs) - epoch)
            try:
                sums.add(np.stack(features), np.array(class_ids), scaled)
            except DataError:  # such as more classes than sums have
                self._counts["invalid"] += len(photos)
                continue
            self._batch.sums[cut] = sums

    def _write(self, store: Store, *, at_once: bool) -> None:
        """Write the answers, and the sums where they are due."""
        batch = self._batch
        if at_once or time.monotonic() >= self._sums_due:
            self._fold()
            self._sums_due = time.monotonic() + _SUMS_EVERY * self._flush_s
            later = ExitBatch()
        else:
            later, batch = batch, ExitBatch(answers=batch.answers, as_of=batch.as_of)
        if not batch:
            return
        refused = store.exits.add(self._network, batch)
        self._counts["answers"] += len(batch.answers)
        self._counts["flushes"] += 1
        later.answers = []
        self._batch = later
        for cut in refused:
            # The bounds of the store are taken at the next photo, unless it has too many cuts.
            if self._bounds.pop(cut, None) is not None and not self._stored_sums(store, cut):
                self._refuse(cut)

    def _finish(self) -> None:
        if self._store is not None:
            self._store.close()

    def _note_failure(self, error: Exception) -> None:
        self._counts["flush_failures"] += 1
        text = error.message if isinstance(error, IsplitError) else f"{type(error).__name__}"
        if text != self._last_error:
            _LOGGER.warning("isplit: exits wait: %s", text.replace("\n", " ").replace("\r", " "))
        self._last_error = text
        store, self._store = self._store, None
        if store is not None:
            store.close()


def _one_line(error: IsplitError) -> str:
    """An error's message in one line of a log."""
    return " ".join(error.message.split())[:200]


def _like(sums: ExitSums, epoch: int = 0) -> ExitSums:
    """Sums of nothing with the same bounds."""
    return ExitSums.empty(
        sums.network_hash, sums.cut, sums.low, sums.high, pooling=sums.pooling, epoch=epoch
    )
