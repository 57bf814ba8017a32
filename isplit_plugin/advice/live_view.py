"""Live traffic of one network and one device group, as the store hands it to the advice.

"Split point" has two meanings here. A :class:`ServedRow` or :class:`OutcomeRow` has the split point
at which a request was cut. The P columns of :class:`ImportanceRows` are the points of the curve, in
the order of ``Profile.split_points``.

All weights come from forward decay (Cormode et al., ICDE 2009): 2^((t - L)/half-life), relative to
a landmark L. Only their ratios are used, so any landmark will do, if a view uses only one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from ..schema import Cut

F64 = npt.NDArray[np.float64]
"""An array of float64."""
I64 = npt.NDArray[np.int64]
"""An array of int64, such as class ids."""


def positions(ids: I64, wanted: I64) -> I64:
    """The position of each of ``wanted`` (M,) in ``ids`` (K,), which are unique; -1 if missing."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(ids, kind="stable")
    at = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return np.where(ids[at] == wanted, at, -1)


def place_of(rows: I64, length: int) -> I64 | slice:
    """``rows``, or a slice where these are all of ``length`` rows in their order.

    A slice of an array is a view, and takes no time.
    """
    if len(rows) == length and np.array_equal(rows, np.arange(length)):
        return slice(None)
    return rows


Source = Literal["tail", "input", "probe"]
"""Who computed an importance value: the tail (from the cut on), the server from a whole input, or a
device's probe."""
Target = Literal["predicted", "true"]
"""The class whose score was differentiated: the predicted one, or the true one from a label."""

WHOLE_CURVES: Final = ("input", "probe")
"""Sources whose every observation has a value at all points of the curve."""
ALL_GROUPS: Final = "all"
"""The group of a view of all devices."""
MAX_COUNT: Final = 1e15
"""Larger counts are errors and are ignored."""


def _no_ids() -> I64:
    return np.zeros(0, np.int64)


def _no_weights() -> F64:
    return np.zeros(0, np.float64)


@dataclass(frozen=True, eq=False)
class ImportanceRows:
    """Moments of importance that can be added up: one row per class, one column per point.

    With w the decayed weight of an observation, x its importance at the point and mean0 the
    profile's mean. All moments are per point, because split traffic has values only from its cut
    on. A point that was never observed has zeros. The effective sample size is weight^2 / weight2.

    Attributes:
        class_ids: shape (K,), unique. All other shapes are (K, P).
        count: the number of observations, not decayed.
        weight, weight2: the sums of w and of w^2.
        sum1, sum2: the sums of w (x - mean0) and of w (x - mean0)^2.
        devices: distinct devices behind each value, where an observation is the mean of one device
            in one bucket of time. Requests that count by themselves count as one device each.
            ``None`` if all requests do.
    """

    source: Source
    target: Target
    class_ids: I64
    count: F64
    weight: F64
    weight2: F64
    sum1: F64
    sum2: F64
    devices: F64 | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.count)
        if len(shape) != 2 or np.shape(self.class_ids) != shape[:1]:
            raise StoreError(
                "importance rows: expected (K,) and (K, P), "
                f"got {np.shape(self.class_ids)} and {shape}"
            )
        for name in ("weight", "weight2", "sum1", "sum2", "devices"):
            moments = getattr(self, name)
            if moments is not None and np.shape(moments) != shape:
                raise StoreError(
                    f"importance rows: expected {name} {shape}, got {np.shape(moments)}"
                )


@dataclass(frozen=True, slots=True)
class Times:
    """One kind of time in milliseconds, over ``count`` requests; NaN where nobody reported it.

    The true median lies between ``low_ms`` and ``high_ms`` (:func:`.anytime.median_ranks`).
    """

    count: float = 0.0
    mean_ms: float = math.nan
    median_ms: float = math.nan
    low_ms: float = math.nan
    high_ms: float = math.nan


NO_TIMES: Final = Times()


