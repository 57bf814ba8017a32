"""The recommendation: which cut to use now, and where a bottleneck is worth training.

Pure: equal manifests, profiles, views and queries give equal answers, to the last byte.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..errors import ProfileError, QueryError
from ..profile import Profile
from ..schema import LATEST_S, Manifest, Recommendation, StandingPick
from .curves import Curve, mix_curve, unseen_mean
from .cuts import CutEstimate, estimate_cuts
from .latency import LatencyModel
from .live_view import ALL_GROUPS, F64, WHOLE_CURVES, LiveView
from .memo import once
from .mix import Mix, resolve
from .placement import GLOBAL, Placement, placement_by_cui, placement_by_predictor
from .query import Query
from .ranking import CutRanking, rank_cuts

CUI: Final = "cui"
DEPTH: Final = "depth"
MAX_CURVES: Final = 8
"""Curves of mixes that are kept with a view."""


def bare_profile(manifest: Manifest) -> Profile:
    """The profile of a network that was packaged without one: its split points, and zero means."""
    points = len(manifest.split_points)
    return Profile(
        model=manifest.model,
        network_hash=manifest.network_hash,
        classes=manifest.classes,
        split_points=manifest.split_points,
        preprocessing=manifest.preprocessing,
        target="predicted",
        class_ids=np.zeros(0, np.int64),
        count=np.zeros(0, np.int64),
        mean0=np.zeros(points),
        sum1=np.zeros((0, points)),
        sum2=np.zeros((0, points)),
        comoment=np.zeros((points, points)),
        comoment_dof=0,
        head_ms={},
        tail_ms={},
        measurements=(),
        accuracy=None,
        provenance={},
    )


@dataclass(frozen=True, eq=False)
class Assessment:
    """Everything that a recommendation is made of."""

    manifest: Manifest
    profile: Profile
    live: LiveView
    query: Query
    mix: Mix
    curve: Curve
    model: LatencyModel
    estimates: tuple[CutEstimate, ...]
    ranking: CutRanking
    placement: Placement

    @property
    def as_of(self) -> float | None:
        """Epoch seconds of the newest observation; ``None`` for a time that no clock shows."""
        as_of = self.live.as_of
        return as_of if as_of is not None and 0 <= as_of <= LATEST_S else None


def recommend(
    manifest: Manifest, profile: Profile | None, live: LiveView, query: Query | None = None
) -> Recommendation:
    """Answer a question from the estimates of the moment.

    :func:`.standing.answer_standing` answers the question that has a standing pick.

    Parameters:
        profile: ``None`` for a network that was packaged without one.
        query: by default the live mix, without limits.

    Raises:
        UnknownClassError: a class id that the network does not have.
        ProfileError: the profile belongs to another network.
        StoreError: the view has another number of points than the profile.
        QueryError: the profile has no values of the predictor.
    """
    return compose(assess(manifest, profile, live, query or Query()))


def assess(manifest: Manifest, profile: Profile | None, live: LiveView, query: Query) -> Assessment:
    """Rank all cuts, and the places for a bottleneck. Raises as :func:`recommend`."""
    profile = bare_profile(manifest) if profile is None else profile
    points = len(manifest.split_points)
    if profile.network_hash != manifest.network_hash or len(profile.split_points) != points:
        raise ProfileError(
            f"expected a profile of network {manifest.network_hash} with {points} points, "
            f"got one of {profile.network_hash} with {len(profile.split_points)}"
        )
    mix = resolve(query, profile, live, manifest.classes)
    curve, base = _curves(profile, live, mix)
    model = LatencyModel.of(profile, live, query.constraints)
    estimates = tuple(estimate_cuts(manifest, live, mix, query.constraints, model))
    return Assessment(
        manifest=manifest,
        profile=profile,
        live=live,
        query=query,
        mix=mix,
        curve=curve,
        model=model,
        estimates=estimates,
        ranking=rank_cuts(estimates, query.constraints),
        placement=_placement(profile, curve, base, query),
    )


def _placement(profile: Profile, curve: Curve, base: F64, query: Query) -> Placement:
    max_head_macs = query.constraints.max_head_macs
    if query.predictor == CUI:
        return placement_by_cui(
            profile.split_points,
            curve,
            base=base,
            rule=query.rule,
            candidate_set=query.candidate_set,
            max_head_macs=max_head_macs,
        )
    return placement_by_predictor(
        profile.split_points,
        _predicted(profile, query.predictor),
        predictor=query.predictor,
        candidate_set=query.candidate_set,
        max_head_macs=max_head_macs,
    )


def _curves(profile: Profile, live: LiveView, mix: Mix) -> tuple[Curve, F64]:
    """The mix's curve, and (P,) the value of one from the profile and whole live curves alone."""
    known = _known_curves(live)
    key = (profile, mix.class_ids.tobytes(), mix.weights.tobytes())
    if key not in known:
        curve = mix_curve(profile, live, mix.class_ids, mix.weights)
        whole = tuple(r for r in live.importance if r.source in WHOLE_CURVES)
        if whole == live.importance:
            base = curve.value
        elif whole or mix.class_ids.max(initial=-1) >= len(profile.classes):
            base = mix_curve(
                profile, replace(live, importance=whole), mix.class_ids, mix.weights
            ).value
        else:
            base = unseen_mean(profile, mix.class_ids, mix.weights)
        known[key] = curve, base
        if len(known) > MAX_CURVES:
            del known[next(iter(known))]
    return known[key]


