"""What live traffic has told about one network and one device group: the value that the store hands to the advice.

Two things are called split point and are kept apart here. *Served at* is where a request was cut (:class:`ServedRow`,
:class:`OutcomeRow`). *Point of the curve* is where an importance value lies (the P columns of :class:`ImportanceRows`,
in the order of ``Profile.split_points``).

All weights come from forward decay (Cormode et al., ICDE 2009): 2^((t - L)/half-life), relative to a landmark L. Only
their ratios are used, so any landmark will do, as long as one view uses one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from ..schema import Cut

F64 = npt.NDArray[np.float64]
"""An array of float64."""
I64 = npt.NDArray[np.int64]
"""An array of int64, such as class ids."""


def positions(ids: I64, wanted: I64) -> I64:
    """Where each of ``wanted`` (M,) stands in ``ids`` (K,), which are unique; -1 where it does not."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(ids, kind="stable")
    at = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return np.where(ids[at] == wanted, at, -1)


Source = Literal["tail", "input", "probe"]
"""Who computed an importance value: the tail (from its cut on), the server from a whole input, or a device's probe."""
Target = Literal["predicted", "true"]
"""Whose score was differentiated: the predicted class, or the true one where a label is known."""

WHOLE_CURVES: Final = ("input", "probe")
"""Sources whose every observation has a value at all points of the curve."""
ALL_GROUPS: Final = "all"
"""The name of a view over every device group."""
MOST: Final = 1e15
"""A count above this is none."""


def _no_ids() -> I64:
    return np.zeros(0, np.int64)


def _no_weights() -> F64:
    return np.zeros(0, np.float64)


@dataclass(frozen=True, eq=False)
class ImportanceRows:
    """Mergeable moments of importance, one row per class, one column per point of the curve.

    Shapes: ``class_ids`` (K,) int64, all others (K, P) float64. With w the decayed weight of an observation and
    x its importance at the point: ``count`` = number of observations (not decayed), ``weight`` = sum of w,
    ``weight2`` = sum of w^2, ``sum1`` = sum of w (x - mean0), ``sum2`` = sum of w (x - mean0)^2, where mean0 is the
    profile's. All are per point, because split traffic has values only from its cut on; a point that was never
    observed has zeros. Effective sample size: weight^2 / weight2. Class ids are unique within one set of rows.

    ``devices``: how many distinct devices stand behind each value, where an observation is the mean of one device in
    one bucket of time; requests that count by themselves are told as one device each. ``None``: all of them do.
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
                f"importance rows: expected (K,) and (K, P), got {np.shape(self.class_ids)} and {shape}"
            )
        for name in ("weight", "weight2", "sum1", "sum2", "devices"):
            if getattr(self, name) is not None and np.shape(getattr(self, name)) != shape:
                raise StoreError(
                    f"importance rows: expected {name} {shape}, got {np.shape(getattr(self, name))}"
                )


@dataclass(frozen=True, slots=True)
class Times:
    """Mean and median of one kind of time in milliseconds over ``count`` requests; NaN where nobody reported it.

    ``low_ms`` and ``high_ms``: between them lies the true median, at all times (:func:`.anytime.median_ranks`).
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
        head, encode, uplink: times that devices reported. They are bounded, but a device may lie.
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


class OutcomeRow(NamedTuple):
    """Decayed counts for one predicted class at one cut: predictions, labelled ones, correct ones."""

    cut: Cut
    class_id: int
    predictions: float
    labelled: float
    correct: float


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """The live mix. Shapes (S,): predicted classes, their decayed weights, and their request counts."""

    class_ids: I64 = field(default_factory=_no_ids)
    weight: F64 = field(default_factory=_no_weights)
    count: F64 = field(default_factory=_no_weights)

    def __post_init__(self) -> None:
        shapes = {np.shape(self.class_ids), np.shape(self.weight), np.shape(self.count)}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise StoreError("classes seen: expected three arrays of one length (S,)")


@dataclass(frozen=True, eq=False)
class LiveView:
    """Everything the advice may know of live traffic, for one network and one device group.

    ``revision`` changes whenever the contents do.
    ``as_of``: epoch seconds of the newest observation, ``None`` without traffic; never the reader's clock.
    ``observations``: the requests behind this view.
    """

    importance: tuple[ImportanceRows, ...] = ()
    served: tuple[ServedRow, ...] = ()
    outcomes: tuple[OutcomeRow, ...] = ()
    class_counts: ClassCounts = field(default_factory=ClassCounts)
    revision: str = ""
    as_of: float | None = None
    observations: int = 0
    group: str = ALL_GROUPS

    @classmethod
    def empty(cls, group: str = ALL_GROUPS, revision: str = "") -> LiveView:
        """The view of a network that nobody has used yet."""
        return cls(group=group, revision=revision)
