"""What one process has seen since its last flush: small aggregates that add up, waiting to be written.

A :class:`Delta` is bounded by the number of its keys, whatever comes in: a key that does not fit any more is counted
in ``overflow`` and left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import QueryError
from ..schema import Cut, Observation
from .devices import OTHER_DEVICE, Staged, StagedKey, bucket_of, device_of
from .histogram import Histogram
from .labels import PendingRequest, key_of
from .moments import F64, Moments, first_known, landmark, rescale

OTHER: Final = "other"
"""The name under which everything above the cap of names is counted."""
MAX_GROUPS: Final = 16
"""Device groups that are counted by their own name."""
MAX_SPLIT_POINTS: Final = 512
MAX_CODECS: Final = 64
MAX_NAME: Final = 128
MAX_WAITING: Final = 20_000
"""Requests that may wait here for being written, to wait for their labels in the store."""
HOUR_S: Final = 3600
TIMES: Final = ("head", "encode", "uplink", "decode", "tail")
"""The kinds of time, in the order in which their histograms are stored."""
SOURCES: Final = ("tail", "input", "probe")
TARGETS: Final = ("predicted", "true")
CAPS: Final = {"group": MAX_GROUPS, "split_point": MAX_SPLIT_POINTS, "codec": MAX_CODECS}


class Population(NamedTuple):
    """Observations that may be pooled: same device group, source, target, and first known point of the curve."""

    group: str
    source: str
    target: str
    start: int


class ServedKey(NamedTuple):
    """A cut, a device group and an hour. ``bucket``: epoch seconds at which the hour began."""

    cut: Cut
    group: str
    bucket: int


class OutcomeKey(NamedTuple):
    """A cut, a device group and a predicted class."""

    cut: Cut
    group: str
    class_id: int


@dataclass(slots=True)
class Served:
    """Requests (failed ones included), failed ones, body bytes, observations dropped before they were counted, and
    times in the order of TIMES."""

    requests: int = 0
    errors: int = 0
    bytes: int = 0
    drops: int = 0
    times: list[Histogram] = field(default_factory=lambda: [Histogram() for _ in TIMES])

    def update(self, other: Served) -> None:
        """Add all of ``other``."""
        self.requests += other.requests
        self.errors += other.errors
        self.bytes += other.bytes
        self.drops += other.drops
        for mine, its in zip(self.times, other.times, strict=True):
            mine.update(its)


@dataclass(slots=True)
class Outcome:
    """Predictions of one class: their ``count``, and decayed weights of all, labelled and correct ones."""

    epoch: int
    count: int = 0
    predictions: float = 0.0
    labelled: float = 0.0
    correct: float = 0.0

    def update(self, other: Outcome) -> None:
        """Add all of ``other``, at the newer of the two landmarks."""
        epoch = max(self.epoch, other.epoch)
        for name in ("predictions", "labelled", "correct"):
            mine = rescale(getattr(self, name), self.epoch, epoch)
            setattr(self, name, mine + rescale(getattr(other, name), other.epoch, epoch))
        self.epoch = epoch
        self.count += other.count


class Names:
    """A capped set of names that clients may choose: what does not fit is counted as ``other``."""

    def __init__(self, known: Collection[str] = (), cap: int = MAX_GROUPS) -> None:
        self.known = set(known) - {OTHER}
        self._cap = cap

    def fit(self, name: object) -> str:
        """``name`` if it is known or still fits, else ``other``."""
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= MAX_NAME
            or not name.isprintable()
            or name == OTHER
        ):
            return OTHER
        if name not in self.known:
            if len(self.known) >= self._cap:
                return OTHER
            self.known.add(name)
        return name


class Delta:
    """Aggregates of one network. Not safe to share between threads: it belongs to the one that fills it.

    ``mean0``: (P,) the shift. ``classes``: the number of classes of the network, to bound class ids. ``identity``:
    whether devices are known, so that importance counts by device and bucket (see :mod:`.devices`); without, every
    request counts by itself. ``labels``: keep the requests, so that they can be labelled (see :mod:`.labels`).
    """

    def __init__(
        self,
        mean0: F64,
        half_life_s: float,
        classes: int,
        *,
        max_keys: int = 50_000,
        identity: bool = False,
        labels: bool = False,
    ) -> None:
        self.mean0 = mean0
        self.half_life_s = half_life_s
        self.classes = classes
        self.max_keys = max_keys
        self.identity = identity
        self.labels = labels
        self.names = {kind: Names(cap=cap) for kind, cap in CAPS.items()}
        self.overflow = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was aggregated; the known names stay."""
        self.as_of = -math.inf
        self.moments: dict[tuple[Population, int], Moments] = {}
        self.staged: dict[StagedKey, Staged] = {}
        self.served: dict[ServedKey, Served] = {}
        self.outcomes: dict[OutcomeKey, Outcome] = {}
        self.waiting: dict[str, PendingRequest] = {}

    def __len__(self) -> int:
        return len(self.moments) + len(self.staged) + len(self.served) + len(self.outcomes)

    def _room(self, known: bool) -> bool:
        if known or len(self) < self.max_keys:
            return True
        self.overflow += 1
        return False

    def add_observation(self, seen: Observation) -> None:
        """Count one served request. Raises ValueError, TypeError or OverflowError where a field makes no sense."""
        cut, group = self._fit(seen.cut, seen.group)
        at = _time(seen.at)
        key = ServedKey(cut, group, int(at // HOUR_S) * HOUR_S)
        class_id = (
            None if seen.error is not None or seen.class_id is None else self._class(seen.class_id)
        )
        received = max(0, int(seen.bytes_received))
        times = [float(getattr(seen, f"{kind}_ms")) for kind in TIMES]
        if self._room(key in self.served):
            row = self.served.setdefault(key, Served())
            row.requests += 1
            row.errors += seen.error is not None
            row.bytes += received
            for histogram, ms in zip(row.times, times, strict=True):
                histogram.add(ms)
        if class_id is not None:
            epoch, weight = landmark(at, self.half_life_s)
            self._outcome(
                OutcomeKey(cut, group, class_id), Outcome(epoch, count=1, predictions=weight)
            )
            if self.labels and seen.request_id:
                self._wait(seen.request_id, PendingRequest(at, cut, class_id, group))
        self.as_of = max(self.as_of, at)

    def _wait(self, request_id: str, waiting: PendingRequest) -> None:
        if len(self.waiting) < MAX_WAITING:
            self.waiting[key_of(request_id)] = waiting
        else:
            self.overflow += 1

    def add_drops(self, cut: Cut, group: str, at: float, drops: int) -> None:
        """Count observations that were lost before they could be aggregated."""
        cut, group = self._fit(cut, group)
        key = ServedKey(cut, group, int(_time(at) // HOUR_S) * HOUR_S)
        if self._room(key in self.served):
            self.served.setdefault(key, Served()).drops += drops

    def add_label(self, cut: Cut, class_id: int, group: str, at: float, *, correct: bool) -> None:
        """Count the label of a prediction of ``class_id``, made at ``at``."""
        cut, group = self._fit(cut, group)
        epoch, weight = landmark(_time(at), self.half_life_s)
        labelled = Outcome(epoch, labelled=weight, correct=weight if correct else 0.0)
        self._outcome(OutcomeKey(cut, group, self._class(class_id)), labelled)
        self.as_of = max(self.as_of, at)

    def add_importance(
        self,
        class_ids: Iterable[int],
        values: npt.ArrayLike,
        *,
        source: str,
        target: str,
        group: str,
        at: float,
        device: str | None = None,
    ) -> int:
        """Add curves: ``values`` (N, P), NaN before the first known point. Returns how many of them were no curves.

        ``device``: whose they are, where devices are known.

        Raises ValueError where shapes, source or target are none of ours.
        """
        curves = np.asarray(values, dtype=np.float64)
        ids = [int(c) for c in class_ids]
        if curves.shape != (len(ids), len(self.mean0)):
            raise ValueError(
                f"expected values of shape {(len(ids), len(self.mean0))}, got {curves.shape}"
            )
        if source not in SOURCES or target not in TARGETS:
            raise ValueError(
                f"expected a source of {SOURCES} and a target of {TARGETS}, got {source!r} and {target!r}"
            )
        group, at = self.names["group"].fit(group), _time(at)
        bad = 0
        for class_id, curve in zip(ids, curves, strict=True):
            start = first_known(curve)
            if start is None or not 0 <= class_id < self.classes:
                bad += 1
                continue
            if self.identity:
                self._stage(class_id, Staged.of(group, source, start, curve), target, at, device)
                continue
            deviation = np.where(np.arange(len(curve)) < start, 0.0, curve - self.mean0)
            population = Population(group, source, target, start)
            key = (population, class_id)
            if not self._room(key in self.moments):
                continue
            one = Moments.of(deviation, at, self.half_life_s)
            self.moments[key] = self.moments[key].merge(one) if key in self.moments else one
            self.as_of = max(self.as_of, at)
        return bad

    def _stage(
        self, class_id: int, staged: Staged, target: str, at: float, device: str | None
    ) -> None:
        key = StagedKey(target, class_id, bucket_of(at, self.half_life_s), device_of(device))
        if key not in self.staged and len(self) >= self.max_keys:
            key = key._replace(device=OTHER_DEVICE)
        if self._room(key in self.staged):
            self.staged[key] = self.staged[key].merge(staged) if key in self.staged else staged
            self.as_of = max(self.as_of, at)

    def renamed(self, fit: dict[str, Callable[[str], str]]) -> Delta:
        """The same aggregates with the names that ``fit`` makes of groups, split points and codecs."""
        group = fit["group"]

        def fit_cut(cut: Cut) -> Cut:
            return Cut.of(fit["split_point"](cut.split_point), fit["codec"](cut.coding))

        out = Delta(self.mean0, self.half_life_s, self.classes)
        out.as_of = self.as_of
        for (population, class_id), moments in self.moments.items():
            key = (population._replace(group=group(population.group)), class_id)
            out.moments[key] = out.moments[key].merge(moments) if key in out.moments else moments
        for staged_key, staged in self.staged.items():
            out.staged[staged_key] = replace(staged, group=group(staged.group))
        for served_key, served in self.served.items():
            hour = ServedKey(fit_cut(served_key.cut), group(served_key.group), served_key.bucket)
            out.served.setdefault(hour, Served()).update(served)
        for name, w in self.waiting.items():
            out.waiting[name] = w._replace(cut=fit_cut(w.cut), group=group(w.group))
        for outcome_key, outcome in self.outcomes.items():
            fitted = fit_cut(outcome_key.cut)
            out_key = OutcomeKey(fitted, group(outcome_key.group), outcome_key.class_id)
            out.outcomes.setdefault(out_key, Outcome(outcome.epoch)).update(outcome)
        return out

    def about(self, mean0: F64) -> Delta:
        """The same aggregates about another shift."""
        if np.array_equal(mean0, self.mean0):
            return self
        out = Delta(mean0, self.half_life_s, self.classes)
        out.as_of, out.staged, out.served, out.outcomes = (
            self.as_of,
            self.staged,
            self.served,
            self.outcomes,
        )
        out.waiting = self.waiting
        for (population, class_id), moments in self.moments.items():
            by = shift_from(population.start, mean0 - self.mean0)
            out.moments[population, class_id] = moments.shifted(by)
        return out

    def _outcome(self, key: OutcomeKey, outcome: Outcome) -> None:
        if key in self.outcomes:
            self.outcomes[key].update(outcome)
        elif self._room(False):
            self.outcomes[key] = outcome

    def _fit(self, cut: Cut, group: str) -> tuple[Cut, str]:
        """The cut and group under which an observation counts: names above the caps become ``other``."""
        split_point = self.names["split_point"].fit(cut.split_point)
        coding = self.names["codec"].fit(cut.coding)
        try:
            fitted = Cut.of(split_point, coding)
        except QueryError:  # not a codec's name
            fitted = Cut(split_point, OTHER)
        return fitted, self.names["group"].fit(group)

    def _class(self, class_id: int) -> int:
        number = int(class_id)
        if not 0 <= number < self.classes:
            raise ValueError(f"expected a class from 0 to {self.classes - 1}, got {number}")
        return number


def shift_from(start: int, by: F64) -> F64:
    """A move of the shift, (P,), for a population that knows nothing before ``start``."""
    return np.where(np.arange(len(by)) < start, 0.0, by)


def _time(at: float) -> float:
    seconds = float(at)
    if not 0 <= seconds < 1e11:
        raise ValueError(f"expected seconds since the epoch, got {seconds}")
    return seconds