@once
def _known_curves(_: LiveView) -> dict[tuple[Profile, bytes, bytes], tuple[Curve, F64]]:
    return {}


def compose(assessment: Assessment, standing: StandingPick | None = None) -> Recommendation:
    """The answer to a question. ``standing`` is the pick in force, if the question has one."""
    manifest, query, mix = assessment.manifest, assessment.query, assessment.mix
    ranking, placement = assessment.ranking, assessment.placement
    points = assessment.curve.points(assessment.profile)
    observations = max(0, int(assessment.live.observations))
    sources = {point.source for point in points}
    sources |= {_plain(ranking.use.latency_source), _plain(ranking.use.agreement_source)}
    sources.add("live" if mix.name == "live" else "profile")
    return Recommendation(
        model=manifest.model,
        version=manifest.version,
        network_hash=manifest.network_hash,
        revision=_revision(assessment),
        as_of=assessment.as_of,
        source=next(iter(sources)) if len(sources) == 1 else "mixed",
        mix=mix.name,
        group=query.group,
        classes=mix.shares(manifest.classes),
        use=ranking.use,
        cuts=ranking.cuts,
        rule=query.rule if query.predictor == CUI else GLOBAL,
        candidate_set=placement.candidate_set,
        predictor=query.predictor,
        best_candidate=placement.best_candidate,
        candidates=placement.candidates,
        curve=points,
        confidence=ranking.use.agreement_low or 0.0,
        observations=observations,
        reason="; ".join((*_statements(assessment, observations), placement.reason)),
        standing=standing,
    )


def _predicted(profile: Profile, predictor: str) -> F64:
    """A predictor's values, shape (P,), larger is better. Raises QueryError if it is unknown."""
    if predictor == DEPTH:
        return np.arange(len(profile.split_points), dtype=np.float64)
    if predictor not in profile.predictions:
        known = ", ".join((CUI, DEPTH, *sorted(profile.predictions)))
        raise QueryError(
            f"predictor: expected one of {known}, got {predictor!r}", field="predictor"
        )
    return np.asarray(profile.predictions[predictor], dtype=np.float64)


def _plain(source: str) -> str:
    return source if source == "mixed" else "live" if source.startswith("live") else "profile"


def _statements(assessment: Assessment, observations: int) -> list[str]:
    """What the recommendation rests on, in words."""
    query, ranking, model = assessment.query, assessment.ranking, assessment.model
    group = "" if query.group == ALL_GROUPS else f" from group {query.group}"
    traffic = f"{observations} live requests{group}"
    if not observations:
        traffic = f"profile only: no traffic yet{group}"
    speed = {
        "assumed": "the device is assumed to be as fast as the machine that made the profile",
        "asked": (
            f"the device is assumed to be {model.slowdown:.3g} times slower than the machine that "
            "made the profile"
        ),
        "live": f"devices report {model.slowdown:.3g} times the head times of the profile",
    }[model.slowdown_source]
    use = f"use {ranking.use.cut}: {ranking.reason}"
    link = f"link {model.link.words()}"
    if model.queue_ms > 0:
        link += f", {model.queue_ms:.3g} ms in the server's queue (live)"
    statements = [traffic, assessment.mix.note, use, link, speed]
    return [statement for statement in statements if statement]


def _revision(assessment: Assessment) -> str:
    """The revision of the store, and a hash of the question."""
    manifest = assessment.manifest
    question = [manifest.model, manifest.version, assessment.query.to_json()]
    hashed = _hash(json.dumps(question, sort_keys=True).encode())
    revision = assessment.live.revision
    return f"{revision}-{hashed}" if revision else hashed


def deployment_hash(manifest: Manifest, profile: Profile) -> str:
    """16 hexadecimal digits that change with network, deployment and profile."""
    deployment = [
        manifest.network_hash,
        manifest.model,
        manifest.version,
        manifest.deployed,
        manifest.codecs,
        manifest.transforms,
        manifest.classes,
    ]
    return _hash(json.dumps(deployment).encode(), _profile_bytes(profile))


@once
def _profile_bytes(profile: Profile) -> bytes:
    return hashlib.blake2b(profile.to_bytes()).digest()


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
