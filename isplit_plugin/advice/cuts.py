"""What should this device use now: the deployed choices, and the one that wins.

A choice is a deployed (split point, codec) pair; sending the image (`input`) and staying on the device (`output`) are
among them. Never ranked by CUI: accuracy is measured here, not predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..profile import Profile
from ..schema import INPUT, OUTPUT, Manifest, RatedCut
from .agreement import Agreement, Key, labelled, measured, outrank
from .curves import number
from .latency import Latency, LatencyModel
from .live_view import LiveView
from .mix import Mix
from .query import Constraints

IMAGE_CODECS: Final = ("jpeg", "file")
NO_CODEC: Final = "none"
_BYTES_PER_VALUE: Final = {"fp32": 4, "fp16": 2, "uint8": 1}


@dataclass(frozen=True, slots=True)
class CutEstimate:
    """A choice before it is judged. ``order``: its place in the network, from `input` to `output`."""

    split_point: str
    codec: str
    order: int
    agreement: Agreement
    nbytes: float
    latency: Latency
    head_macs: int
    violations: tuple[str, ...]
    excess: float

    def rank(self, objective: str) -> tuple[float, ...]:
        """Smaller is better; what is not known comes last. The first two decide, the rest settles ties."""
        ms = math.inf if math.isnan(self.latency.ms) else self.latency.ms
        first = (ms, self.nbytes) if objective == "latency" else (self.nbytes, ms)
        return (*first, -(self.agreement.estimate or 0.0), self.order)


def pairs(manifest: Manifest, profile: Profile) -> list[tuple[str, str, int]]:
    """Every deployed (split point, codec) with its place, in the network's order; codecs by name.

    At `input` the JPEG, and whatever else was measured there and is accepted; at `output` nothing is sent.
    """
    place = {point.name: i + 1 for i, point in enumerate(manifest.split_points)}
    # A bottleneck stands where its split point does; its measured codecs decide, like any other choice's.
    place |= {
        bottleneck.point.name: place[bottleneck.of]
        for bottleneck in manifest.bottlenecks
        if bottleneck.of in place
    }
    tensors = sorted(set(manifest.codecs) - set(IMAGE_CODECS) - {NO_CODEC})
    at_input = {m.codec for m in profile.measures if m.split_point == INPUT}
    found = [
        (INPUT, codec, 0) for codec in sorted({"jpeg"} | (at_input & {*tensors, *IMAGE_CODECS}))
    ]
    names = {
        manifest.split_point(name).name for name in manifest.deployed if name not in (INPUT, OUTPUT)
    }
    ordered = sorted(names, key=lambda name: (place[name], name))
    found += [(name, codec, place[name]) for name in ordered for codec in tensors]
    return [*found, (OUTPUT, NO_CODEC, len(manifest.split_points) + 1)]


def options(
    manifest: Manifest, live: LiveView, mix: Mix, constraints: Constraints, model: LatencyModel
) -> list[CutEstimate]:
    """Every choice with its agreement, bytes, latency and what it violates; the profile is the latency model's."""
    profile = model.profile
    deployed = pairs(manifest, profile)
    agreements: dict[Key, Agreement] = {}
    for split_point, codec, _ in deployed:
        measure = profile.measure(split_point, codec)
        agreements[split_point, codec] = (
            measured(measure, profile.class_ids, mix) if measure else Agreement()
        )
    whole = [(s, v) for s, v, _ in deployed if s == INPUT]
    agreements = outrank(
        agreements, labelled(live.outcomes, mix), mix, constraints.accuracy_tolerance, whole
    )
    found = []
    for split_point, codec, order in deployed:
        nbytes = _nbytes(manifest, model, split_point, codec)
        latency = model.latency(split_point, codec, nbytes)
        macs = _head_macs(manifest, split_point)
        violations, excess = _violations(constraints, nbytes, latency.ms, macs)
        found.append(
            CutEstimate(
                split_point,
                codec,
                order,
                agreements[split_point, codec],
                nbytes,
                latency,
                macs,
                violations,
                excess,
            )
        )
    return found


