"""Is one deployed cut proven better than another?

An estimate is not a proof. A proof is a bound on the paired difference that holds at all times
(:mod:`.anytime`).

*Agreement*: the agreement of one class is the profile's, or settled by labels. The live mix of
classes is uncertain, so the bound is on the mean over that mix. *Latency*: the live medians are
uncertain. The difference is taken term by term, so that a link or a slow device that both cuts
share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ..schema import Cut
from .agreement import class_shares
from .anytime import bound_factor
from .cuts import CutEstimate
from .latency import LatencyModel, view_at_bounds
from .live_view import F64, I64, MAX_COUNT, LiveView
from .mix import Mix
from .query import Constraints

ALPHA: Final = 0.05
"""The chance that a standing pick is ever left for one that is not better."""


class Proof(NamedTuple):
    """Whether something is proven, and what the evidence says in words."""

    proven: bool
    words: str


def live_size(live: LiveView) -> float:
    """How many observations the live mix is worth: at least the sum of their weights.

    Where devices are known, it is the effective number of their votes (Kish, 1965).
    """
    counts = live.class_counts
    usable = np.isfinite(counts.weight) & (counts.weight > 0)
    usable &= (counts.count > 0) & (counts.count <= MAX_COUNT)
    if counts.weight2 is not None:
        weight = float(counts.weight[usable].sum())
        weight2 = float(counts.weight2[usable].sum())
        votes = weight / math.sqrt(weight2) if weight2 > 0 and math.isfinite(weight2) else 0.0
        return min(votes**2, float(counts.count[usable].sum()))
    # No observation weighs more than the newest, which weighs 1.
    return float(np.minimum(counts.weight[usable], counts.count[usable]).sum())


@dataclass(frozen=True, eq=False)
class CutEvidence:
    """The deployed cuts and what is uncertain about them.

    Attributes:
        low, high: latency models with every live median at the lower and upper end of its interval.
        mix_size: how many observations the mix rests on; infinite for a mix that is not live.
        half_lives: half-lives of decay since the first look at the evidence.
    """

    estimates: tuple[CutEstimate, ...]
    limits: Constraints
    model: LatencyModel
    low: LatencyModel
    high: LatencyModel
    mix: Mix
    mix_size: float
    half_lives: float

    @classmethod
    def of(
        cls,
        estimates: Sequence[CutEstimate],
        limits: Constraints,
        *,
        model: LatencyModel,
        live: LiveView,
        mix: Mix,
        half_lives: float,
    ) -> CutEvidence:
        """Collect the evidence of a live view."""
        return cls(
            estimates=tuple(estimates),
            limits=limits,
            model=model,
            low=LatencyModel.of(model.profile, view_at_bounds(live, high=False), limits),
            high=LatencyModel.of(model.profile, view_at_bounds(live, high=True), limits),
            mix=mix,
            mix_size=live_size(live) if mix.name == "live" else math.inf,
            half_lives=half_lives,
        )

    def better(self, rival: CutEstimate, incumbent: CutEstimate, gain: float) -> Proof:
        """Is it proven that ``rival`` should be used instead of ``incumbent``?

        ``gain``: the share by which a rival that is as accurate must be faster.
        """
        if all(estimate.agreement.estimate is None for estimate in self.estimates):
            return self.faster(rival, incumbent, gain)
        if incumbent.agreement.estimate is None:
            return Proof(True, "the agreement of the other one was never measured")
        if self.accurate(incumbent) is False:
            more = self.agrees_more(rival, incumbent)
            words = f"the other one is below the accuracy tolerance; this one {more.words}"
            return Proof(more.proven, words)
        if not self.accurate(rival):
            return Proof(False, "not proven to be within the accuracy tolerance")
        speed = self.faster(rival, incumbent, gain)
        if speed.proven or incumbent.agreement.within(self.limits.accuracy_tolerance):
            return speed
        return Proof(False, "the other one is not proven to be below the accuracy tolerance")

    def accurate(self, estimate: CutEstimate) -> bool | None:
        """Is it within the tolerance, whatever the true mix is? ``None`` where that is open."""
        agreement = estimate.agreement
        if agreement.decided is not None or agreement.estimate is None:
            return agreement.decided
        shares = self._shares(estimate.cut, self.mix.class_ids)
        reach = self._reach(shares, self._shares(estimate.cut, self._all_classes))
        wanted = 1 - self.limits.accuracy_tolerance
        share = agreement.estimate
        if agreement.undecided(self.limits.accuracy_tolerance):
            share = max(share, wanted)  # the photos do not say that it is below
        if share - reach >= wanted - 1e-9:
            return True
        return False if share + reach < wanted else None

    def agrees_more(self, rival: CutEstimate, incumbent: CutEstimate) -> Proof:
        """Does it agree with the full network more often, on the classes of the true mix?"""
        if rival.agreement.decided is not None and incumbent.agreement.decided is not None:
            return Proof(rival.agreement.decided > incumbent.agreement.decided, "live labels")
        mix_shares, all_shares = (
            self._shares(rival.cut, ids) - self._shares(incumbent.cut, ids)
            for ids in (self.mix.class_ids, self._all_classes)
        )
        gain = (rival.agreement.estimate or 0.0) - (incumbent.agreement.estimate or 0.0)
        least = gain - self._reach(mix_shares, all_shares)
        words = f"agrees with the full network on {gain:.3g} more of the images"
        return Proof(least > 0, f"{words} ({least:.3g} at least)")

    def faster(self, rival: CutEstimate, incumbent: CutEstimate, gain: float) -> Proof:
        """Is its latency less than 1 - ``gain`` times the incumbent's?"""
        if math.isnan(rival.latency.ms):
            return Proof(False, "its latency is not known")
        if math.isnan(incumbent.latency.ms):
            return Proof(True, "the latency of the other one is not known")
        factors: dict[str, float] = {}
        bounds: dict[str, tuple[float, float]] = {}
        for estimate, sign in ((rival, 1.0), (incumbent, gain - 1)):
            low_terms = self.low.terms(estimate.cut, estimate.nbytes)
            high_terms = self.high.terms(estimate.cut, estimate.nbytes)
            for low, high in zip(low_terms, high_terms, strict=True):
                factors[low.name] = factors.get(low.name, 0.0) + sign * low.factor
                bounds[low.name] = (low.value, high.value)
        worst = math.fsum(f * bounds[name][f > 0] for name, f in factors.items() if f != 0)
        words = f"{incumbent.latency.ms - rival.latency.ms:.3g} ms faster"
        if worst < 0:
            everywhere = "at all ends of the medians' intervals"
            return Proof(True, f"{words}, by more than {gain:.0%} {everywhere}")
        return Proof(False, f"{words}, which is not proven to be more than {gain:.0%}")

    @property
    def _alpha(self) -> float:
        """ALPHA spread over all pairs of cuts, and over each cut against the tolerance."""
        number = len(self.estimates)
        return ALPHA / (number * (number + 1) / 2)

    @property
    def _all_classes(self) -> I64:
        return np.union1d(self.model.profile.class_ids, self.mix.class_ids)

    def _shares(self, cut: Cut, class_ids: I64) -> F64:
        profile = self.model.profile
        return class_shares(profile.measurement(cut), profile.class_ids, class_ids)

    def _reach(self, mix_shares: F64, all_shares: F64) -> float:
        """Half the width of the interval of a mean over the mix.

        One observation is added to the mix, half of it at the class with the highest share and
        half at the one with the lowest. So a few requests of one class do not prove that there are
        no other classes.
        """
        if not math.isfinite(self.mix_size):
            return 0.0
        if self.mix_size <= 0:
            return math.inf
        added = 1 / (self.mix_size + 1)
        values = np.concatenate([mix_shares, [all_shares.min(), all_shares.max()]])
        weights = np.concatenate([self.mix.weights * (1 - added), [added / 2, added / 2]])
        mean = math.fsum(weights * values)
        variance = math.fsum(weights * (values - mean) ** 2)
        scale = float(bound_factor(self.mix_size, self._alpha, half_lives=self.half_lives))
        return scale * math.sqrt(variance / self.mix_size)
