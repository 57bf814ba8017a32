"""Is one choice, or one place for a bottleneck, proven better than another? Paired differences with bounds that hold
at all times (:mod:`.anytime`); what is only estimated is not proven.

*Places* are compared on sampled importance: x_rival - g x_incumbent of the same requests, g = 1 + the minimum gain, for
the classes of the live mix. Points of one curve are correlated (0.87 between neighbours of ResNet-50), so the variance
of the difference comes from the pooled within-class covariance, plus what the uncertain mix adds. Split traffic knows
nothing before its cut: where two points were not seen on the same requests, whole curves alone count.

*Choices* are compared on agreement, where only the mix is uncertain (a class's agreement is the profile's, or settled
by labels), and on latency, where the medians are: of the difference, term by term, so that a link or a slow device that
both choices share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..profile import Profile
from .agreement import class_shares
from .anytime import factor
from .cuts import CutEstimate
from .latency import LatencyModel, edge
from .live_view import F64, I64, MOST, ImportanceRows, LiveView, positions
from .mix import Mix
from .query import Constraints

ALPHA: Final = 0.05
"""The chance that a pick is ever left without reason, for places and for choices each."""
MIN_OBSERVATIONS: Final = 100.0
"""Effective observations of importance below which nothing is proven: its values are skewed."""
MIN_COVERED: Final = 0.8
"""Weight of the mix's classes that must have been observed."""
WHOLE_CURVES: Final = ("input", "probe")
"""Sources whose every observation knows all points of the curve."""


class Proof(NamedTuple):
    """Whether something is proven, and what is known about it, in words."""

    proven: bool
    words: str


def live_size(live: LiveView) -> float:
    """How many observations the live mix is worth: at least the sum of weights, where the newest weighs 1."""
    seen = live.class_counts
    good = np.isfinite(seen.weight) & (seen.weight > 0) & (seen.count > 0) & (seen.count <= MOST)
    # No observation weighs more than the newest, which weighs 1.
    return float(np.minimum(seen.weight[good], seen.count[good]).sum())


# ------------------------------------------------------------------------------------------------------ places


@dataclass(frozen=True, eq=False)
class _Sums:
    """Shapes (M, P), one row for each class of the mix; ``devices``: NaN where requests count by themselves."""

    count: F64
    weight: F64
    weight2: F64
    sum1: F64
    devices: F64


