"""How long would one prediction take with each choice, at a given link.

    head + encode + bytes * 8 / bandwidth + round trip + decode + tail

Live medians outrank the profile's times where at least 10 requests reported them. What is not known live is the
profile's time, scaled by how much slower this device (head, encode) and this server (decode, tail) have proved to be
than the machine that made the profile: a live time and an unscaled one are not comparable. The additive model and
the choice of the fastest cut follow Neurosurgeon (Kang et al., ASPLOS 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from ..profile import Profile
from ..schema import INPUT, OUTPUT, Cut
from .live_view import MOST, LiveView, ServedRow, Times
from .query import Constraints

MIN_REPORTS: Final = 10
DEFAULT_BANDWIDTH_MBPS: Final = 20.0
DEFAULT_RTT_MS: Final = 20.0
_SHORTEST_MS: Final = 0.05
"""Profile times below this are no yardstick: they are mostly overhead."""
_LONGEST_MS: Final = 1e7
_LEAST_MS: Final = 1e-6
_FACTOR: Final = (1e-3, 1e3)
_BANDWIDTH: Final = (1e-3, 1e5)


class Link(NamedTuple):
    """The uplink in megabits a second, the round trip in ms, and where each comes from ("asked", "live", "assumed")."""

    bandwidth_mbps: float
    rtt_ms: float
    bandwidth_source: str
    rtt_source: str

    def transfer_ms(self, nbytes: float) -> float:
        """Time of ``nbytes`` on the uplink, and one round trip."""
        return nbytes * 8 / (self.bandwidth_mbps * 1000) + self.rtt_ms

    def words(self) -> str:
        return (
            f"{self.bandwidth_mbps:.3g} Mbit/s ({self.bandwidth_source}), "
            f"{self.rtt_ms:.3g} ms round trip ({self.rtt_source})"
        )


class Term(NamedTuple):
    """``factor`` times ``value``, ms: ``name`` says which quantity the value is; ``live``: whether it was reported."""

    name: str
    factor: float
    value: float
    live: bool


class Latency(NamedTuple):
    """Milliseconds, NaN where a part is not known, and the source: "live", "profile", "mixed" or "none"."""

    ms: float
    source: str


def _reported(times: Iterable[Times]) -> float | None:
    """The count-weighted mean of medians, ``None`` below 10 reports. A time that cannot be is no report."""
    good = [t for t in times if 0 < t.count <= MOST and 0 <= t.median_ms <= _LONGEST_MS]
    count = math.fsum(t.count for t in good)
    return math.fsum(t.count / count * t.median_ms for t in good) if count >= MIN_REPORTS else None


def _factor(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The weighted median of (ratio, weight) pairs, bounded; ``None`` without any."""
    ordered = sorted(pairs)
    half = math.fsum(w for _, w in ordered) / 2
    run = 0.0
    for ratio, weight in ordered:
        run += weight
        if run >= half:
            return min(max(ratio, _FACTOR[0]), _FACTOR[1])
    return None


def mean_bytes(row: ServedRow) -> float:
    """Mean body bytes of a served pair, NaN below 10 requests."""
    good = MIN_REPORTS <= row.requests <= MOST and 0 <= row.bytes <= MOST**2
    return row.bytes / row.requests if good else math.nan


def link_of(constraints: Constraints, live: LiveView) -> Link:
    """The asked link; else the bandwidth that devices saw (bytes over uplink time); else a named assumption."""
    bandwidth, source = constraints.bandwidth_mbps, "asked"
    if bandwidth is None:
        bits, ms = [], []
        for row in live.served:
            median, size = _reported([row.uplink]), mean_bytes(row)
            if median is not None and median > 0 and size > 0:
                bits.append(row.uplink.count * size * 8)
                ms.append(row.uplink.count * median)
        if ms:
            bandwidth = min(
                max(math.fsum(bits) / math.fsum(ms) / 1000, _BANDWIDTH[0]), _BANDWIDTH[1]
            )
            source = "live"
        else:
            bandwidth, source = DEFAULT_BANDWIDTH_MBPS, "assumed"
    if constraints.rtt_ms is not None:
        return Link(bandwidth, constraints.rtt_ms, source, "asked")
    return Link(bandwidth, DEFAULT_RTT_MS, source, "assumed")


