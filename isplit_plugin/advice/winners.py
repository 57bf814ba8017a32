"""The grid of winners: on which links and devices a split is the fastest, and by how much.

In each cell, one link and one device, the fastest faithful split is compared with the fastest faithful
photo and with the whole network on the device. The latency is that of :mod:`.latency`, from a
profile's times alone:

    slowdown * (head + encode) + bytes * 8 / uplink + round trip + decode + tail

A refining cut has as many round trips and tails as it has requests for a photo on average.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ..profile import CutMeasurement, Profile
from ..schema import BOTTLENECK_MARK, INPUT, OUTPUT, Cut
from .faithful import TOLERANCE, is_faithful, photos_needed
from .latency import DEFAULT_RTT_MS
from .live_view import F64

UPLINKS_MBPS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""The uplinks of the grid, in megabits per second."""
SLOWDOWNS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""How many times slower the devices of the grid are than the machine that made the profile."""
WORTHWHILE: Final = 0.05
"""By this share a further split point must shorten the latency of some cell."""


class _Axes(NamedTuple):
    rtt_ms: float
    uplinks: tuple[float, ...]
    slowdowns: tuple[float, ...]


_AXES: Final = _Axes(DEFAULT_RTT_MS, UPLINKS_MBPS, SLOWDOWNS)


class Timed(NamedTuple):
    """A cut with its predicted latency.

    ``undecided``: the photos of the calibration set cannot tell whether the cut is faithful.
    """

    cut: Cut
    ms: float
    undecided: bool = False


@dataclass(frozen=True, slots=True)
class WinnerCell:
    """One link and one device.

    Attributes:
        uplink_mbps: the link's bandwidth from the device, in megabits per second.
        slowdown: how many times slower the device is than the machine that made the profile.
        split, photo, output: the fastest faithful cut of each kind; ``None`` where there is none.
    """

    uplink_mbps: float
    slowdown: float
    split: Timed | None
    photo: Timed | None
    output: Timed | None

    @property
    def rival(self) -> Timed | None:
        """The faster of photo and whole network on the device."""
        rivals = [timed for timed in (self.photo, self.output) if timed is not None]
        return min(rivals, key=lambda timed: timed.ms, default=None)

    @property
    def winner(self) -> Timed | None:
        """The fastest cut. At equal latency it is no split."""
        if self.split is not None and (self.rival is None or self.split.ms < self.rival.ms):
            return self.split
        return self.rival

    @property
    def split_wins(self) -> bool:
        """Whether a split is faster than both rivals."""
        return self.split is not None and self.winner is self.split

    @property
    def gain(self) -> float:
        """How many times as long the rival takes as the split; NaN where one of them is missing."""
        if self.split is None or self.rival is None or not self.split.ms > 0:
            return math.nan
        return self.rival.ms / self.split.ms


@dataclass(frozen=True, slots=True)
class WinnerGrid:
    """Which cut is the fastest on which link and device.

    Attributes:
        rtt_ms: the round trip, the same in all cells.
        uplinks, slowdowns: the rows and the columns.
        cells: row by row.
    """

    rtt_ms: float
    uplinks: tuple[float, ...]
    slowdowns: tuple[float, ...]
    cells: tuple[WinnerCell, ...]

    @property
    def wins(self) -> tuple[WinnerCell, ...]:
        """The cells where a split wins."""
        return tuple(cell for cell in self.cells if cell.split_wins)

    @property
    def gains(self) -> tuple[float, ...]:
        """The gains of those cells that have a rival, ascending."""
        return tuple(sorted(cell.gain for cell in self.wins if not math.isnan(cell.gain)))

    @property
    def split_points(self) -> dict[str, int]:
        """The split points that win, with the number of their cells, most first."""
        names = (cell.split.cut.split_point for cell in self.wins if cell.split is not None)
        return dict(Counter(names).most_common())

    def row(self, number: int) -> tuple[WinnerCell, ...]:
        """The cells of one uplink."""
        width = len(self.slowdowns)
        return self.cells[number * width : (number + 1) * width]


def winner_grid(
    profile: Profile,
    *,
    tolerance: float = TOLERANCE,
    rtt_ms: float = DEFAULT_RTT_MS,
    max_head_macs: float = math.inf,
    splits: Callable[[Cut], bool] = lambda _: True,
    uplinks: Sequence[float] = UPLINKS_MBPS,
    slowdowns: Sequence[float] = SLOWDOWNS,
) -> WinnerGrid:
    """The fastest faithful split, photo and whole network in each cell.

    Cuts that were not measured, and those whose times are not known, are left out.

    Parameters:
        tolerance: the share of photos that may differ from the full network's answer.
        rtt_ms: the round trip.
        max_head_macs: cuts whose head needs more MACs are left out, `output` among them.
        splits: which splits count; by default all.
        uplinks: megabits per second.
        slowdowns: of the device, relative to the machine that made the profile.
    """
    usable = [
        m
        for m in _usable(profile, tolerance)
        if _head_macs(profile, m.split_point) <= max_head_macs
        and (m.split_point in (INPUT, OUTPUT) or splits(m.cut))
    ]
    kinds = {
        "split": [m for m in usable if m.split_point not in (INPUT, OUTPUT)],
        "photo": [m for m in usable if m.split_point == INPUT],
        "output": [m for m in usable if m.split_point == OUTPUT],
    }
    axes = _Axes(rtt_ms, tuple(uplinks), tuple(slowdowns))
    fastest = {
        kind: _fastest(profile, measurements, axes, tolerance)
        for kind, measurements in kinds.items()
    }
    cells = [
        WinnerCell(
            uplink, slowdown, *(fastest[kind][row][column] for kind in ("split", "photo", "output"))
        )
        for row, uplink in enumerate(uplinks)
        for column, slowdown in enumerate(slowdowns)
    ]
    return WinnerGrid(*axes, tuple(cells))


def winning_split_points(
    profile: Profile, *, limit: int | None = None, has_output: bool = True
) -> tuple[str, ...]:
    """The split points that pay on the grid of winners, in execution order.

    They are chosen one by one, each time the one that saves most: the largest sum over the cells of
    the logarithm of the latency so far over its own, with photo and `output` to begin with. The
    first one must be the fastest in some cell. Each further one must shorten the latency of some
    cell by :data:`WORTHWHILE`.

    Parameters:
        limit: at most so many.
        has_output: whether devices can run the whole network.
    """
    usable = [m for m in _usable(profile, TOLERANCE) if has_output or m.split_point != OUTPUT]
    order = [point.name for point in profile.split_points]
    by_point: dict[str, list[CutMeasurement]] = {}
    for measurement in usable:
        by_point.setdefault(measurement.split_point, []).append(measurement)
    ms = {name: _latencies(profile, own, _AXES).min(axis=0) for name, own in by_point.items()}
    ends = [ms.pop(name) for name in (INPUT, OUTPUT) if name in ms]
    splits = {name: ms[name] for name in order if name in ms}
    if not ends:
        return ()
    best = np.minimum.reduce(ends)
    chosen: list[str] = []
    while splits and (limit is None or len(chosen) < limit):
        saved = {name: np.log(best / np.minimum(best, own)) for name, own in splits.items()}
        least = -math.log1p(-WORTHWHILE) if chosen else 0.0
        paying = [name for name in splits if saved[name].max() > least]
        if not paying:
            break
        name = max(paying, key=lambda name: float(saved[name].sum()))
        best = np.minimum(best, splits.pop(name))
        chosen.append(name)
    return tuple(sorted(chosen, key=order.index))


def _usable(profile: Profile, tolerance: float) -> list[CutMeasurement]:
    """The faithful measurements whose times are known."""
    return [
        m
        for m in profile.measurements
        if is_faithful(m, tolerance) and all(map(math.isfinite, _own_ms(profile, m)))
    ]


def _own_ms(profile: Profile, measurement: CutMeasurement) -> tuple[float, float]:
    """Milliseconds on a device as fast as the profile's machine, and on the server."""
    name = measurement.split_point
    if name == OUTPUT:
        return profile.head_ms.get(OUTPUT, profile.tail_ms.get(INPUT, math.nan)), 0.0
    head_ms = 0.0 if name == INPUT else profile.head_ms.get(name, math.nan)
    tail_ms = profile.tail_ms.get(name, math.nan)
    tails_ms = profile.round_trips(measurement.cut) * tail_ms
    return head_ms + measurement.encode_ms, tails_ms + measurement.decode_ms


