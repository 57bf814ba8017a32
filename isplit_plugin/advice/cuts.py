"""What each deployed cut costs and how accurate it is, before any of them is ranked.

Sending the photo (`input`) and staying on the device (`output`) are deployed cuts like the others.
Accuracy is always measured. It is not predicted from CUI.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..profile import Profile
from ..schema import IMAGE_CODECS, INPUT, ON_DEVICE, OUTPUT, PHOTO_FILE, Cut, Manifest
from .agreement import Agreement, measured_agreement
from .labels import agreements_with_labels, label_sums
from .latency import Latency, LatencyModel
from .live_view import LiveView
from .mix import Mix
from .query import Constraints
from .ratios import Yardstick, yardstick

_BYTES_PER_VALUE: Final = {"fp32": 4, "fp16": 2, "uint8": 1}


@dataclass(frozen=True, slots=True)
class CutEstimate:
    """A deployed cut with what is expected of it.

    Attributes:
        order: position of its split point in the network, 0 at `input`.
        nbytes: bytes on the wire for one image.
        violations: the limits that the cut breaks, in words.
        excess: by how much it breaks them, the sum of (value / limit - 1).
        yardstick: what it sends, by what it leaves to the server.
        round_trips: how many requests a photo takes on average.
    """

    cut: Cut
    order: int
    agreement: Agreement
    nbytes: float
    latency: Latency
    head_macs: int
    violations: tuple[str, ...]
    excess: float
    yardstick: Yardstick
    round_trips: float = 1.0

    def rank(self, objective: str) -> tuple[float, ...]:
        """A sort key: smaller is better, unknown values come last, the last two break ties."""
        ms = math.inf if math.isnan(self.latency.ms) else self.latency.ms
        costs = (ms, self.nbytes) if objective == "latency" else (self.nbytes, ms)
        return (*costs, -(self.agreement.estimate or 0.0), self.order)


def deployed_cuts(manifest: Manifest, profile: Profile) -> list[tuple[Cut, int]]:
    """Every deployed cut with the position of its split point, in the network's order.

    At `input` these are the accepted photos and codecs that were measured there, and the usual
    photo where no photo was. A codec with several qualities is a cut where one was measured.
    """
    order = {point.name: i + 1 for i, point in enumerate(manifest.split_points)}
    # A bottleneck stands where its split point does.
    order |= {b.point.name: order[b.of] for b in manifest.bottlenecks if b.of in order}
    others = {*manifest.photos, *IMAGE_CODECS, ON_DEVICE.codec}
    codecs = sorted({*manifest.codings(INPUT)} - others)
    accepted = {Cut.of(INPUT, coding) for coding in (*manifest.photos, PHOTO_FILE, *codecs)}
    measured = {m.cut for m in profile.measurements}
    at_input = measured & accepted
    if not any(cut.is_photo for cut in at_input):
        at_input.add(manifest.usual_photo)
    cuts = [(cut, 0) for cut in sorted(at_input)]
    deployed = {
        manifest.split_point(name).name for name in manifest.deployed if name not in (INPUT, OUTPUT)
    }
    for name in sorted(deployed, key=lambda name: (order[name], name)):
        codecs = sorted({*manifest.codings(name)} - others)
        own = [Cut.of(name, codec) for codec in (*codecs, *manifest.refining(name))]
        cuts += [(cut, order[name]) for cut in own if cut.quality is None or cut in measured]
    return [*cuts, (ON_DEVICE, len(manifest.split_points) + 1)]


def estimate_cuts(
    manifest: Manifest, live: LiveView, mix: Mix, constraints: Constraints, model: LatencyModel
) -> list[CutEstimate]:
    """Every deployed cut with its agreement, bytes, latency and broken limits.

    The profile is that of the latency model.
    """
    profile = model.profile
    deployed = deployed_cuts(manifest, profile)
    agreements: dict[Cut, Agreement] = {}
    for cut, _ in deployed:
        measurement = profile.measurement(cut)
        agreements[cut] = (
            measured_agreement(measurement, profile.class_ids, mix) if measurement else Agreement()
        )
    tolerance = constraints.accuracy_tolerance
    # A photo of low quality tells what the server says to such photos, not to the network's input.
    on_server = [
        cut
        for cut, _ in deployed
        if cut.split_point == INPUT
        and (agreements[cut].estimate is None or agreements[cut].within(tolerance))
    ]
    labels = label_sums(live.outcomes, mix)
    agreements = agreements_with_labels(agreements, labels, mix, tolerance, on_server)
    sizes = {cut: _nbytes(manifest, model, cut) for cut, _ in deployed}
    photos = [cut for cut in sizes if cut.is_photo and agreements[cut].within(tolerance)]
    photo_bytes = min((sizes[cut] for cut in photos), default=math.nan)
    estimates = []
    for cut, order in deployed:
        nbytes = sizes[cut]
        latency = model.latency(cut, nbytes)
        head_macs = _head_macs(manifest, cut.split_point)
        violations, excess = _violations(constraints, nbytes, latency.ms, head_macs)
        estimates.append(
            CutEstimate(
                cut=cut,
                order=order,
                agreement=agreements[cut],
                nbytes=nbytes,
                latency=latency,
                head_macs=head_macs,
                violations=violations,
                excess=excess,
                yardstick=yardstick(profile, cut.split_point, nbytes, photo_bytes),
                round_trips=profile.round_trips(cut),
            )
        )
    return estimates


def _nbytes(manifest: Manifest, model: LatencyModel, cut: Cut) -> float:
    if cut.split_point == OUTPUT:
        return 0.0
    served = model.nbytes(cut)
    if not math.isnan(served):
        return served
    measurement = model.profile.measurement(cut)
    if measurement is not None:
        return float(measurement.nbytes)
    # Neither served nor measured: its size before compression, which it cannot exceed.
    base = cut.codec.partition("+")[0]
    if cut.split_point == INPUT:
        return float(math.prod(manifest.input_shape) * _BYTES_PER_VALUE.get(base, 1))
    values = math.prod(manifest.split_point(cut.split_point).shape)
    return float(values * _BYTES_PER_VALUE.get(base, 4))


def _head_macs(manifest: Manifest, split_point: str) -> int:
    if split_point == INPUT:
        return 0
    if split_point == OUTPUT:
        points = manifest.split_points
        return max((point.macs.head + point.macs.tail for point in points), default=0)
    return manifest.split_point(split_point).macs.head


def _violations(
    limits: Constraints, nbytes: float, ms: float, head_macs: int
) -> tuple[tuple[str, ...], float]:
    words: list[str] = []
    excess = 0.0
    for name, value, limit in (
        ("max_latency_ms", ms, limits.max_latency_ms),
        ("max_bytes", nbytes, limits.max_bytes),
        ("max_head_macs", float(head_macs), limits.max_head_macs),
    ):
        if limit is None or value <= limit:
            continue
        if math.isnan(value):
            words.append(f"{name}: unknown, limit {limit:g}")
            excess += 1.0
        else:
            words.append(f"{name}: {_above(value, limit)}")
            excess += value / limit - 1 if limit > 0 else value
    return tuple(words), excess


def _above(value: float, limit: float) -> str:
    """Value and limit in as many digits as show that the value is larger."""
    if value >= 10_000 and value - limit > 1:
        return f"{value:,.0f}, limit {limit:,.0f}"
    digits = next((n for n in range(4, 17) if f"{value:.{n}g}" != f"{limit:.{n}g}"), 17)
    return f"{value:.{digits}g}, limit {limit:.{digits}g}"
