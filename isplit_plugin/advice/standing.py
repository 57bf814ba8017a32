"""The standing pick: the cut in force for the live mix, and when it changes.

Estimates move with every observation. The standing pick does not. It starts as the profile's pick,
and it changes when three things hold: the estimate names a rival, the evidence for the rival is
proven (:mod:`.evidence`), and the dwell time since the last change is over. The chance of ever
leaving a pick for one that is not better is below 5 %.

Time is that of the newest observation. Answering again on the same contents changes nothing, so it
does not matter who asks, how often, or in how many processes. A new deployment or profile starts
afresh.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..errors import QueryError, StoreError
from ..profile import Profile
from ..schema import Cut, Manifest, Recommendation, StandingPick
from .assessment import Assessment, assess, compose, deployment_hash
from .evidence import CutEvidence, Proof
from .live_view import LiveView
from .query import Query
from .ranking import rank_cuts


@dataclass(frozen=True, slots=True)
class SwitchingPolicy:
    """When a standing pick may change.

    Attributes:
        min_gain: the share by which a rival must be faster.
        dwell_s: seconds of traffic between two changes.
        frozen: why no pick may change for now; empty where it may.
    """

    min_gain: float = 0.05
    dwell_s: float = 900.0
    frozen: str = ""


@dataclass(frozen=True, slots=True)
class StandingState:
    """What the store keeps of the standing pick of one model version and device group.

    Attributes:
        origin: epoch seconds of the observation from which half-lives of the evidence count.
        deployment: hash of the deployment and profile that the pick belongs to.
        changes: how often the pick changed, its start included.
        since: epoch seconds of the observation that brought the pick in; ``None`` at its start.
    """

    cut: Cut
    origin: float
    deployment: str
    changes: int = 0
    since: float | None = None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({**asdict(self), "cut": str(self.cut)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StandingState:
        """Read what :meth:`to_json` wrote. Raises StoreError."""
        try:
            values = json.loads(text)
            values["cut"] = Cut.parse(values["cut"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError, QueryError) as error:
            raise StoreError(
                f"expected a standing pick, found {type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class PickChange:
    """One change of a standing pick.

    Attributes:
        number: 1 for the first change of this model and group.
        kind: "start" of a deployment, or "switch" on evidence.
        at: epoch seconds of the newest observation then.
        before, after: cuts in text form; ``before`` is ``None`` at a start.
        evidence: what proved the rival better, in words.
        observations: the requests behind the view.
    """

    number: int
    kind: str
    at: float
    before: str | None
    after: str
    evidence: str
    observations: int

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> PickChange:
        """Read what :meth:`to_json` wrote. Raises StoreError."""
        try:
            return cls(**raw)
        except TypeError as error:
            raise StoreError(f"expected a change of a pick, found {error}") from error


class StandingAnswer(NamedTuple):
    """An answer, the state after it (``None`` without traffic), and the changes that led there."""

    recommendation: Recommendation
    state: StandingState | None
    changes: tuple[PickChange, ...]


def has_standing_pick(query: Query) -> bool:
    """Whether the question is about the live mix of a group, and nothing else."""
    plain = Query()
    mix = None if query.mix == "live" else query.mix
    return replace(query, group=plain.group, mix=mix) == plain


def answer_standing(
    manifest: Manifest,
    profile: Profile | None,
    live: LiveView,
    query: Query,
    state: StandingState | None,
    *,
    half_life_s: float,
    policy: SwitchingPolicy | None = None,
) -> StandingAnswer:
    """Answer a question that has a standing pick.

    Parameters:
        state: of the store, ``None`` before the first answer.
        half_life_s: of the store's decay.
        Others, and the errors raised: see :func:`.assessment.recommend`.
    """
    policy = policy or SwitchingPolicy()
    assessment = assess(manifest, profile, live, query)
    now = assessment.as_of
    if now is None:
        return StandingAnswer(compose(assessment), state, ())
    changes: list[PickChange] = []
    deployment = deployment_hash(manifest, assessment.profile)
    if state is None or state.deployment != deployment:
        state, change = _start(assessment, deployment, state, now)
        changes.append(change)
    best = assessment.ranking.use.cut
    pick = StandingPick(state.cut, state.since, state.changes)
    if best != state.cut:
        half_lives = max(0.0, (now - state.origin) / half_life_s)
        proof = _prove(assessment, state, best, half_lives=half_lives, policy=policy, now=now)
        if proof.proven:
            change = PickChange(
                number=state.changes + 1,
                kind="switch",
                at=now,
                before=str(state.cut),
                after=str(best),
                evidence=proof.words,
                observations=int(live.observations),
            )
            changes.append(change)
            state = replace(state, cut=best, since=now, changes=change.number)
            pick = StandingPick(best, now, change.number)
        else:
            pick = StandingPick(state.cut, state.since, state.changes, best, proof.words)
            assessment = _with_standing(assessment, pick)
    return StandingAnswer(compose(assessment, pick), state, tuple(changes))


def _start(
    assessment: Assessment, deployment: str, before: StandingState | None, now: float
) -> tuple[StandingState, PickChange]:
    """The pick for a new deployment: the profile's, or without one that of the traffic so far."""
    first = assessment
    source = "the traffic so far, for there is no profile"
    if _has_measurements(assessment.profile):
        source = "the profile"
        empty = LiveView.empty(assessment.live.group)
        first = assess(assessment.manifest, assessment.profile, empty, assessment.query)
    cut = first.ranking.use.cut
    number = 1 if before is None else before.changes + 1
    origin = now if before is None else before.origin
    change = PickChange(
        number=number,
        kind="start",
        at=now,
        before=None,
        after=str(cut),
        evidence=f"a new deployment; the pick of {source}",
        observations=int(assessment.live.observations),
    )
    return StandingState(cut, origin, deployment, number), change


def _prove(
    assessment: Assessment,
    state: StandingState,
    rival: Cut,
    *,
    half_lives: float,
    policy: SwitchingPolicy,
    now: float,
) -> Proof:
    estimates = {estimate.cut: estimate for estimate in assessment.estimates}
    if state.cut not in estimates:
        return Proof(True, f"{state.cut} is not deployed any more")
    wait = _wait(state.since, now, policy)
    if wait:
        return Proof(False, wait)
    evidence = CutEvidence.of(
        assessment.estimates,
        assessment.query.constraints,
        model=assessment.model,
        live=assessment.live,
        mix=assessment.mix,
        half_lives=half_lives,
    )
    return evidence.better(estimates[rival], estimates[state.cut], policy.min_gain)


def _with_standing(assessment: Assessment, pick: StandingPick) -> Assessment:
    """The assessment with the standing pick in the place of the rival."""
    why = f"in force; {pick.rival} is estimated to be better, but not proven ({pick.reason})"
    limits = assessment.query.constraints
    ranking = rank_cuts(assessment.estimates, limits, pick.cut, why)
    return replace(assessment, ranking=ranking)


def _wait(since: float | None, now: float, policy: SwitchingPolicy) -> str:
    """Why the pick may not change yet, in words; empty where it may."""
    if policy.frozen:
        return policy.frozen
    if since is None or now - since >= policy.dwell_s:
        return ""
    passed = now - since
    return f"the last change was {passed:.0f} s of traffic ago, less than {policy.dwell_s:.0f}"


def _has_measurements(profile: Profile) -> bool:
    return bool(profile.measurements) or bool(profile.count.sum() > 0)