def _latencies(profile: Profile, measurements: Sequence[CutMeasurement], axes: _Axes) -> F64:
    """Milliseconds (measurements, uplinks, slowdowns)."""
    own_ms = np.array([_own_ms(profile, m) for m in measurements])
    trips = np.array([profile.round_trips(m.cut) for m in measurements])[:, None]
    kilobits = np.array([m.nbytes * 8e-3 for m in measurements])[:, None]
    link_ms = np.where(trips > 0, kilobits / np.asarray(axes.uplinks) + trips * axes.rtt_ms, 0.0)
    device_ms = own_ms[:, :1] * np.asarray(axes.slowdowns)
    total = device_ms[:, None, :] + link_ms[:, :, None] + own_ms[:, 1][:, None, None]
    return np.asarray(np.maximum(total, 1e-6))


def _fastest(
    profile: Profile, measurements: Sequence[CutMeasurement], axes: _Axes, tolerance: float
) -> list[list[Timed | None]]:
    """The fastest of the measurements in each cell, by uplink and slowdown."""
    if not measurements:
        return [[None] * len(axes.slowdowns) for _ in axes.uplinks]
    ms = _latencies(profile, measurements, axes)
    undecided = [photos_needed(m, tolerance) is not None for m in measurements]
    first = ms.argmin(axis=0)
    return [
        [
            Timed(measurements[i].cut, float(ms[i, row, column]), undecided[i])
            for column, i in enumerate(indices)
        ]
        for row, indices in enumerate(first.tolist())
    ]


def _head_macs(profile: Profile, split_point: str) -> float:
    points = profile.split_points
    if split_point == INPUT:
        return 0.0
    if split_point == OUTPUT:
        return max((point.macs.head + point.macs.tail for point in points), default=0)
    # A bottleneck's head is at least that of its split point.
    base = split_point.rpartition(BOTTLENECK_MARK)[0] or split_point
    named = next((point for point in points if point.name == base), None)
    return 0.0 if named is None else named.macs.head
