"""Which deployed cut to use now, and why the others lost.

Accurate enough first, then within the limits, then the fastest (or the smallest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from ..schema import Cut, RatedCut
from .agreement import PARTLY_OTHER, Agreement
from .curves import number
from .cuts import CutEstimate
from .query import Constraints


@dataclass(frozen=True, slots=True)
class CutRanking:
    """The cut to use, all cuts best first, and the reason for the pick."""

    use: RatedCut
    cuts: tuple[RatedCut, ...]
    reason: str


class Tier(IntEnum):
    """How far a cut got. Cuts of a lower tier rank first."""

    GOOD = 0
    VIOLATES = 1
    INACCURATE = 2
    UNMEASURED = 3


def rank_cuts(
    estimates: Sequence[CutEstimate],
    limits: Constraints,
    standing: Cut | None = None,
    why_standing: str = "",
) -> CutRanking:
    """Pick a cut and rate the others.

    If no accurate cut meets the limits, the accurate one that violates them least is picked. If
    none is accurate enough, the most accurate within the limits is. If none was measured, all count
    as accurate. The reason says so.

    Parameters:
        standing: the cut in force, which stays the pick for the reason ``why_standing``. Cuts that
            are estimated to be better are rated "unproven".
    """
    judge = _Judge(limits, any(e.agreement.estimate is not None for e in estimates))
    best, reason = judge.pick(estimates)
    unproven: set[Cut] = set()
    in_force = next((e for e in estimates if e.cut == standing and e is not best), None)
    if in_force is not None:
        best, reason = in_force, why_standing
        rank = judge.sort_key(best)
        unproven = {e.cut for e in estimates if judge.sort_key(e) < rank}
    use = judge.rated(best, "picked", reason)
    losers = sorted((e for e in estimates if e is not best), key=judge.sort_key)
    others = (
        judge.rated(e, "unproven", f"estimated to be better than {best.cut}, which is not proven")
        if e.cut in unproven
        else judge.rate_loser(e, best)
        for e in losers
    )
    return CutRanking(use, (use, *others), reason)


@dataclass(frozen=True, slots=True)
class _Judge:
    """The rules of one question. ``measured``: whether the accuracy of any cut is known."""

    limits: Constraints
    measured: bool

    def tier(self, estimate: CutEstimate) -> Tier:
        if self.measured:
            if estimate.agreement.estimate is None:
                return Tier.UNMEASURED
            if not estimate.agreement.within(self.limits.accuracy_tolerance):
                return Tier.INACCURATE
        return Tier.VIOLATES if estimate.violations else Tier.GOOD

    def sort_key(self, estimate: CutEstimate) -> tuple[object, ...]:
        return (self.tier(estimate), estimate.rank(self.limits.objective), estimate.cut.coding)

    def pick(self, estimates: Sequence[CutEstimate]) -> tuple[CutEstimate, str]:
        """The best cut, and the reason in words."""
        tiers: dict[Tier, list[CutEstimate]] = {tier: [] for tier in Tier}
        for estimate in estimates:
            tiers[self.tier(estimate)].append(estimate)
        objective = self.limits.objective
        flag = ""
        if tiers[Tier.GOOD]:
            best = min(tiers[Tier.GOOD], key=lambda e: e.rank(objective))
        elif tiers[Tier.VIOLATES]:
            best = min(tiers[Tier.VIOLATES], key=lambda e: (e.excess, e.rank(objective)))
            flag = (
                "no accurate cut meets the constraints; this one violates them least "
                f"({'; '.join(best.violations)})"
            )
        else:
            best, flag = self._most_accurate(tiers[Tier.INACCURATE])
        if not self.measured:
            flag = "; ".join(filter(None, ("accuracy was never measured for any cut", flag)))
        return best, (flag or self._plain_reason()) + self._doubt(best)

    def _most_accurate(self, estimates: Sequence[CutEstimate]) -> tuple[CutEstimate, str]:
        allowed = [e for e in estimates if not e.violations]

        def key(estimate: CutEstimate) -> tuple[float, float, tuple[float, ...]]:
            excess = 0.0 if allowed else estimate.excess
            accuracy = estimate.agreement.estimate or 0.0
            return excess, -accuracy, estimate.rank(self.limits.objective)

        best = min(allowed or estimates, key=key)
        tolerance = self.limits.accuracy_tolerance
        flag = f"no cut is within the accuracy tolerance of {tolerance:g}; this one comes nearest"
        if not allowed:
            flag += f" and violates the constraints least ({'; '.join(best.violations)})"
        return best, flag

    def _plain_reason(self) -> str:
        best = "fastest" if self.limits.objective == "latency" else "smallest"
        limits = (self.limits.max_latency_ms, self.limits.max_bytes, self.limits.max_head_macs)
        limited = any(limit is not None for limit in limits)
        also = " and the constraints" if limited else ""
        return f"the {best} cut within the accuracy tolerance{also}"

    def _doubt(self, best: CutEstimate) -> str:
        """That the photos cannot tell whether the pick is within the tolerance, if so."""
        doubt = _doubt(best.agreement, self.limits.accuracy_tolerance)
        return f", as far as the photos can tell: it {doubt}" if doubt else ""

    def rate_loser(self, estimate: CutEstimate, best: CutEstimate) -> RatedCut:
        """The verdict on a cut that is not used."""
        rated = self._rate(estimate, best)
        doubt = _doubt(estimate.agreement, self.limits.accuracy_tolerance)
        return replace(rated, reason=f"{rated.reason}; {doubt}") if doubt else rated

    def _rate(self, estimate: CutEstimate, best: CutEstimate) -> RatedCut:
        tier = self.tier(estimate)
        if tier is Tier.UNMEASURED:
            reason = "its agreement with the full network was never measured"
            return self.rated(estimate, "unmeasured", reason)
        if tier is Tier.INACCURATE:
            reason = _inaccuracy(estimate.agreement, self.limits.accuracy_tolerance)
            return self.rated(estimate, "inaccurate", reason)
        if tier is Tier.VIOLATES:
            reason = "violates " + "; ".join(estimate.violations)
            return self.rated(estimate, "violates", reason)
        return self._rate_costs(estimate, best)

    def _rate_costs(self, estimate: CutEstimate, best: CutEstimate) -> RatedCut:
        by_latency = self.limits.objective == "latency"
        later_ms = estimate.latency.ms - best.latency.ms
        more_bytes = estimate.nbytes - best.nbytes
        if by_latency and math.isnan(estimate.latency.ms):
            return self.rated(estimate, "slower", "its latency is not known")
        if by_latency and later_ms > 0:
            return self.rated(estimate, "slower", f"{later_ms:.3g} ms slower than {best.cut}")
        if not by_latency and more_bytes == 0 and later_ms > 0:
            reason = f"as many bytes as {best.cut}, but {later_ms:.3g} ms slower"
            return self.rated(estimate, "slower", reason)
        if more_bytes > 0:
            return self.rated(estimate, "larger", f"{more_bytes:.0f} bytes more than {best.cut}")
        verdict = "slower" if by_latency else "larger"
        reason = f"no better than {best.cut}, which is as accurate and comes first"
        return self.rated(estimate, verdict, reason)

    def rated(self, estimate: CutEstimate, verdict: str, reason: str) -> RatedCut:
        """A cut with the verdict on it."""
        return _rated(estimate, verdict, reason, self.limits.accuracy_tolerance)


def _doubt(agreement: Agreement, tolerance: float) -> str:
    """That the photos cannot tell whether a cut is within the tolerance; empty where they can."""
    photos_needed = agreement.photos_needed(tolerance)
    if photos_needed is None:
        return ""
    photos, misses = agreement.sample
    counted = f"{misses:.0f} of {photos:.0f} photos"
    if abs(misses - round(misses)) > 1e-6:  # a mix weighs photos by their classes
        counted = f"about {misses / photos:.1%} of photos that weigh as much as {photos:.0f}"
    return f"differs on {counted}, too few to tell; about {photos_needed:,} would"


def _inaccuracy(agreement: Agreement, tolerance: float) -> str:
    wanted = f"below the {1 - tolerance:.4g} that the tolerance asks for"
    share = agreement.share or 0.0
    estimate = agreement.estimate or 0.0
    if agreement.decided is not None:
        return (
            f"live labels: {share:.4g} of the full network's accuracy on "
            f"{agreement.count:.0f} requests, {wanted}"
        )
    if agreement.count <= 0:
        return f"agrees with the full network on {share:.4g} of images of other classes, {wanted}"
    if agreement.source == PARTLY_OTHER:
        return (
            f"agrees with the full network on {share:.4g} of images, few of them of these classes "
            f"(they count as {agreement.count:.0f}), {wanted}"
        )
    on = f"agrees with the full network on {share:.4g} of {agreement.count:.0f} images"
    if abs(estimate - share) > 1e-3 and share >= 1 - tolerance:
        return f"{on}, too few: weighed with other classes {estimate:.4g}, {wanted}"
    return f"{on}, {wanted}"


def _rated(estimate: CutEstimate, verdict: str, reason: str, tolerance: float) -> RatedCut:
    agreement = estimate.agreement
    return RatedCut(
        cut=estimate.cut,
        agreement=agreement.share,
        agreement_low=agreement.low,
        agreement_high=agreement.high,
        agreement_count=agreement.count,
        agreement_source=agreement.source,
        nbytes=estimate.nbytes,
        latency_ms=number(estimate.latency.ms),
        latency_source=estimate.latency.source,
        device_ms=estimate.latency.device_ms,
        server_ms=estimate.latency.server_ms,
        head_macs=estimate.head_macs,
        verdict=verdict,
        reason=reason,
        violations=estimate.violations,
        undecided=agreement.undecided(tolerance),
        photos_needed=agreement.photos_needed(tolerance),
        byte_ratio=number(estimate.yardstick.byte_ratio),
        tail_share=number(estimate.yardstick.tail_share),
        round_trips=estimate.round_trips,
    )