@dataclass(frozen=True)
class LatencyModel:
    """The times of a profile and of live traffic, for one question.

    ``slowdown``: this device against the profile's machine; ``slowdown_source``: "asked", "live" or "assumed".
    ``load``: this server against the profile's machine.
    """

    profile: Profile
    served: tuple[ServedRow, ...]
    link: Link
    slowdown: float
    slowdown_source: str
    load: float

    @classmethod
    def of(cls, profile: Profile, live: LiveView, constraints: Constraints) -> LatencyModel:
        served = tuple(
            sorted(live.served, key=lambda r: (r.cut.split_point, r.cut.coding, r.group))
        )
        device: list[tuple[float, float]] = []
        server: list[tuple[float, float]] = []
        for row in served:
            for times, known, into in (
                (row.head, profile.head_ms.get(row.cut.split_point), device),
                (row.tail, profile.tail_ms.get(row.cut.split_point), server),
            ):
                median = _reported([times])
                if (
                    median is not None
                    and median > 0
                    and known is not None
                    and known >= _SHORTEST_MS
                ):
                    into.append((median / known, times.count))
        slowdown, source = constraints.device_slowdown, "asked"
        if slowdown is None:
            slowdown, source = _factor(device), "live"
        if slowdown is None:
            slowdown, source = 1.0, "assumed"
        load = _factor(server)
        return cls(
            profile,
            served,
            link_of(constraints, live),
            slowdown,
            source,
            1.0 if load is None else load,
        )

    def nbytes(self, cut: Cut) -> float:
        """Mean bytes of one image on the wire as served, NaN where too few were."""
        sizes = [(r.requests, mean_bytes(r)) for r in self._rows(cut)]
        good = [(n, size) for n, size in sizes if not math.isnan(size)]
        total = math.fsum(n for n, _ in good)
        return math.fsum(n / total * size for n, size in good) if good else math.nan

    def latency(self, cut: Cut, nbytes: float) -> Latency:
        """One prediction with this choice. ``nbytes``: what it sends; on the device, nothing is sent."""
        return _sum(
            self._parts(cut),
            0.0 if cut.split_point == OUTPUT else self.link.transfer_ms(nbytes),
        )

    def terms(self, cut: Cut, nbytes: float) -> tuple[Term, ...]:
        """The latency as a sum of terms; those that two choices share cancel in their difference."""
        parts = tuple(self._parts(cut))
        if cut.split_point == OUTPUT:
            return parts
        megabits = nbytes * 8 / 1000
        uplink = Term("uplink", megabits, 1 / self.link.bandwidth_mbps, False)
        return (*parts, uplink, Term("rtt", 1.0, self.link.rtt_ms, False))

    def _parts(self, cut: Cut) -> list[Term]:
        split_point = cut.split_point
        measurement = self.profile.measurement(cut)
        at_cut = self._rows(cut)
        at_point = [row for row in self.served if row.cut.split_point == split_point]
        # Coding that was never measured is taken as free: next to head, transfer and tail it hardly counts.
        encode = measurement.encode_ms if measurement is not None else 0.0
        decode = measurement.decode_ms if measurement is not None else 0.0
        parts: list[Term] = []
        if split_point != INPUT:
            whole = self.profile.tail_ms.get(INPUT) if split_point == OUTPUT else None
            head = self.profile.head_ms.get(split_point, whole)
            parts.append(
                self._part(
                    f"head {split_point}", self._device(r.head for r in at_point), head, "slowdown"
                )
            )
        if split_point == OUTPUT:
            return parts
        tail = self.profile.tail_ms.get(split_point)
        return [
            *parts,
            self._part(f"encode {cut}", self._device(r.encode for r in at_cut), encode, "slowdown"),
            self._part(f"decode {cut}", _reported(r.decode for r in at_cut), decode, "load"),
            self._part(f"tail {split_point}", _reported(r.tail for r in at_point), tail, "load"),
        ]

    def _device(self, times: Iterable[Times]) -> float | None:
        # Who names the device's speed asks about that device, not about those that reported.
        return None if self.slowdown_source == "asked" else _reported(times)

    def _rows(self, cut: Cut) -> list[ServedRow]:
        return [row for row in self.served if row.cut == cut]

    def _part(self, name: str, live: float | None, known: float | None, shared: str) -> Term:
        """A live time as a quantity of its own; a time of the profile as a multiple of slowdown or load."""
        if live is not None:
            return Term(name, 1.0, live, True)
        factor = known if known is not None and math.isfinite(known) else math.nan
        return Term(shared, factor, self.slowdown if shared == "slowdown" else self.load, False)


def _sum(parts: Sequence[Term], transfer_ms: float) -> Latency:
    total = math.fsum(part.factor * part.value for part in parts) + transfer_ms
    if not math.isfinite(total):
        return Latency(math.nan, "none")
    live = [part.live for part in parts]
    return Latency(total, "live" if all(live) else "mixed" if any(live) else "profile")


def edge(live: LiveView, high: bool) -> LiveView:
    """The same traffic with every median at the lower (or upper) end of its interval."""

    def at(times: Times) -> Times:
        value = times.high_ms if high else times.low_ms
        if math.isnan(value):
            value = math.inf if high else 0.0
        value = min(max(value, _LEAST_MS), _LONGEST_MS)
        return replace(times, median_ms=math.nan if math.isnan(times.median_ms) else value)

    served = tuple(
        replace(
            r,
            head=at(r.head),
            encode=at(r.encode),
            decode=at(r.decode),
            tail=at(r.tail),
            uplink=at(r.uplink),
        )
        for r in live.served
    )
    return replace(live, served=served)