def _nbytes(manifest: Manifest, model: LatencyModel, split_point: str, codec: str) -> float:
    if split_point == OUTPUT:
        return 0.0
    served = model.nbytes(split_point, codec)
    if not math.isnan(served):
        return served
    measure = model.profile.measure(split_point, codec)
    if measure is not None:
        return float(measure.nbytes)
    # Never measured: what it is without compression, the most it can be.
    codec = codec.partition("+")[0]
    if split_point == INPUT:
        return float(math.prod(manifest.input_shape) * _BYTES_PER_VALUE.get(codec, 1))
    return float(
        math.prod(manifest.split_point(split_point).shape) * _BYTES_PER_VALUE.get(codec, 4)
    )


def _head_macs(manifest: Manifest, split_point: str) -> int:
    if split_point == INPUT:
        return 0
    if split_point == OUTPUT:
        return max(
            (point.macs.head + point.macs.tail for point in manifest.split_points), default=0
        )
    return manifest.split_point(split_point).macs.head


def _violations(
    limits: Constraints, nbytes: float, ms: float, macs: int
) -> tuple[tuple[str, ...], float]:
    """The broken limits in words, and by how much in all: the sum of (value / limit - 1)."""
    words: list[str] = []
    excess = 0.0
    for name, value, limit in (
        ("max_latency_ms", ms, limits.max_latency_ms),
        ("max_bytes", nbytes, limits.max_bytes),
        ("max_head_macs", float(macs), limits.max_head_macs),
    ):
        if limit is None or value <= limit:
            continue
        if math.isnan(value):
            words.append(f"{name}: unknown, limit {limit:g}")
            excess += 1.0
        else:
            words.append(f"{name}: {value:.4g}, limit {limit:g}")
            excess += value / limit - 1 if limit > 0 else value
    return tuple(words), excess


@dataclass(frozen=True, slots=True)
class CutRanking:
    """The picked choice, all choices best first, and what is to be said about the pick."""

    use: RatedCut
    choices: tuple[RatedCut, ...]
    reason: str


def judge(
    found: Sequence[CutEstimate], limits: Constraints, held: Key | None = None, why: str = ""
) -> CutRanking:
    """Pick: accurate enough, within the limits, then the fastest (or smallest).

    Where no accurate choice meets the limits: the accurate one that violates them least, flagged. Where none is
    accurate enough: the most accurate within the limits, flagged. Where nothing was measured: as if all were accurate.

    ``held``: the choice in force, which stays for the reason ``why``; what is estimated to be better is "unproven".
    """
    pool = [o for o in found if o.agreement.estimate is not None]
    nothing_measured = not pool
    pool = pool or list(found)
    accurate = [
        o for o in pool if nothing_measured or o.agreement.within(limits.accuracy_tolerance)
    ]
    flag = ""
    if any(not o.violations for o in accurate):
        best = min(
            (o for o in accurate if not o.violations), key=lambda o: o.rank(limits.objective)
        )
    elif accurate:
        best = min(accurate, key=lambda o: (o.excess, o.rank(limits.objective)))
        flag = f"no accurate choice meets the constraints; this one violates them least ({'; '.join(best.violations)})"
    else:
        fit = [o for o in pool if not o.violations]
        best = min(
            fit or pool,
            key=lambda o: (
                0.0 if fit else o.excess,
                -(o.agreement.estimate or 0.0),
                o.rank(limits.objective),
            ),
        )
        flag = f"no choice is within the accuracy tolerance of {limits.accuracy_tolerance:g}; this one comes nearest"
        flag += "" if fit else f" and violates the constraints least ({'; '.join(best.violations)})"
    if nothing_measured:
        flag = "; ".join(filter(None, ("accuracy was never measured for any choice", flag)))
    won = "fastest" if limits.objective == "latency" else "smallest"
    reason = (
        flag
        or f"the {won} choice within the accuracy tolerance{' and the constraints' if _limited(limits) else ''}"
    )
    kept = [o for o in found if (o.split_point, o.codec) == held and o is not best]
    ahead: set[Key] = set()
    if kept:
        best, reason = kept[0], why
        mine = _standing(best, limits, nothing_measured)
        ahead = {
            (o.split_point, o.codec) for o in found if _standing(o, limits, nothing_measured) < mine
        }
    use = _choice(best, "picked", reason)
    rest = sorted(
        (o for o in found if o is not best), key=lambda o: _standing(o, limits, nothing_measured)
    )
    name = f"{best.split_point} as {best.codec}"
    others = (
        _choice(o, "unproven", f"estimated to be better than {name}, which is not proven")
        if (o.split_point, o.codec) in ahead
        else _loser(o, best, limits, nothing_measured)
        for o in rest
    )
    return CutRanking(use, (use, *others), reason)


