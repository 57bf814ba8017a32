"""What one process has counted since its last flush.

A :class:`Delta` is bounded by the number of its keys, whatever it is given: what needs a key above
the limit is counted in ``overflow`` and left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from ...errors import QueryError
from ...schema import Cut, Observation
from ..rows.request import PendingRequest, fairest_requests, request_key
from .counts import LimitedNames, OutcomeCounts, ServedCounts
from .devices import (
    ANONYMOUS,
    OTHER_DEVICE,
    UNSIGNED,
    DeviceClassKey,
    DeviceKey,
    DeviceLabelKey,
    DeviceSums,
    LabelCounts,
    bucket_of,
    bucket_s,
    device_of,
)
from .keys import (
    HOUR_S,
    NAME_LIMITS,
    OTHER,
    SOURCES,
    TARGETS,
    TIME_KINDS,
    OutcomeKey,
    Population,
    ServedKey,
)
from .moments import F64, Moments, first_known, landmark, shift_from
from .samples import ImportanceSample

MAX_REQUESTS: Final = 20_000
"""Requests in one delta that are kept for their labels."""
_SLACK: Final = 1.02


class Delta:
    """Counts of one network. For one thread.

    Parameters:
        mean0: (P,) the shift.
        half_life_s: the half-life of the weights, in seconds.
        classes: the number of classes of the network.
        max_keys: the largest number of keys.
        by_device: average importance and predicted classes by device and bucket
            (:mod:`.devices`); else every request counts by itself.
        keep_requests: keep the requests for their labels
            (:mod:`isplit_plugin.traffic.rows.request`).
    """

    def __init__(
        self,
        mean0: F64,
        half_life_s: float,
        classes: int,
        *,
        max_keys: int = 50_000,
        by_device: bool = False,
        keep_requests: bool = False,
    ) -> None:
        self.mean0 = mean0
        self.half_life_s = half_life_s
        self.overflow = 0
        self._classes = classes
        self._max_keys = max_keys
        self._by_device = by_device
        self._keep_requests = keep_requests
        self._names = {kind: LimitedNames(limit=limit) for kind, limit in NAME_LIMITS.items()}
        self.clear()

    def clear(self) -> None:
        """Remove all counts. The names remain."""
        self.as_of = -math.inf
        self.moments: dict[tuple[Population, int], Moments] = {}
        self.device_sums: dict[DeviceKey, DeviceSums] = {}
        self.device_classes: dict[DeviceClassKey, int] = {}
        self.device_labels: dict[DeviceLabelKey, LabelCounts] = {}
        self.served: dict[ServedKey, ServedCounts] = {}
        self.outcomes: dict[OutcomeKey, OutcomeCounts] = {}
        self.requests: dict[str, PendingRequest] = {}
        self.signed_groups: set[str] = set()

    def __len__(self) -> int:
        by_device = len(self.device_sums) + len(self.device_classes) + len(self.device_labels)
        return len(self.moments) + by_device + len(self.served) + len(self.outcomes)

    def add_observation(self, observation: Observation) -> None:
        """Count one request.

        Raises ValueError, TypeError or OverflowError for an impossible value, and counts nothing.
        """
        signed = observation.signed_group
        cut, group = self._fit(observation.cut, observation.group, signed=signed)
        at = _time(observation.at)
        class_id = None
        if observation.error is None and observation.class_id is not None:
            class_id = self._class(observation.class_id)
        received = max(0, int(observation.bytes_received))
        times = [float(getattr(observation, f"{kind}_ms")) for kind in TIME_KINDS]
        key = ServedKey(cut, group, int(at // HOUR_S) * HOUR_S)
        if self._has_room(key in self.served):
            counts = self.served.setdefault(key, ServedCounts())
            counts.requests += 1
            counts.errors += observation.error is not None
            counts.bytes += received
            for histogram, ms in zip(counts.times, times, strict=True):
                histogram.add(ms)
        if class_id is not None:
            epoch, weight = landmark(at, self.half_life_s)
            outcome = OutcomeCounts(epoch, count=1, predictions=weight)
            self._add_outcome(OutcomeKey(cut, group, class_id), outcome)
            if self._by_device:
                bucket = bucket_of(at, self.half_life_s)
                self._add_vote(
                    DeviceClassKey(bucket, device_of(observation.device), group, class_id)
                )
            if self._keep_requests and observation.request_id:
                device = device_of(observation.device)
                if device == UNSIGNED and not self._by_device:
                    device = ANONYMOUS
                pending = PendingRequest(at, cut, class_id, group, device)
                self._keep(observation.request_id, pending)
        self.as_of = max(self.as_of, at)

    def add_drops(self, cut: Cut, group: str, at: float, drops: int) -> None:
        """Count observations that were dropped before they could be counted."""
        cut, group = self._fit(cut, group)
        key = ServedKey(cut, group, int(_time(at) // HOUR_S) * HOUR_S)
        if self._has_room(key in self.served):
            self.served.setdefault(key, ServedCounts()).drops += drops

    def add_label(self, request: PendingRequest, *, correct: bool) -> None:
        """Count the label of a request, at the time of its prediction.

        Where its device is known, its weight follows when the bucket closes.
        """
        key = OutcomeKey(*self._fit(request.cut, request.group), self._class(request.class_id))
        epoch, weight = landmark(_time(request.at), self.half_life_s)
        outcome = OutcomeCounts(epoch, labelled=weight, correct=weight if correct else 0.0)
        if request.device == ANONYMOUS:
            outcome.weight = outcome.labelled
            outcome.weight_correct = outcome.correct
            outcome.weight2 = weight**2
        if self._add_outcome(key, outcome) and request.device != ANONYMOUS:
            bucket = bucket_of(request.at, self.half_life_s)
            label_key = DeviceLabelKey(bucket, request.device, *key)
            self._add_device_label(label_key, LabelCounts(1, int(correct)))
        self.as_of = max(self.as_of, request.at)

    def add_importance(self, sample: ImportanceSample) -> None:
        """Add one curve.

        Raises ValueError, TypeError or OverflowError for an impossible value, and adds nothing.
        """
        curve = np.asarray(sample.curve, dtype=np.float64)
        if curve.shape != self.mean0.shape:
            raise ValueError(f"expected a curve of shape {self.mean0.shape}, got {curve.shape}")
        if sample.source not in SOURCES:
            raise ValueError(f"expected a source of {SOURCES}, got {sample.source!r}")
        if sample.target not in TARGETS:
            raise ValueError(f"expected a target of {TARGETS}, got {sample.target!r}")
        start = first_known(curve)
        if start is None:
            raise ValueError("expected a curve of NaN before a point, and finite values from it on")
        class_id = self._class(sample.class_id)
        at = _time(sample.at)
        group = self._fit_group(sample.group)
        if self._by_device:
            bucket = bucket_of(at, self.half_life_s)
            key = DeviceKey(sample.target, class_id, bucket, device_of(sample.device))
            added = self._add_device_sums(key, DeviceSums.of(group, sample.source, start, curve))
        else:
            deviation = np.where(np.arange(len(curve)) < start, 0.0, curve - self.mean0)
            population = Population(group, sample.source, sample.target, start)
            moments = Moments.of(deviation, at, self.half_life_s)
            added = self._has_room((population, class_id) in self.moments)
            if added:
                self.add_moments(population, class_id, moments)
        if added:
            self.as_of = max(self.as_of, at)

    def add_moments(self, population: Population, class_id: int, moments: Moments) -> None:
        """Add sums about ``mean0``, whatever the number of keys."""
        key = (population, class_id)
        self.moments[key] = self.moments[key].merge(moments) if key in self.moments else moments

    def adopt_names(self, names: Mapping[str, set[str]]) -> None:
        """Use the names, by kind, that the store knows.

        So many new ones fit again until the next flush: the store decides which of them stay.
        """
        for kind, members in names.items():
            self._names[kind] = LimitedNames(members, limit=len(members) + NAME_LIMITS[kind])

    def renamed(self, fit: Mapping[str, Callable[[str], str]]) -> Delta:
        """The same counts under the names that ``fit`` gives to groups, split points and codecs."""
        fit_group = cache(fit["group"])

        @cache
        def fit_cut(cut: Cut) -> Cut:
            return Cut.of(fit["split_point"](cut.split_point), fit["codec"](cut.coding))

        renamed = Delta(self.mean0, self.half_life_s, self._classes)
        renamed.as_of = self.as_of
        renamed.signed_groups = self.signed_groups
        for (population, class_id), moments in self.moments.items():
            moved = population._replace(group=fit_group(population.group))
            renamed.add_moments(moved, class_id, moments)
        for device_key, sums in self.device_sums.items():
            renamed.device_sums[device_key] = replace(sums, group=fit_group(sums.group))
        for vote, number in self.device_classes.items():
            vote_key = vote._replace(device_group=fit_group(vote.device_group))
            renamed.device_classes[vote_key] = renamed.device_classes.get(vote_key, 0) + number
        for label_key, labels in self.device_labels.items():
            moved_key = label_key._replace(
                cut=fit_cut(label_key.cut), device_group=fit_group(label_key.device_group)
            )
            _add_labels(renamed.device_labels, moved_key, labels)
        for key, counts in self.served.items():
            served_key = ServedKey(fit_cut(key.cut), fit_group(key.group), key.bucket)
            renamed.served.setdefault(served_key, ServedCounts()).add(counts)
        for (cut, group, class_id), outcome in self.outcomes.items():
            outcome_key = OutcomeKey(fit_cut(cut), fit_group(group), class_id)
            empty = OutcomeCounts(outcome.epoch)
            renamed.outcomes.setdefault(outcome_key, empty).add(outcome)
        for name, request in self.requests.items():
            renamed.requests[name] = request._replace(
                cut=fit_cut(request.cut), group=fit_group(request.group)
            )
        return renamed

    def about(self, mean0: F64) -> Delta:
        """The same counts with sums about another shift."""
        if np.array_equal(mean0, self.mean0):
            return self
        moved = Delta(mean0, self.half_life_s, self._classes)
        moved.as_of = self.as_of
        moved.signed_groups = self.signed_groups
        moved.device_sums = self.device_sums
        moved.device_classes = self.device_classes
        moved.device_labels = self.device_labels
        moved.served = self.served
        moved.outcomes = self.outcomes
        moved.requests = self.requests
        for (population, class_id), moments in self.moments.items():
            by = shift_from(population.start, mean0 - self.mean0)
            moved.moments[population, class_id] = moments.shifted(by)
        return moved

    def moved(self, seconds: float) -> Delta:
        """The same counts with all times later by ``seconds``, which may be negative.

        Hours move by whole hours, and buckets of devices by whole buckets.
        """

        def later(begin: int, length: int) -> int:
            return int((begin + seconds + length / 2) // length) * length

        moved = Delta(self.mean0, self.half_life_s, self._classes)
        moved.as_of = self.as_of + seconds
        moved.signed_groups = self.signed_groups
        for key, moments in self.moments.items():
            moved.moments[key] = moments.later(seconds, self.half_life_s)
        length = bucket_s(self.half_life_s)
        for device_key, sums in self.device_sums.items():
            moved_key = device_key._replace(bucket=later(device_key.bucket, length))
            before = moved.device_sums.get(moved_key)
            moved.device_sums[moved_key] = sums if before is None else before.merge(sums)
        for vote, number in self.device_classes.items():
            moved_vote = vote._replace(bucket=later(vote.bucket, length))
            moved.device_classes[moved_vote] = moved.device_classes.get(moved_vote, 0) + number
        for label_key, labels in self.device_labels.items():
            moved_labels = label_key._replace(bucket=later(label_key.bucket, length))
            _add_labels(moved.device_labels, moved_labels, labels)
        for served_key, counts in self.served.items():
            hour = served_key._replace(bucket=later(served_key.bucket, HOUR_S))
            moved.served.setdefault(hour, ServedCounts()).add(counts)
        for outcome_key, outcome in self.outcomes.items():
            moved.outcomes[outcome_key] = outcome.later(seconds, self.half_life_s)
        for name, request in self.requests.items():
            moved.requests[name] = request._replace(at=request.at + seconds)
        return moved

    # ------------------------------------------------------------------------------------ helpers

    def _has_room(self, is_known: bool) -> bool:
        if is_known or len(self) < self._max_keys:
            return True
        self.overflow += 1
        return False

    def _keep(self, request_id: str, request: PendingRequest) -> None:
        self.requests[request_key(request_id)] = request
        if len(self.requests) > MAX_REQUESTS * _SLACK:
            kept = fairest_requests(self.requests, MAX_REQUESTS)
            self.overflow += len(self.requests) - len(kept)
            self.requests = kept

    def _add_device_sums(self, key: DeviceKey, sums: DeviceSums) -> bool:
        if key not in self.device_sums and len(self) >= self._max_keys:
            key = key._replace(device=OTHER_DEVICE)
        if not self._has_room(key in self.device_sums):
            return False
        before = self.device_sums.get(key)
        self.device_sums[key] = sums if before is None else before.merge(sums)
        return True

    def _add_vote(self, key: DeviceClassKey) -> None:
        if key not in self.device_classes and len(self) >= self._max_keys:
            key = key._replace(device=OTHER_DEVICE)
        if self._has_room(key in self.device_classes):
            self.device_classes[key] = self.device_classes.get(key, 0) + 1

    def _add_device_label(self, key: DeviceLabelKey, labels: LabelCounts) -> None:
        if key not in self.device_labels and len(self) >= self._max_keys:
            key = key._replace(device=OTHER_DEVICE)
        if self._has_room(key in self.device_labels):
            _add_labels(self.device_labels, key, labels)

    def _add_outcome(self, key: OutcomeKey, outcome: OutcomeCounts) -> bool:
        if key in self.outcomes:
            self.outcomes[key].add(outcome)
        elif self._has_room(False):
            self.outcomes[key] = outcome
        else:
            return False
        return True

    def _fit_group(self, group: str, *, signed: bool = False) -> str:
        if signed:
            fitted = self._names["signed_group"].fit(group)
            self.signed_groups.add(fitted)
            return fitted
        is_signed = isinstance(group, str) and group in self._names["signed_group"].names
        return group if is_signed else self._names["group"].fit(group)

    def _fit(self, cut: Cut, group: str, *, signed: bool = False) -> tuple[Cut, str]:
        """The cut and the group under which an observation counts."""
        split_point = self._names["split_point"].fit(cut.split_point)
        coding = self._names["codec"].fit(cut.coding)
        try:
            fitted = Cut.of(split_point, coding)
        except QueryError:  # the coding is no text form of a codec
            fitted = Cut(split_point, OTHER)
        return fitted, self._fit_group(group, signed=signed)

    def _class(self, class_id: int) -> int:
        number = int(class_id)
        if not 0 <= number < self._classes:
            raise ValueError(f"expected a class from 0 to {self._classes - 1}, got {number}")
        return number


def _add_labels(
    to: dict[DeviceLabelKey, LabelCounts], key: DeviceLabelKey, labels: LabelCounts
) -> None:
    to[key] = to[key].plus(labels) if key in to else labels


def _time(at: float) -> float:
    seconds = float(at)
    if not 0 <= seconds < 1e11:
        raise ValueError(f"expected seconds since the epoch, got {seconds}")
    return seconds
