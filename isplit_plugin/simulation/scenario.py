"""What is simulated: devices, their link, their photos, and the server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..adaptive import EXPLORATION, Option
from ..advice import is_faithful
from ..errors import QueryError
from ..profile import CutMeasurement, Profile
from ..schema import INPUT, OUTPUT, PHOTO_FILE
from .uplink import ConstantUplink, Uplink


@dataclass(frozen=True)
class Scenario:
    """One simulation.

    Attributes:
        options: the cuts that a device can take.
        uplink: of every device. Each has one of its own, at another place of the same trace.
        rtt_ms: round trip without the time of the bytes; the answer comes within it.
        deadline_ms: of each photo, from its arrival; ``None`` for none.
        rate: photos a second of each device.
        burst: photos that arrive at once.
        devices: how many devices share the server.
        cores: heads that a device runs at once at full speed; more share them. There is more than one
            where a local answer goes on although the server's has come.
        workers: of the server; each runs one batch at a time.
        batch_size: requests that a worker runs together, at most.
        batch_delay_ms: how long a worker waits for a batch to fill.
        batch_cost: what a further request of a batch takes, as a share of its time alone: 1 where
            batches save nothing, as on one CPU thread, 0 where it is free.
        photos: of each device.
        noise: standard deviation of the logarithm of each computing time of a device.
        server_noise: the same for the server; by default that of the devices.
        byte_noise: the same for the bytes of a request, whose mean stays.
        seed: of arrivals, noise and tries.
        advised: the options as the server advises them to the adaptive client, which has its own
            times still to find out; by default they are right.
        exploration: the probability of the adaptive client's tries.
        loss: the share of packets that is lost on UDP, where nothing is sent again; the agreement
            of the options is what is left of it. ``None`` for TCP, where a trace shows loss.

    Raises:
        QueryError: a value is out of range; it names the field.
    """

    options: tuple[Option, ...]
    uplink: Uplink = field(default_factory=lambda: ConstantUplink(4.0))
    rtt_ms: float = 30.0
    deadline_ms: float | None = None
    rate: float = 2.0
    burst: int = 1
    devices: int = 1
    cores: int = 1
    workers: int = 1
    batch_size: int = 1
    batch_delay_ms: float = 0.0
    batch_cost: float = 1.0
    photos: int = 200
    noise: float = 0.1
    server_noise: float | None = None
    byte_noise: float = 0.0
    seed: int = 0
    advised: tuple[Option, ...] = ()
    exploration: float = EXPLORATION
    loss: float | None = None

    def __post_init__(self) -> None:
        if not self.options:
            raise QueryError("options: expected at least one cut, got none", field="options")
        if all(option.refused for option in self.options):
            raise QueryError(
                "no cut is accurate enough: raise the tolerance, or profile other codecs",
                field="tolerance",
            )
        for name, low in (
            ("rtt_ms", 0.0),
            ("rate", 1e-6),
            ("noise", 0.0),
            ("byte_noise", 0.0),
            ("batch_delay_ms", 0.0),
        ):
            _at_least(name, getattr(self, name), low)
        if self.server_noise is not None:
            _at_least("server_noise", self.server_noise, 0.0)
        if self.deadline_ms is not None:
            _at_least("deadline_ms", self.deadline_ms, 1e-3)
        for name in ("burst", "devices", "cores", "workers", "photos", "batch_size"):
            _at_least(name, getattr(self, name), 1)
        if not 0 <= self.batch_cost <= 1:
            raise QueryError(
                f"batch_cost: expected 0 to 1, got {self.batch_cost!r}", field="batch_cost"
            )
        if not {option.cut for option in self.advised} <= {option.cut for option in self.options}:
            raise QueryError("advised: expected cuts of the options only", field="advised")
        if self.devices * self.photos > 1_000_000:
            raise QueryError(
                f"photos: expected at most 1,000,000 for all devices, got "
                f"{self.devices * self.photos:,}",
                field="photos",
            )

    def describe(self) -> str:
        """Who sends what over which link to whom, in one line."""
        devices = "1 device" if self.devices == 1 else f"{self.devices} devices"
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        text = (
            f"{devices}, each {self.photos} photos at {self.rate:g} a second, over "
            f"{self.uplink.describe()}, {self.rtt_ms:g} ms round trip, to {workers}"
        )
        if self.batch_size > 1:
            text += f" with batches of up to {self.batch_size}"
        if self.loss is not None:
            text += f"; on UDP, {self.loss:.1%} of the packets are lost"
        if self.deadline_ms is not None:
            text += f"; deadline {self.deadline_ms:g} ms"
        return text


def options_of(
    profile: Profile,
    *,
    slowdown: float = 1.0,
    server_slowdown: float = 1.0,
    tolerance: float = 0.01,
    max_head_macs: float | None = None,
    envelope_bytes: float = 0.0,
    prepare_ms: float = 0.0,
    loss: float | None = None,
) -> tuple[Option, ...]:
    """The measured cuts of a profile as options of a device.

    Parameters:
        slowdown: how many times slower the device is than the machine that made the profile.
        server_slowdown: the same for the server.
        tolerance: the share of photos that may differ from the full network's answer.
        max_head_macs: cuts whose head needs more are refused.
        envelope_bytes: of each request beside its body, such as HTTP headers.
        prepare_ms: from the photo to the head's input on the device, which a profile does not hold.
            The file as it is needs none.
        loss: of packets on UDP: the options have the agreement that the profile measured under it,
            and none is refused for its agreement.

    Raises:
        QueryError: a number is out of range, or the profile did not measure this loss.
    """
    _at_least("slowdown", slowdown, 1e-6)
    _at_least("server_slowdown", server_slowdown, 1e-6)
    _at_least("prepare_ms", prepare_ms, 0.0)
    if not 0 <= tolerance <= 1:
        raise QueryError(f"tolerance: expected 0 to 1, got {tolerance!r}", field="tolerance")
    measured = {loss for m in profile.measurements for loss in m.under_loss}
    if loss is not None and loss not in measured:
        raise QueryError(
            f"loss {loss:g}: expected one that the profile was measured under, "
            f"{', '.join(f'{each:g}' for each in sorted(measured)) or 'none'} "
            "(isplit profile --loss)",
            field="loss",
        )
    options = []
    for measurement in profile.measurements:
        if loss is not None and loss not in measurement.under_loss:
            continue  # of a bottleneck
        cut = measurement.cut
        if cut.is_refining:
            continue  # a simulation sends each photo once
        local = cut.split_point == OUTPUT
        prepared_ms = 0.0 if cut.codec == PHOTO_FILE else prepare_ms
        head_ms = 0.0 if cut.split_point == INPUT else profile.head_time_ms(cut.split_point)
        server_ms = measurement.decode_ms + profile.tail_ms.get(cut.split_point, math.nan)
        option = Option(
            cut=cut,
            nbytes=0.0 if local else measurement.nbytes + envelope_bytes,
            device_ms=prepared_ms + slowdown * (head_ms + measurement.encode_ms),
            server_ms=0.0 if local else server_slowdown * server_ms,
            agreement=measurement.agreement if loss is None else measurement.under_loss[loss],
            round_trips=profile.round_trips(cut),
            refused=_refused(
                profile, measurement, tolerance if loss is None else None, max_head_macs
            ),
        )
        if math.isfinite(option.device_ms) and math.isfinite(option.server_ms):
            options.append(option)
    return tuple(options)


def _refused(
    profile: Profile,
    measurement: CutMeasurement,
    tolerance: float | None,
    max_head_macs: float | None,
) -> str:
    """Why a cut may not be taken; empty if it may."""
    agreement = measurement.agreement
    if math.isnan(agreement):
        return "its agreement was never measured"
    if tolerance is not None and not is_faithful(measurement, tolerance):
        return f"agrees on {agreement:.4g} of the photos, below {1 - tolerance:.4g}"
    macs = _head_macs(profile, measurement.split_point)
    if max_head_macs is not None and macs > max_head_macs:
        return f"its head needs {macs:,} MACs, limit {max_head_macs:,.0f}"
    return ""


def _head_macs(profile: Profile, split_point: str) -> int:
    if split_point == INPUT:
        return 0
    if split_point == OUTPUT:
        return max((p.macs.head + p.macs.tail for p in profile.split_points), default=0)
    return profile.split_points[profile.point_index(split_point)].macs.head


def useful(options: Sequence[Option], *, by_agreement: bool = False) -> tuple[Option, ...]:
    """The options that some link could make the best: no other is at least as good in every part.

    Refused options are left out. ``by_agreement``: agreement is one of the parts; otherwise those
    that are not refused count as equally accurate.
    """
    allowed = [option for option in options if not option.refused]

    def costs(option: Option) -> tuple[float, ...]:
        misses = 1 - option.agreement if by_agreement else 0.0
        sent = 0.0 if option.is_local else 1 - option.exit_share
        idle_ms = option.device_ms + sent * option.server_ms
        return idle_ms, sent * option.nbytes, option.expected_bytes, sent, misses

    def beaten(option: Option, index: int) -> bool:
        own = costs(option)
        for other_index, other in enumerate(allowed):
            theirs = costs(other)
            no_worse = all(a <= b for a, b in zip(theirs, own, strict=True))
            if no_worse and (theirs != own or other_index < index):
                return True
        return False

    return tuple(option for index, option in enumerate(allowed) if not beaten(option, index))


def _at_least(name: str, value: float, low: float) -> None:
    if not (math.isfinite(value) and value >= low):
        raise QueryError(
            f"{name}: expected a number of at least {low:g}, got {value!r}", field=name
        )