@dataclass(frozen=True, eq=False)
class ServedRow:
    """The requests of one device group at one cut.

    Attributes:
        requests: all requests; ``errors``: those of them that failed.
        bytes: sum of the body bytes of the requests.
        head, encode, uplink, rtt, queue: times that devices reported. They are bounded, but a device
            may lie.
        decode, tail: times that the server measured.
    """

    cut: Cut
    group: str
    requests: float
    errors: float
    bytes: float
    head: Times = NO_TIMES
    encode: Times = NO_TIMES
    decode: Times = NO_TIMES
    tail: Times = NO_TIMES
    uplink: Times = NO_TIMES
    rtt: Times = NO_TIMES
    queue: Times = NO_TIMES


class OutcomeRow(NamedTuple):
    """Decayed counts of predictions and labels, for a predicted class at a cut.

    Labels are counted twice: one by one, and as opinions. Where devices are known, the labels of
    one device in one bucket of time are one opinion, which weighs the less, the more the device has
    said before. Else every label is an opinion.

    Attributes:
        predictions: all predictions.
        labelled: those with a label.
        correct: those with an equal label.
        weight: the sum of the weights of opinions.
        weight_correct: the sum of these weights times the share of correct labels in the opinion.
        weight2: the sum of squared weights.
    """

    cut: Cut
    class_id: int
    predictions: float
    labelled: float
    correct: float
    weight: float
    weight_correct: float
    weight2: float


class OutcomeRows(Sequence[OutcomeRow]):
    """Many outcomes as arrays. Rows are made when they are asked for, since most have no label.

    Parameters:
        cuts, class_ids: of each of the R rows.
        sums: (6, R) the other columns of the rows.
    """

    def __init__(self, cuts: Sequence[Cut], class_ids: Sequence[int], sums: F64) -> None:
        self._cuts = cuts
        self._class_ids = class_ids
        self._sums = sums

    def __len__(self) -> int:
        return len(self._cuts)

    @overload
    def __getitem__(self, index: int) -> OutcomeRow: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[OutcomeRow, ...]: ...

    def __getitem__(self, index: int | slice) -> OutcomeRow | tuple[OutcomeRow, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        sums = self._sums[:, index].tolist()
        return OutcomeRow(self._cuts[index], self._class_ids[index], *sums)

    def __iter__(self) -> Iterator[OutcomeRow]:
        return map(OutcomeRow, self._cuts, self._class_ids, *self._sums.tolist())

    def labelled(self) -> tuple[OutcomeRow, ...]:
        """The rows that have labels."""
        return tuple(self[i] for i in np.flatnonzero(self._sums[1] > 0).tolist())


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """The live mix: predicted classes, their decayed weights and request counts, shapes (S,).

    Attributes:
        weight: of requests; where devices are known, of the devices' votes.
        weight2: the sums of squared weights of votes; ``None`` where requests count.
    """

    class_ids: I64 = field(default_factory=_no_ids)
    weight: F64 = field(default_factory=_no_weights)
    count: F64 = field(default_factory=_no_weights)
    weight2: F64 | None = None

    def __post_init__(self) -> None:
        shapes = [np.shape(self.class_ids), np.shape(self.weight), np.shape(self.count)]
        if self.weight2 is not None and np.shape(self.weight2) != shapes[0]:
            raise StoreError(
                f"class counts: expected weight2 {shapes[0]}, got {np.shape(self.weight2)}"
            )
        if len(set(shapes)) != 1 or len(shapes[0]) != 1:
            raise StoreError(f"class counts: expected three arrays of shape (S,), got {shapes}")


@dataclass(frozen=True, eq=False)
class LiveView:
    """Live traffic of one network and one device group.

    Attributes:
        revision: changes whenever the contents do.
        as_of: epoch seconds of the newest observation, ``None`` without traffic. It never depends
            on the time of reading.
        observations: the requests behind this view.
    """

    importance: tuple[ImportanceRows, ...] = ()
    served: tuple[ServedRow, ...] = ()
    outcomes: Sequence[OutcomeRow] = ()
    class_counts: ClassCounts = field(default_factory=ClassCounts)
    revision: str = ""
    as_of: float | None = None
    observations: int = 0
    group: str = ALL_GROUPS

    @classmethod
    def empty(cls, group: str = ALL_GROUPS, revision: str = "") -> LiveView:
        """The view of a network without traffic."""
        return cls(group=group, revision=revision)