@dataclass(frozen=True, eq=False)
class Importance:
    """Sampled importance of a mix, ready to compare points.

    ``pairs``: pooled within-class sums of products and degrees of freedom, both (P, P), of all sources.
    """

    names: tuple[str, ...]
    mean0: F64
    weights: F64
    every: _Sums
    whole: _Sums
    pairs: tuple[F64, F64]
    mix_size: float
    half_lives: float

    @classmethod
    def of(
        cls, profile: Profile, live: LiveView, mix: Mix, pairs: tuple[F64, F64], half_lives: float
    ) -> Importance:
        rows = [part for part in live.importance if part.target == profile.target]
        points = len(profile.mean0)
        every = _sums(rows, mix, points)
        whole = _sums([part for part in rows if part.source in WHOLE_CURVES], mix, points)
        size = live_size(live) if mix.name == "live" else math.inf
        names = tuple(point.name for point in profile.split_points)
        return cls(names, profile.mean0, mix.weights, every, whole, pairs, size, half_lives)

    def above(self, p: int, q: int, gain: float, alpha: float) -> Proof:
        """Is the mean at point ``p`` more than 1 + ``gain`` times that at ``q``? Errs once in 1 / ``alpha``, ever."""
        same = bool((self.every.count[:, p] == self.every.count[:, q]).all())
        sums = self.every if same else self.whole
        within, dof = self.pairs
        known = _usable(sums, p) & _usable(sums, q)
        covered = math.fsum(self.weights[known])
        if covered < MIN_COVERED or not min(dof[p, p], dof[q, q], dof[p, q]) >= MIN_OBSERVATIONS:
            return Proof(False, "too few observations that know both points")
        w = self.weights[known] / covered
        n = (sums.weight[known, p] / np.sqrt(sums.weight2[known, p])) ** 2
        spread = math.fsum(w * w / n)
        if 1 / spread < MIN_OBSERVATIONS:
            return Proof(False, f"{1 / spread:.0f} observations, it takes {MIN_OBSERVATIONS:.0f}")
        # Where devices are known, there are no more independent observations than devices.
        devices = np.fmax.reduce(sums.devices[known][:, [p, q]], axis=None, initial=np.nan)
        clump = max(1.0, 1 / spread / devices) if devices > 0 else 1.0
        size = min(float(sums.weight2[known, p].sum()), float(sums.count[known, p].sum())) / clump
        g = 1 + gain
        with np.errstate(all="ignore"):  # what is out of range is told below
            mean = self.mean0 + sums.sum1[known] / sums.weight[known]
            at_p, at_q = (w * mean[:, p]).sum(), (w * mean[:, q]).sum()
            difference = mean[:, p] - g * mean[:, q]
            total = (w * difference).sum()
            one = (
                within[p, p] / dof[p, p]
                + g * g * within[q, q] / dof[q, q]
                - 2 * g * within[p, q] / dof[p, q]
            )
            mixed = (w * (difference - total) ** 2).sum() / max(self.mix_size, 1.0)
            error = np.sqrt(np.maximum(one, 0.0) * spread * clump + mixed)
            low = total - float(factor(size, alpha, half_lives=self.half_lives)) * error
        if not all(map(np.isfinite, (at_p, at_q, low))):
            return Proof(False, "values out of range")
        times = (
            f"{at_p / at_q:.3g} ({low / at_q + g:.3g} at least) times" if at_q > 0 else "infinitely"
        )
        return Proof(
            bool(low > 0),
            f"{times} as important as {self.names[q]} on {1 / spread:.0f} observations",
        )


def _usable(sums: _Sums, point: int) -> npt.NDArray[np.bool_]:
    """Classes (M,) with observations at a point whose sums can be those of any: (sum w)^2 <= n sum w^2."""
    parts = (sums.count[:, point], sums.weight[:, point], sums.weight2[:, point])
    good: npt.NDArray[np.bool_] = np.all(
        [np.isfinite(x) & (x > 0) & (x <= MOST) for x in parts], axis=0
    )
    return good


def _sums(rows: Sequence[ImportanceRows], mix: Mix, points: int) -> _Sums:
    shape = (len(mix.class_ids), points)
    out = _Sums(
        np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape), np.full(shape, np.nan)
    )
    for part in sorted(rows, key=lambda r: r.source):
        at = positions(np.asarray(part.class_ids, np.int64), mix.class_ids)
        to = np.flatnonzero(at >= 0)
        at = at[to]
        for whole, cell in (
            (out.count, part.count),
            (out.weight, part.weight),
            (out.weight2, part.weight2),
            (out.sum1, part.sum1),
        ):
            with np.errstate(over="ignore"):
                whole[to] += np.where(np.isfinite(cell[at]), cell[at], 0.0)
        if part.devices is not None:
            out.devices[to] = np.fmax(out.devices[to], part.devices[at])
    return out


# ------------------------------------------------------------------------------------------------------ choices


