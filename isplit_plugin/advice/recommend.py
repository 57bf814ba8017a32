"""The recommendation: both questions answered, with everything they rest on.

Pure: the same manifest, profile, view and query give the same answer, to the last byte.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

import numpy as np

from ..errors import ProfileError, QueryError
from ..profile import Profile
from ..schema import Manifest, Pick, Recommendation
from .curves import Curve, mix_curve, unseen_mean
from .cuts import CutEstimate, CutRanking, judge, options
from .evidence import WHOLE_CURVES
from .latency import LatencyModel
from .live_view import F64, LiveView
from .memo import once
from .mix import Mix, resolve
from .placement import GLOBAL, Placement, place, place_by
from .query import Query

CUI: Final = "cui"
DEPTH: Final = "depth"
MAX_CURVES: Final = 8
"""Curves of mixes that are kept with a view."""


def bare_profile(manifest: Manifest) -> Profile:
    """What is known of a network that was packaged without a profile: its shape alone. Its shift is zero."""
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
        measures=(),
        accuracy=None,
        provenance={},
    )


@dataclass(frozen=True, eq=False)
class Assessment:
    """Everything a recommendation is made of, before any pick is held."""

    manifest: Manifest
    profile: Profile
    live: LiveView
    query: Query
    mix: Mix
    curve: Curve
    model: LatencyModel
    options: tuple[CutEstimate, ...]
    verdict: CutRanking
    placement: Placement

    @property
    def as_of(self) -> float | None:
        """Epoch seconds of the newest observation."""
        as_of = self.live.as_of
        return as_of if as_of is not None and math.isfinite(as_of) else None


def recommend(
    manifest: Manifest, profile: Profile | None, live: LiveView, query: Query | None = None
) -> Recommendation:
    """Answer ``query`` (default: the live mix, no limits) for one model. ``profile``: ``None`` where it has none.

    Estimates alone decide; :func:`.switching.settle` holds on to what is in force until the evidence is against it.
    Raises UnknownClassError for a class id that the network does not have, ProfileError where the profile is of
    another network, StoreError where the view has another number of points than the profile.
    """
    return answer(assess(manifest, profile, live, query or Query()))


def assess(manifest: Manifest, profile: Profile | None, live: LiveView, query: Query) -> Assessment:
    """Work out choices and places. Parameters and errors as of :func:`recommend`."""
    profile = bare_profile(manifest) if profile is None else profile
    if profile.network_hash != manifest.network_hash or len(profile.split_points) != len(
        manifest.split_points
    ):
        raise ProfileError(
            f"expected a profile of network {manifest.network_hash} with {len(manifest.split_points)} points, "
            f"got one of {profile.network_hash} with {len(profile.split_points)}"
        )
    mix = resolve(query, profile, live, manifest.classes)
    curve, base = _curves(profile, live, mix)
    limits = query.constraints
    model = LatencyModel.of(profile, live, limits)
    found = tuple(options(manifest, live, mix, limits, model))
    if query.predictor == CUI:
        placement = place(
            profile.split_points,
            curve,
            base=base,
            rule=query.rule,
            candidate_set=query.candidate_set,
            max_head_macs=limits.max_head_macs,
        )
    else:
        placement = place_by(
            profile.split_points,
            _predicted(profile, query.predictor),
            predictor=query.predictor,
            candidate_set=query.candidate_set,
            max_head_macs=limits.max_head_macs,
        )
    verdict = judge(found, limits)
    return Assessment(manifest, profile, live, query, mix, curve, model, found, verdict, placement)


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


def answer(seen: Assessment, standing: tuple[Pick, ...] = ()) -> Recommendation:
    """The recommendation in words and numbers. ``standing``: the picks that are in force."""
    manifest, profile, live, query, mix = (
        seen.manifest,
        seen.profile,
        seen.live,
        seen.query,
        seen.mix,
    )
    verdict, placement = seen.verdict, seen.placement
    points = seen.curve.points(profile)
    observations = max(0, int(live.observations))
    sources = {p.source for p in points} | {
        _plain(verdict.use.latency_source),
        _plain(verdict.use.agreement_source),
    }
    sources.add("live" if mix.name == "live" else "profile")
    return Recommendation(
        model=manifest.model,
        version=manifest.version,
        network_hash=manifest.network_hash,
        revision=revision(manifest, profile, live, query, standing),
        as_of=seen.as_of,
        source="profile" if sources == {"profile"} else "live" if sources == {"live"} else "mixed",
        mix=mix.name,
        group=query.group,
        classes=mix.shares(manifest.classes),
        use=verdict.use,
        choices=verdict.choices,
        rule=query.rule if query.predictor == CUI else GLOBAL,
        candidate_set=placement.candidate_set,
        predictor=query.predictor,
        pick=placement.pick,
        candidates=placement.candidates,
        curve=points,
        confidence=verdict.use.agreement_low or 0.0,
        observations=observations,
        reason=_statement(query, observations, mix.note, verdict, seen.model)
        + f"; {placement.reason}",
        standing=standing,
    )


def _predicted(profile: Profile, predictor: str) -> F64:
    """(P,): a predictor's values, larger is better. Raises QueryError for one that this profile does not hold."""
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


