"""Counts of requests and outcomes, and limited sets of names: the small parts of a delta."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ...advice import ALL_GROUPS
from .histogram import Histogram
from .keys import MAX_NAME, OTHER, TIME_KINDS
from .moments import landmark, rescale


@dataclass(slots=True)
class ServedCounts:
    """What is counted of the requests at one cut, in one device group and one hour.

    Attributes:
        requests: all requests.
        errors: the requests that failed.
        bytes: the sum of the bodies' bytes.
        drops: observations that were dropped before they could be counted.
        times: one histogram for each of TIME_KINDS.
    """

    requests: int = 0
    errors: int = 0
    bytes: int = 0
    drops: int = 0
    times: list[Histogram] = field(default_factory=lambda: [Histogram() for _ in TIME_KINDS])

    def add(self, other: ServedCounts) -> None:
        """Add the counts of ``other``."""
        self.requests += other.requests
        self.errors += other.errors
        self.bytes += other.bytes
        self.drops += other.drops
        for histogram, more in zip(self.times, other.times, strict=True):
            histogram.update(more)


OUTCOME_SUMS: Final = (
    "predictions",
    "labelled",
    "correct",
    "weight",
    "weight_correct",
    "weight2",
)
"""The decayed sums of :class:`OutcomeCounts`, and the columns that hold them."""


@dataclass(slots=True)
class OutcomeCounts:
    """Predictions of one class.

    The first three sums count requests. The weights count opinions: a device's labels of one bucket
    are one (:mod:`isplit_plugin.traffic.rows.device_label`), and without devices each label is.

    Attributes:
        epoch: the landmark of the weights.
        count: the number of predictions, not decayed.
        predictions: the decayed weight of all predictions.
        labelled: the decayed weight of those with a label.
        correct: the decayed weight of those with an equal label.
        weight: the sum of the weights of opinions.
        weight_correct: the sum of these weights times the share of correct labels in the opinion.
        weight2: the sum of squared weights.
    """

    epoch: int
    count: int = 0
    predictions: float = 0.0
    labelled: float = 0.0
    correct: float = 0.0
    weight: float = 0.0
    weight_correct: float = 0.0
    weight2: float = 0.0

    def add(self, other: OutcomeCounts) -> None:
        """Add the counts of ``other``, relative to the newer landmark."""
        if self.epoch < other.epoch:
            for name, weight in self.at_epoch(other.epoch).sums().items():
                setattr(self, name, weight)
            self.epoch = other.epoch
        more = other if other.epoch == self.epoch else other.at_epoch(self.epoch)
        self.count += other.count
        self.predictions += more.predictions
        self.labelled += more.labelled
        self.correct += more.correct
        self.weight += more.weight
        self.weight_correct += more.weight_correct
        self.weight2 += more.weight2

    def sums(self) -> dict[str, float]:
        """The decayed sums by name."""
        return {name: getattr(self, name) for name in OUTCOME_SUMS}

    def at_epoch(self, epoch: int) -> OutcomeCounts:
        """The same predictions relative to another landmark, which may be an older one."""
        parts = {name: rescale(sum_, self.epoch, epoch) for name, sum_ in self.sums().items()}
        parts["weight2"] = rescale(parts["weight2"], self.epoch, epoch)
        return OutcomeCounts(epoch, self.count, **parts)

    def later(self, seconds: float, half_life_s: float) -> OutcomeCounts:
        """The same predictions, as if each had come later by ``seconds``."""
        epochs, factor = landmark(seconds, half_life_s)
        return OutcomeCounts(
            self.epoch + epochs,
            self.count,
            self.predictions * factor,
            self.labelled * factor,
            self.correct * factor,
            self.weight * factor,
            self.weight_correct * factor,
            self.weight2 * factor**2,
        )


class LimitedNames:
    """A set of names that clients choose, with at most ``limit`` members.

    ``OTHER`` and the group of all devices are no members and always fit.
    """

    def __init__(self, names: Iterable[str] = (), *, limit: int) -> None:
        self.names = {name for name in names if not self.is_free(name)}
        self._limit = limit

    @staticmethod
    def is_free(name: str) -> bool:
        """Whether a name needs no slot."""
        return name in {OTHER, ALL_GROUPS}

    def fit(self, name: object) -> str:
        """``name`` if it is a member or can become one, else ``OTHER``."""
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            return OTHER
        if self.is_free(name) or name in self.names:
            return name
        if len(self.names) >= self._limit:
            return OTHER
        self.names.add(name)
        return name