@dataclass(frozen=True, eq=False)
class CutEvidence:
    """The deployed choices with what is uncertain about them."""

    options: tuple[CutEstimate, ...]
    limits: Constraints
    model: LatencyModel
    low: LatencyModel
    high: LatencyModel
    mix: Mix
    mix_size: float
    half_lives: float

    @classmethod
    def of(  # noqa: PLR0917
        cls,
        options: Sequence[CutEstimate],
        limits: Constraints,
        model: LatencyModel,
        live: LiveView,
        mix: Mix,
        half_lives: float,
    ) -> CutEvidence:
        low, high = (
            LatencyModel.of(model.profile, edge(live, side), limits) for side in (False, True)
        )
        size = live_size(live) if mix.name == "live" else math.inf
        return cls(tuple(options), limits, model, low, high, mix, size, half_lives)

    @property
    def alpha(self) -> float:
        """ALPHA over all pairs of choices, and each choice against the tolerance."""
        number = len(self.options)
        return ALPHA / (number * (number + 1) / 2)

    def accurate(self, option: CutEstimate) -> bool | None:
        """Is it within the tolerance, whatever the mix really is? ``None`` where that is open."""
        agreement = option.agreement
        if agreement.decided is not None or agreement.estimate is None:
            return agreement.decided
        reach = self._reach(
            self._shares(option, self.mix.class_ids), self._shares(option, self._every)
        )
        wanted = 1 - self.limits.accuracy_tolerance
        if agreement.estimate - reach >= wanted - 1e-9:
            return True
        return False if agreement.estimate + reach < wanted else None

    def agrees_more(self, rival: CutEstimate, incumbent: CutEstimate) -> Proof:
        """Does it agree with the full network more often, on the classes that are really seen?"""
        if rival.agreement.decided is not None and incumbent.agreement.decided is not None:
            return Proof(rival.agreement.decided > incumbent.agreement.decided, "live labels")
        shares, every = (
            self._shares(rival, ids) - self._shares(incumbent, ids)
            for ids in (self.mix.class_ids, self._every)
        )
        gain = (rival.agreement.estimate or 0.0) - (incumbent.agreement.estimate or 0.0)
        least = gain - self._reach(shares, every)
        return Proof(
            least > 0,
            f"agrees with the full network on {gain:.3g} more of the images ({least:.3g} at least)",
        )

    def faster(self, rival: CutEstimate, incumbent: CutEstimate, gain: float) -> Proof:
        """Is its latency less than 1 - ``gain`` times the incumbent's?"""
        if math.isnan(rival.latency.ms):
            return Proof(False, "its latency is not known")
        if math.isnan(incumbent.latency.ms):
            return Proof(True, "the latency of the other one is not known")
        factors: dict[str, float] = {}
        bounds: dict[str, tuple[float, float]] = {}
        for option, sign in ((rival, 1.0), (incumbent, gain - 1)):
            low, high = (
                m.terms(option.split_point, option.codec, option.nbytes)
                for m in (self.low, self.high)
            )
            for least, most in zip(low, high, strict=True):
                factors[least.name] = factors.get(least.name, 0.0) + sign * least.factor
                bounds[least.name] = (least.value, most.value)
        worst = math.fsum(f * bounds[name][f > 0] for name, f in factors.items() if f != 0)
        by = incumbent.latency.ms - rival.latency.ms
        words = f"{by:.3g} ms faster"
        if worst < 0:
            return Proof(
                True, f"{words}, by more than {gain:.0%} at all ends of the medians' intervals"
            )
        return Proof(False, f"{words}, which is not proven to be more than {gain:.0%}")

    @property
    def _every(self) -> I64:
        return np.union1d(self.model.profile.class_ids, self.mix.class_ids)

    def _shares(self, option: CutEstimate, class_ids: I64) -> F64:
        measure = self.model.profile.measure(option.split_point, option.codec)
        return class_shares(measure, self.model.profile.class_ids, class_ids)

    def _reach(self, shares: F64, every: F64) -> float:
        """Half the interval of the mean of ``shares`` (M,) over the mix, for the class of each request is drawn.

        One observation is added, half of it where the share is highest of ``every`` class and half where it is lowest:
        a few requests of one class do not prove that there are no others.
        """
        if not math.isfinite(self.mix_size):
            return 0.0
        if self.mix_size <= 0:
            return math.inf
        share = 1 / (self.mix_size + 1)
        values = np.concatenate([shares, [every.min(), every.max()]])
        weights = np.concatenate([self.mix.weights * (1 - share), [share / 2, share / 2]])
        mean = math.fsum(weights * values)
        variance = math.fsum(weights * (values - mean) ** 2)
        scale = float(factor(self.mix_size, self.alpha, half_lives=self.half_lives))
        return scale * math.sqrt(variance / self.mix_size)