def _statement(
    query: Query, observations: int, note: str, verdict: CutRanking, model: LatencyModel
) -> str:
    group = "" if query.group == "all" else f" from group {query.group}"
    first = (
        f"{observations} live requests{group}"
        if observations
        else f"profile only: no traffic yet{group}"
    )
    use = f"use {verdict.use.split_point} as {verdict.use.codec}: {verdict.reason}"
    speed = {
        "assumed": "the device is taken to be as fast as the machine that made the profile",
        "asked": f"the device is taken to be {model.slowdown:.3g} times slower than the machine that made the profile",
        "live": f"devices report {model.slowdown:.3g} times the head times of the profile",
    }[model.slowdown_source]
    return "; ".join(filter(None, (first, note, use, f"link {model.link.words()}", speed)))


def revision(
    manifest: Manifest,
    profile: Profile,
    live: LiveView,
    query: Query,
    standing: tuple[Pick, ...] = (),
) -> str:
    """16 hexadecimal digits over network, deployment, profile, the view's contents, the question and what is in force.

    From contents and not from ``live.revision``, so that two stores which hold the same give the same.
    """
    digest = hashlib.blake2b(digest_size=8)
    _json(digest, [manifest.network_hash, manifest.model, manifest.version, query.to_json()])
    if standing:
        _json(digest, [pick._asdict() for pick in standing])
    digest.update(_of_deployment(*_deployment(manifest)))
    digest.update(_of_profile(profile))
    digest.update(_of_live(live))
    return digest.hexdigest()


def basis(manifest: Manifest, profile: Profile) -> str:
    """16 hexadecimal digits over network, deployment and profile: what picks in force belong to."""
    key = (manifest.network_hash, manifest.model, manifest.version, *_deployment(manifest))
    known = _bases(profile)
    if key not in known:
        digest = hashlib.blake2b(digest_size=8)
        _json(digest, [manifest.network_hash, manifest.model, manifest.version, Query().to_json()])
        _feed_deployment(digest, *_deployment(manifest))
        _feed_profile(digest, profile)
        _feed_live(digest, LiveView.empty())
        known[key] = digest.hexdigest()
    return known[key]


@once
def _bases(_: Profile) -> dict[tuple[object, ...], str]:
    return {}


_Names = tuple[str, ...]


def _deployment(manifest: Manifest) -> tuple[_Names, _Names, _Names]:
    return tuple(manifest.deployed), tuple(manifest.codecs), tuple(manifest.classes)


@lru_cache(maxsize=16)
def _of_deployment(deployed: _Names, codecs: _Names, classes: _Names) -> bytes:
    digest = hashlib.blake2b()
    _feed_deployment(digest, deployed, codecs, classes)
    return digest.digest()


@once
def _of_profile(profile: Profile) -> bytes:
    digest = hashlib.blake2b()
    _feed_profile(digest, profile)
    return digest.digest()


@once
def _of_live(live: LiveView) -> bytes:
    digest = hashlib.sha256()  # processors have instructions for it, and a view is megabytes
    _feed_live(digest, live)
    return digest.digest()


def _feed_deployment(digest: Any, deployed: _Names, codecs: _Names, classes: _Names) -> None:
    _json(digest, [list(deployed), list(codecs), list(classes)])


def _feed_profile(digest: Any, profile: Profile) -> None:
    _json(digest, [dict(profile.head_ms), dict(profile.tail_ms), profile.target])
    _json(digest, {name: list(values) for name, values in profile.predictions.items()})
    for array in (profile.class_ids, profile.count, profile.mean0, profile.sum1, profile.sum2):
        _array(digest, array)
    for measure in sorted(profile.measures, key=lambda m: (m.split_point, m.codec)):
        _json(
            digest,
            [
                measure.split_point,
                measure.codec,
                measure.nbytes,
                measure.encode_ms,
                measure.decode_ms,
            ],
        )
        _array(digest, measure.seen)
        _array(digest, measure.agree)


def _feed_live(digest: Any, live: LiveView) -> None:
    _json(digest, [live.as_of, live.observations])
    for part in sorted(live.importance, key=lambda r: (r.source, r.target)):
        order = np.argsort(part.class_ids, kind="stable")
        _json(digest, [part.source, part.target])
        for array in (part.class_ids, part.count, part.weight, part.weight2, part.sum1, part.sum2):
            _array(digest, np.asarray(array)[order])
    _json(digest, sorted(repr(r) for r in live.served))
    served, codecs, *numbers = (
        zip(*sorted(live.outcomes), strict=True) if live.outcomes else ((),) * 6
    )
    _json(
        digest,
        [(place, len(list(some))) for place, some in groupby(zip(served, codecs, strict=True))],
    )
    for column in numbers:
        _array(digest, np.array(column, np.float64))
    order = np.argsort(live.class_counts.class_ids, kind="stable")
    for array in (live.class_counts.class_ids, live.class_counts.weight, live.class_counts.count):
        _array(digest, np.asarray(array)[order])


def _json(digest: Any, value: Any) -> None:
    digest.update(json.dumps(value, sort_keys=True).encode())
    digest.update(b"\0")


def _array(digest: Any, array: Any) -> None:
    array = np.ascontiguousarray(array)
    _json(digest, [str(array.dtype), list(array.shape)])
    digest.update(array.reshape(-1))