def _limited(limits: Constraints) -> bool:
    return any(
        v is not None for v in (limits.max_latency_ms, limits.max_bytes, limits.max_head_macs)
    )


def _standing(o: CutEstimate, limits: Constraints, nothing_measured: bool) -> tuple[object, ...]:
    accurate = nothing_measured or o.agreement.within(limits.accuracy_tolerance)
    tier = (
        3
        if o.agreement.estimate is None and not nothing_measured
        else 2
        if not accurate
        else 1
        if o.violations
        else 0
    )
    return (tier, o.rank(limits.objective), o.codec)


def _loser(
    o: CutEstimate, best: CutEstimate, limits: Constraints, nothing_measured: bool
) -> RatedCut:
    agreement = o.agreement
    if agreement.estimate is None and not nothing_measured:
        return _choice(o, "unmeasured", "its agreement with the full network was never measured")
    if not nothing_measured and not agreement.within(limits.accuracy_tolerance):
        return _choice(o, "inaccurate", _inaccuracy(agreement, limits.accuracy_tolerance))
    if o.violations:
        return _choice(o, "violates", "violates " + "; ".join(o.violations))
    name = f"{best.split_point} as {best.codec}"
    if limits.objective == "latency":
        if math.isnan(o.latency.ms):
            return _choice(o, "slower", "its latency is not known")
        if o.latency.ms > best.latency.ms:
            by = o.latency.ms - best.latency.ms
            return _choice(o, "slower", f"{by:.3g} ms slower than {name}")
    elif o.nbytes == best.nbytes and o.latency.ms > best.latency.ms:
        return _choice(
            o,
            "slower",
            f"as many bytes as {name}, but {o.latency.ms - best.latency.ms:.3g} ms slower",
        )
    if o.nbytes > best.nbytes:
        return _choice(o, "larger", f"{o.nbytes - best.nbytes:.0f} bytes more than {name}")
    verdict = "slower" if limits.objective == "latency" else "larger"
    return _choice(o, verdict, f"no better than {name}, which is as accurate and comes first")


def _inaccuracy(agreement: Agreement, tolerance: float) -> str:
    wanted = f"below the {1 - tolerance:.4g} that the tolerance asks for"
    share, estimate = agreement.share or 0.0, agreement.estimate or 0.0
    if agreement.decided is not None:
        return f"live labels: {share:.4g} of the full network's accuracy on {agreement.count:.0f} requests, {wanted}"
    if agreement.count <= 0:
        return (
            f"agrees with the full network on {share:.4g} of the images of other classes, {wanted}"
        )
    on = f"agrees with the full network on {share:.4g} of {agreement.count:.0f} images"
    if abs(estimate - share) > 1e-3 and share >= 1 - tolerance:
        return f"{on}, too few: weighed with other classes {estimate:.4g}, {wanted}"
    return f"{on}, {wanted}"


def _choice(o: CutEstimate, verdict: str, reason: str) -> RatedCut:
    a = o.agreement
    return RatedCut(
        split_point=o.split_point,
        codec=o.codec,
        agreement=a.share,
        agreement_low=a.low,
        agreement_high=a.high,
        agreement_count=a.count,
        agreement_source=a.source,
        nbytes=o.nbytes,
        latency_ms=number(o.latency.ms),
        latency_source=o.latency.source,
        head_macs=o.head_macs,
        verdict=verdict,
        reason=reason,
        violations=o.violations,
    )
