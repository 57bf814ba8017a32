"""Picks in force, and when they change: on proven evidence only, and not too often. Pure: no clock; time is that of the
newest observation.

What a device should use, and where a bottleneck is worth placing, are estimates that move with every observation. What
is in force starts as what the profile says. It is left when the estimate names another pick, the evidence for it is
proven (:mod:`.evidence`: the chance of ever leaving a pick that is not worse is below 5 %, for choices and for places
each), the gain exceeds a minimum, and the dwell time since the last change is over.

The state changes only when a pick does, and settling again on the same contents changes nothing: so it does not matter
who settles, how often, or in how many processes. A new deployment or profile starts afresh.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..errors import StoreError
from ..profile import Profile
from ..schema import Manifest, Pick, Recommendation
from .agreement import Key
from .cuts import CutEstimate, judge
from .evidence import ALPHA, CutEvidence, Importance, Proof
from .live_view import F64, LiveView
from .placement import candidate_points
from .query import Query
from .recommend import Assessment, answer, assess, basis


@dataclass(frozen=True, slots=True)
class Policy:
    """``min_gain``: share by which a rival must be faster, or more important. ``dwell_s``: seconds of traffic between
    two changes. ``frozen``: why no pick may change at all for now."""

    min_gain: float = 0.05
    dwell_s: float = 900.0
    frozen: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in force for one model version and device group. ``origin``: the observation time (epoch seconds) from
    which on evidence counts half-lives; ``basis``: deployment and profile it belongs to; ``number`` of changes."""

    use: Key
    place: str | None
    origin: float
    basis: str
    number: int = 0
    use_since: float | None = None
    place_since: float | None = None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, raw: str) -> Standing:
        """Read what :meth:`to_json` wrote. Raises StoreError."""
        try:
            told = json.loads(raw)
            split_point, codec = told.pop("use")
            return cls(use=(split_point, codec), **told)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(
                f"expected a standing pick, found {type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class Change:
    """One change: ``kind`` "start", "use" or "place"; ``at``: time of the newest observation then. ``evidence``: in
    words; ``observations``: the requests behind the view."""

    number: int
    kind: str
    at: float
    before: str | None
    after: str | None
    evidence: str
    observations: int

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Change:
        """Read what :meth:`to_json` wrote. Raises StoreError."""
        try:
            return cls(**raw)
        except TypeError as error:
            raise StoreError(f"expected a change, found {error}") from error


class Settlement(NamedTuple):
    """The answer, what is in force with it (``None`` without traffic), and the changes that led there."""

    recommendation: Recommendation
    standing: Standing | None
    changes: tuple[Change, ...]


def is_held(query: Query) -> bool:
    """Whether the answer to this question is held: that for the live mix of a group, without classes or limits."""
    return (
        replace(query, group=Query().group, mix=None if query.mix == "live" else query.mix)
        == Query()
    )


def settle(
    manifest: Manifest,
    profile: Profile | None,
    live: LiveView,
    query: Query,
    standing: Standing | None,
    *,
    pairs: tuple[F64, F64],
    half_life_s: float,
    policy: Policy | None = None,
) -> Settlement:
    """Answer a question whose answer is held. ``pairs``: of the store (pooled within-class sums of products and degrees
    of freedom, both (P, P)). Other parameters and errors as of :func:`.recommend.recommend`."""
    policy = policy or Policy()
    seen = assess(manifest, profile, live, query)
    if seen.as_of is None:
        return Settlement(answer(seen), standing, ())
    changes: list[Change] = []
    known_as = basis(manifest, seen.profile)
    if standing is None or standing.basis != known_as:
        standing = _start(seen, known_as, standing)
        after = f"{_name(standing.use)}; {standing.place}"
        what = (
            "the profile"
            if _has_profile(seen.profile)
            else "the traffic so far, for there is no profile"
        )
        changes.append(
            _change(standing, "start", seen, None, after, f"a new deployment; picks of {what}")
        )
    half_lives = max(0.0, (seen.as_of - standing.origin) / half_life_s)
    standing, use = _settle_use(seen, standing, half_lives, policy, changes)
    standing, where = _settle_place(seen, standing, half_lives, policy, changes, pairs)
    picks = (use._replace(changes=standing.number), where._replace(changes=standing.number))
    return Settlement(answer(_held(seen, use, where), picks), standing, tuple(changes))


def _start(seen: Assessment, basis: str, before: Standing | None) -> Standing:
    first = seen
    if _has_profile(seen.profile):
        first = assess(seen.manifest, seen.profile, LiveView.empty(seen.live.group), seen.query)
    use = first.verdict.use
    number = 1 if before is None else before.number + 1
    origin = seen.as_of or 0.0 if before is None else before.origin
    return Standing((use.split_point, use.codec), first.placement.pick, origin, basis, number)


def _settle_use(
    seen: Assessment, standing: Standing, half_lives: float, policy: Policy, changes: list[Change]
) -> tuple[Standing, Pick]:
    by_key = {(o.split_point, o.codec): o for o in seen.options}
    wanted = (seen.verdict.use.split_point, seen.verdict.use.codec)
    now = standing.use
    if wanted != now and seen.as_of is not None:
        wait = _dwell(standing.use_since, seen.as_of, policy)
        if now not in by_key:
            proof = Proof(True, f"{_name(now)} is not deployed any more")
        elif wait:
            proof = Proof(False, wait)
        else:
            choosing = CutEvidence.of(
                seen.options, seen.query.constraints, seen.model, seen.live, seen.mix, half_lives
            )
            proof = prove_choice(choosing, by_key[wanted], by_key[now], policy.min_gain)
        if not proof.proven:
            return standing, Pick(
                "use", _name(now), standing.use_since, standing.number, _name(wanted), proof.words
            )
        standing = replace(standing, use=wanted, use_since=seen.as_of, number=standing.number + 1)
        changes.append(_change(standing, "use", seen, _name(now), _name(wanted), proof.words))
    return standing, Pick("use", _name(standing.use), standing.use_since, standing.number)


def _settle_place(  # noqa: PLR0917
    seen: Assessment,
    standing: Standing,
    half_lives: float,
    policy: Policy,
    changes: list[Change],
    pairs: tuple[F64, F64],
) -> tuple[Standing, Pick]:
    wanted, now = seen.placement.pick, standing.place
    if wanted is not None and wanted != now and seen.as_of is not None:
        wait = _dwell(standing.place_since, seen.as_of, policy)
        if wait:
            proof = Proof(False, wait)
        else:
            importance = Importance.of(seen.profile, seen.live, seen.mix, pairs, half_lives)
            index, _ = candidate_points(seen.profile.split_points, seen.query.candidate_set)
            members = [int(i) for i in index]
            names = [seen.profile.split_points[i].name for i in members]
            proof = prove_place(importance, members, names, wanted, now, policy.min_gain)
        if not proof.proven:
            return standing, Pick(
                "place", now, standing.place_since, standing.number, wanted, proof.words
            )
        standing = replace(
            standing, place=wanted, place_since=seen.as_of, number=standing.number + 1
        )
        changes.append(_change(standing, "place", seen, now, wanted, proof.words))
    return standing, Pick("place", standing.place, standing.place_since, standing.number)


def prove_choice(
    choosing: CutEvidence, rival: CutEstimate, incumbent: CutEstimate, gain: float
) -> Proof:
    """Is it proven that ``rival`` should be used instead of ``incumbent``?"""
    if all(option.agreement.estimate is None for option in choosing.options):
        return choosing.faster(rival, incumbent, gain)
    if incumbent.agreement.estimate is None:
        return Proof(True, "the agreement of the other one was never measured")
    if choosing.accurate(incumbent) is False:
        more = choosing.agrees_more(rival, incumbent)
        return Proof(
            more.proven, f"the other one is below the accuracy tolerance; this one {more.words}"
        )
    if not choosing.accurate(rival):
        return Proof(False, "not proven to be within the accuracy tolerance")
    speed = choosing.faster(rival, incumbent, gain)
    if speed.proven or incumbent.agreement.within(choosing.limits.accuracy_tolerance):
        return speed
    return Proof(False, "that the other one is below the accuracy tolerance is not proven")


def prove_place(  # noqa: PLR0917
    importance: Importance,
    members: Sequence[int],
    names: Sequence[str],
    rival: str,
    incumbent: str | None,
    gain: float,
) -> Proof:
    """Is ``rival`` a proven local maximum, and proven higher than ``incumbent``, or that one proven to be none?

    ``members``: the candidate set's points in execution order, and their ``names``.
    """
    alpha = ALPHA / max(1.0, len(members) * (len(members) - 1) / 2)
    at = names.index(rival)
    for side in (at - 1, at + 1):
        proof = importance.above(members[at], members[side], 0.0, alpha)
        if not proof.proven:
            return Proof(
                False, f"not proven to be higher than its neighbour {names[side]}: {proof.words}"
            )
    if incumbent not in names:
        return Proof(True, "a local maximum, and there was none before")
    now = names.index(incumbent)
    direct = importance.above(members[at], members[now], gain, alpha)
    if direct.proven:
        return direct
    for side in (now - 1, now + 1):
        if 0 <= side < len(members):
            over = importance.above(members[side], members[now], gain, alpha)
            if over.proven:
                return Proof(
                    True,
                    f"{incumbent} is no local maximum: its neighbour {names[side]} is {over.words}",
                )
    return Proof(False, f"{direct.words}: that this is more than {gain:.0%} is not proven")


def _held(seen: Assessment, use: Pick, where: Pick) -> Assessment:
    """What was assessed, with the picks in force in the place of those that are only estimated to be better."""
    if use.rival is not None:
        key = next(
            k for k in ((o.split_point, o.codec) for o in seen.options) if _name(k) == use.pick
        )
        why = f"in force; {use.rival} is estimated to be better, but not proven ({use.reason})"
        seen = replace(seen, verdict=judge(seen.options, seen.query.constraints, key, why))
    if where.pick != seen.placement.pick:
        stays = "no place is in force" if where.pick is None else f"{where.pick} stays in force"
        words = "the rule selects no point now"
        if where.rival is not None:
            words = f"{where.rival} is estimated to be better, but not proven ({where.reason})"
        seen = replace(
            seen,
            placement=replace(
                seen.placement, pick=where.pick, reason=f"bottleneck: {stays}; {words}"
            ),
        )
    return seen


def _change(  # noqa: PLR0917
    standing: Standing,
    kind: str,
    seen: Assessment,
    before: str | None,
    after: str | None,
    evidence: str,
) -> Change:
    return Change(
        standing.number,
        kind,
        seen.as_of or 0.0,
        before,
        after,
        evidence,
        int(seen.live.observations),
    )


def _dwell(since: float | None, now: float, policy: Policy) -> str:
    if policy.frozen:
        return policy.frozen
    if since is None or now - since >= policy.dwell_s:
        return ""
    return f"the last change was {now - since:.0f} s of traffic ago, less than {policy.dwell_s:.0f}"


def _has_profile(profile: Profile) -> bool:
    return bool(profile.measures) or bool(profile.count.sum() > 0)


def _name(key: Key) -> str:
    return f"{key[0]} as {key[1]}"
