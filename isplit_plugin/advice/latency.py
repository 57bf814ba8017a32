"""The predicted latency of one prediction at a cut, on a given link.

    head + encode + bytes * 8 / bandwidth + round trip + queue + decode + tail

A refining cut sends some photos again: its bytes are those of both requests, and everything but the
head and the bytes counts 1 + s times, where s is the share of the calibration photos that is sent
again.

A live median is used where at least 10 requests reported one; so it is for bandwidth, round trip and
queue, over all cuts of the device group. Otherwise it is the profile's time,
scaled by how much slower this device (head, encode) or this server (decode, tail) is than the
machine that made the profile, because a live time and an unscaled one cannot be compared. The
additive model and the choice of the fastest cut follow Neurosurgeon (Kang et al., ASPLOS 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from ..profile import Profile
from ..schema import INPUT, OUTPUT, Cut
from .live_view import MAX_COUNT, LiveView, ServedRow, Times
from .query import Constraints

MIN_REPORTS: Final = 10
DEFAULT_BANDWIDTH_MBPS: Final = 20.0
DEFAULT_RTT_MS: Final = 20.0
_SLOWDOWN: Final = "slowdown"
_LOAD: Final = "load"
_SHORTEST_MS: Final = 0.05
"""Shorter profile times do not count for the scale, because they are mostly overhead."""
_LONGEST_MS: Final = 1e7
_LEAST_MS: Final = 1e-6
_FACTOR: Final = (1e-3, 1e3)
_BANDWIDTH: Final = (1e-3, 1e5)


class Link(NamedTuple):
    """The link of a question.

    Attributes:
        bandwidth_mbps: the uplink, in megabits per second.
        rtt_ms: the round-trip time.
        bandwidth_source, rtt_source: "asked", "live" or "assumed".
    """

    bandwidth_mbps: float
    rtt_ms: float
    bandwidth_source: str
    rtt_source: str

    def transfer_ms(self, nbytes: float, round_trips: float = 1.0) -> float:
        """Milliseconds of ``nbytes`` on the uplink, and of the round trips."""
        return nbytes * 8 / (self.bandwidth_mbps * 1000) + round_trips * self.rtt_ms

    def words(self) -> str:
        return (
            f"{self.bandwidth_mbps:.3g} Mbit/s ({self.bandwidth_source}), "
            f"{self.rtt_ms:.3g} ms round trip ({self.rtt_source})"
        )


class Term(NamedTuple):
    """A part of a latency: ``factor`` times ``value``, in milliseconds.

    ``name`` is the quantity that the value measures. ``live`` says whether it was reported by live
    traffic.
    """

    name: str
    factor: float
    value: float
    live: bool

    @property
    def on_device(self) -> bool:
        """Whether the device spends this time: its head or its encoding."""
        return self.name == _SLOWDOWN or self.name.startswith(("head ", "encode "))


class Latency(NamedTuple):
    """Milliseconds, NaN where a part is unknown.

    Attributes:
        source: "live", "profile", "mixed" or "none".
        device_ms: the part on the device: head and encoding.
        server_ms: the part on the server: decoding and tail.
    """

    ms: float
    source: str
    device_ms: float
    server_ms: float


@dataclass(frozen=True)
class LatencyModel:
    """The times of a profile and of live traffic, for one question.

    Attributes:
        slowdown: how many times slower this device is than the machine that made the profile.
        slowdown_source: "asked", "live" or "assumed".
        load: the same for this server.
        queue_ms: how long a request waits at the server, as devices report it; 0 where none does.
    """

    profile: Profile
    served: tuple[ServedRow, ...]
    link: Link
    slowdown: float
    slowdown_source: str
    load: float
    queue_ms: float

    @classmethod
    def of(cls, profile: Profile, live: LiveView, constraints: Constraints) -> LatencyModel:
        """The model for a question about this profile and this traffic."""
        served = tuple(
            sorted(live.served, key=lambda row: (row.cut.split_point, row.cut.coding, row.group))
        )
        slowdown, source = constraints.device_slowdown, "asked"
        if slowdown is None:
            heads = [(row.head, profile.head_ms.get(row.cut.split_point)) for row in served]
            slowdown, source = _slowdown(heads), "live"
        if slowdown is None:
            slowdown, source = 1.0, "assumed"
        tails = [(row.tail, profile.tail_ms.get(row.cut.split_point)) for row in served]
        load = _slowdown(tails)
        queue_ms = _reported_median(row.queue for row in served)
        return cls(
            profile=profile,
            served=served,
            link=link_of(constraints, live),
            slowdown=slowdown,
            slowdown_source=source,
            load=1.0 if load is None else load,
            queue_ms=0.0 if queue_ms is None else queue_ms,
        )

    def nbytes(self, cut: Cut) -> float:
        """Mean bytes of one image on the wire in live traffic, NaN below 10 requests."""
        sizes = [(row.requests, mean_bytes(row)) for row in self._rows(cut)]
        known = [(n, size) for n, size in sizes if not math.isnan(size)]
        total = math.fsum(n for n, _ in known)
        return math.fsum(n / total * size for n, size in known) if known else math.nan

    def latency(self, cut: Cut, nbytes: float) -> Latency:
        """The latency of one prediction that sends ``nbytes``. At `output` nothing is sent."""
        trips = self.profile.round_trips(cut)
        transfer_ms = 0.0
        if cut.split_point != OUTPUT:
            transfer_ms = self.link.transfer_ms(nbytes, trips) + trips * self.queue_ms
        parts = self._parts(cut)
        on_device = [part for part in parts if part.on_device]
        on_server = [part for part in parts if not part.on_device]
        total = _sum_ms(parts) + transfer_ms
        source = _source(parts) if math.isfinite(total) else "none"
        return Latency(
            _known(total), source, _known(_sum_ms(on_device)), _known(_sum_ms(on_server))
        )

    def terms(self, cut: Cut, nbytes: float) -> tuple[Term, ...]:
        """The latency as terms. Terms that two cuts share cancel in the difference of the two."""
        parts = tuple(self._parts(cut))
        if cut.split_point == OUTPUT:
            return parts
        megabits = nbytes * 8 / 1000
        trips = self.profile.round_trips(cut)
        uplink = Term("uplink", megabits, 1 / self.link.bandwidth_mbps, False)
        trip = Term("rtt", trips, self.link.rtt_ms, False)
        return (*parts, uplink, trip, Term("queue", trips, self.queue_ms, False))

    def _parts(self, cut: Cut) -> list[Term]:
        """The terms of device and server, without those of the link."""
        split_point = cut.split_point
        at_split_point = [row for row in self.served if row.cut.split_point == split_point]
        parts: list[Term] = []
        if split_point != INPUT:
            parts.append(self._head(split_point, at_split_point))
        if split_point == OUTPUT:
            return parts
        measurement = self.profile.measurement(cut)
        # A codec that was never measured counts as free: it hardly matters next to the other parts.
        encode_ms = measurement.encode_ms if measurement is not None else 0.0
        decode_ms = measurement.decode_ms if measurement is not None else 0.0
        tail_ms = self.profile.tail_ms.get(split_point)
        rows = self._rows(cut)
        encode_live = self._device_median(row.encode for row in rows)
        decode_live = _reported_median(row.decode for row in rows)
        tail_live = _reported_median(row.tail for row in at_split_point)
        # Live times are those of one request; the profile's codec times are those of a photo.
        trips = self.profile.round_trips(cut)
        encode_ms, decode_ms = encode_ms / trips, decode_ms / trips
        codec = (
            self._part(f"encode {cut}", encode_live, encode_ms, _SLOWDOWN),
            self._part(f"decode {cut}", decode_live, decode_ms, _LOAD),
        )
        tail = self._part(f"tail {split_point}", tail_live, tail_ms, _LOAD)
        own = (part._replace(factor=trips * part.factor) for part in (*codec, tail))
        return [*parts, *own]

    def _head(self, split_point: str, rows: Sequence[ServedRow]) -> Term:
        head_ms = self.profile.head_time_ms(split_point)
        live_ms = self._device_median(row.head for row in rows)
        return self._part(f"head {split_point}", live_ms, head_ms, _SLOWDOWN)

    def _device_median(self, times: Iterable[Times]) -> float | None:
        # A question that names the slowdown is about another device than those that reported.
        return None if self.slowdown_source == "asked" else _reported_median(times)

    def _rows(self, cut: Cut) -> list[ServedRow]:
        return [row for row in self.served if row.cut == cut]

    def _part(self, name: str, live_ms: float | None, profile_ms: float | None, scale: str) -> Term:
        """A live time as a quantity of its own, or a profile time as a multiple of a scale."""
        if live_ms is not None:
            return Term(name, 1.0, live_ms, True)
        factor = profile_ms if profile_ms is not None and math.isfinite(profile_ms) else math.nan
        return Term(scale, factor, self.slowdown if scale == _SLOWDOWN else self.load, False)


def link_of(constraints: Constraints, live: LiveView) -> Link:
    """The link that was asked for, else the live one, else a default that says so.

    Bandwidth and round trip each.
    """
    bandwidth, bandwidth_source = constraints.bandwidth_mbps, "asked"
    if bandwidth is None:
        bandwidth, bandwidth_source = _live_bandwidth(live), "live"
    if bandwidth is None:
        bandwidth, bandwidth_source = DEFAULT_BANDWIDTH_MBPS, "assumed"
    rtt, rtt_source = constraints.rtt_ms, "asked"
    if rtt is None:
        rtt, rtt_source = _reported_median(row.rtt for row in live.served), "live"
    if rtt is None:
        rtt, rtt_source = DEFAULT_RTT_MS, "assumed"
    return Link(bandwidth, rtt, bandwidth_source, rtt_source)


def mean_bytes(row: ServedRow) -> float:
    """Mean body bytes of the requests at a cut, NaN below 10 requests."""
    usable = MIN_REPORTS <= row.requests <= MAX_COUNT and 0 <= row.bytes <= MAX_COUNT**2
    return row.bytes / row.requests if usable else math.nan


def view_at_bounds(live: LiveView, *, high: bool) -> LiveView:
    """The same traffic with every median at the lower, or the upper, end of its interval."""

    def bound(times: Times) -> Times:
        value = times.high_ms if high else times.low_ms
        if math.isnan(value):
            value = math.inf if high else 0.0
        value = min(max(value, _LEAST_MS), _LONGEST_MS)
        return replace(times, median_ms=math.nan if math.isnan(times.median_ms) else value)

    served = tuple(
        replace(
            row,
            head=bound(row.head),
            encode=bound(row.encode),
            decode=bound(row.decode),
            tail=bound(row.tail),
            uplink=bound(row.uplink),
            rtt=bound(row.rtt),
            queue=bound(row.queue),
        )
        for row in live.served
    )
    return replace(live, served=served)


def _live_bandwidth(live: LiveView) -> float | None:
    """Bits over uplink time in megabits per second, ``None`` where too few devices reported."""
    bits: list[float] = []
    ms: list[float] = []
    for row in live.served:
        median = _reported_median([row.uplink])
        size = mean_bytes(row)
        if median is not None and median > 0 and size > 0:
            bits.append(row.uplink.count * size * 8)
            ms.append(row.uplink.count * median)
    if not ms:
        return None
    return min(max(math.fsum(bits) / math.fsum(ms) / 1000, _BANDWIDTH[0]), _BANDWIDTH[1])


def _reported_median(times: Iterable[Times]) -> float | None:
    """The mean of medians, weighted by count; ``None`` below 10 reports.

    Impossible times are left out.
    """
    possible = [t for t in times if 0 < t.count <= MAX_COUNT and 0 <= t.median_ms <= _LONGEST_MS]
    count = math.fsum(t.count for t in possible)
    if count < MIN_REPORTS:
        return None
    return math.fsum(t.count / count * t.median_ms for t in possible)


def _slowdown(times: Iterable[tuple[Times, float | None]]) -> float | None:
    """The median ratio of live to profile times, weighted by reports; ``None`` without any."""
    ratios = []
    for live, profile_ms in times:
        median = _reported_median([live])
        if profile_ms is None or not profile_ms >= _SHORTEST_MS:
            continue
        if median is not None and median > 0:
            ratios.append((median / profile_ms, live.count))
    half = math.fsum(weight for _, weight in ratios) / 2
    weight_so_far = 0.0
    for ratio, weight in sorted(ratios):
        weight_so_far += weight
        if weight_so_far >= half:
            return min(max(ratio, _FACTOR[0]), _FACTOR[1])
    return None


def _known(ms: float) -> float:
    return ms if math.isfinite(ms) else math.nan


def _sum_ms(parts: Sequence[Term]) -> float:
    return math.fsum(part.factor * part.value for part in parts)


def _source(parts: Sequence[Term]) -> str:
    if all(part.live for part in parts):
        return "live"
    return "mixed" if any(part.live for part in parts) else "profile"
