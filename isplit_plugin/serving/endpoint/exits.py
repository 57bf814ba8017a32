"""Answers about exits: their state class by class, and their bytes for devices."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ...advice import LiveView, Times
from ...errors import ExitError, QueryError, StoreError, UnknownNameError
from ...exits import (
    LEAST_ANSWERS,
    MIN_VERSION,
    NONE,
    ExitRelease,
    ShadowCounts,
    chance_interval,
    missing,
    read_private_key,
    unsigned,
    version_alpha,
)
from ...schema import Cut, CutExit, Manifest
from ...traffic import (
    ExitClass,
    ExitKeeper,
    ExitPolicy,
    ExitState,
    ExitStore,
    ExitVersion,
    shadow_counts,
)
from ..settings import EndpointSettings

_DAY_S: Final = 86_400.0
_MAX_BARE: Final = 1000
"""Classes of sums without an exit that one answer lists."""


def policy_of(settings: EndpointSettings) -> ExitPolicy:
    """When exits are made and released, by the settings. Devices count where they have tokens."""
    exits = settings.exits
    return ExitPolicy(
        min_photos=exits.min_photos,
        min_devices=0 if settings.secret_file is None else exits.min_devices,
        tolerance=exits.tolerance,
        promise=exits.promise,
        alpha=exits.alpha,
        lifetime_s=exits.days * _DAY_S,
        contact_s=exits.contact_s,
    )


def start_keeper(settings: EndpointSettings) -> ExitKeeper | None:
    """The keeper of exits, in a thread; ``None`` without a key. Raises SecretError."""
    if settings.exit_key_file is None:
        return None
    key = read_private_key(settings.exit_key_file)
    keeper = ExitKeeper(settings.store, key, policy_of(settings), check_s=settings.exits.check_s)
    keeper.start()
    return keeper


def read_exit(
    exits: ExitStore, manifest: Manifest, exit_hash: str, *, content: bool
) -> dict[str, Any]:
    """A version that is alive: its release and, with ``content``, itself, both signed, in base64.

    Without ``content`` also one that has ended: its last release, which allows nothing, and after
    which devices take no earlier one.

    Raises QueryError for too few digits of the hash, UnknownNameError for a version that there is
    not.
    """
    if len(exit_hash) < MIN_VERSION:
        raise QueryError(
            f"hash: expected at least {MIN_VERSION} digits of an exit's version, got "
            f"{len(exit_hash)}",
            field="hash",
        )
    now = exits.now()
    versions = exits.versions(manifest.network_hash)
    served = [v for v in versions if v.is_alive(now) or (v.ended and not content)]
    for version in served:
        if version.exit.startswith(exit_hash):
            answer = {**_about(manifest), "version_of_exit": version.exit}
            answer["release"] = base64.b64encode(version.release).decode()
            if content:
                signed = exits.content(manifest.network_hash, version.exit) or b""
                answer["exit"] = base64.b64encode(signed).decode()
            return answer
    raise UnknownNameError.of(exit_hash, [version.exit for version in served])


def cut_exits(exits: ExitStore, network_hash: str) -> tuple[CutExit, ...]:
    """The exits of a network that are alive. None where the store cannot say."""
    try:
        with exits.apart():
            versions = exits.versions(network_hash)
            now = exits.now() if versions else 0.0
            return tuple(
                CutExit(
                    version.cut,
                    version.exit,
                    version.number,
                    version.expires,
                    _share(exits, version),
                )
                for version in sorted(versions, key=lambda v: v.cut)
                if version.is_alive(now)
            )
    except StoreError:
        return ()


def _share(exits: ExitStore, version: ExitVersion) -> float:
    """The released share of a version; 0 where its state is damaged."""
    counts = exits.counts(version.network, version.exit)
    try:
        return ExitState.from_json(version.state).share(shadow_counts(counts))
    except StoreError:
        return 0.0


def list_exits(
    exits: ExitStore, manifest: Manifest, live: LiveView, policy: ExitPolicy, *, signing: bool
) -> dict[str, Any]:
    """The exits of a network by cut, the newest version first, and the classes of each.

    A version whose row is damaged is listed as that, and ends no other.

    ``signing``: whether this endpoint has a key, and so makes exits.
    """
    network = manifest.network_hash
    now = exits.now()
    by_cut: dict[Cut, list[ExitVersion]] = {}
    for version in exits.versions(network):
        by_cut.setdefault(version.cut, []).append(version)
    photos = {cut: number for (name, cut), number in exits.photos().items() if name == network}
    rows = []
    for cut in sorted({*by_cut, *photos}):
        sent = _sent_request(live, cut)
        rows.append(
            {
                "cut": str(cut),
                "photos": photos.get(cut, 0),
                "sent_bytes": sent.nbytes,
                "sent_ms": sent.ms,
                "evidence": _evidence(exits, manifest, cut, policy),
                "versions": [
                    _version_or_damage(exits, manifest, version, policy, sent, now)
                    for version in by_cut.get(cut, ())
                ],
            }
        )
    return {
        **_about(manifest),
        "signing": signing,
        "tolerance": policy.tolerance,
        "alpha": policy.alpha,
        "promise": policy.promise,
        "exits": rows,
    }


def _evidence(
    exits: ExitStore, manifest: Manifest, cut: Cut, policy: ExitPolicy
) -> list[dict[str, Any]]:
    """What is behind each class of a cut, and what is missing before an exit names it.

    Empty where that is damaged.
    """
    try:
        classes = exits.classes(manifest.network_hash, cut)
    except StoreError as error:
        if error.details.get("reason") != "malformed":
            raise
        return []
    largest = sorted(classes.items(), key=lambda item: -item[1].photos)[:_MAX_BARE]
    return [
        {
            **_named(manifest, class_id),
            "photos": behind.photos,
            "devices": round(behind.devices),
            "missing_photos": max(0, policy.min_photos - behind.photos),
            "missing_devices": max(0, policy.min_devices - round(behind.devices)),
        }
        for class_id, behind in largest
    ]


def _version_or_damage(  # noqa: PLR0917
    exits: ExitStore,
    manifest: Manifest,
    version: ExitVersion,
    policy: ExitPolicy,
    sent: _SentRequest,
    now: float,
) -> dict[str, Any]:
    try:
        return _version(exits, manifest, version, policy, sent, now)
    except (StoreError, ExitError) as error:
        if error.details.get("reason") != "malformed":
            raise  # the store cannot be read at all
        return {
            "exit": version.exit,
            "state": "damaged",
            "reason": error.message,
            "created": version.created,
            "expires": version.expires,
            "photos": version.photos,
            "release": version.number,
            "released_until": 0.0,
            "tolerance": policy.tolerance,
            "promise": policy.promise,
            "share": 0.0,
            "classes": [],
        }


def _version(  # noqa: PLR0917
    exits: ExitStore,
    manifest: Manifest,
    version: ExitVersion,
    policy: ExitPolicy,
    sent: _SentRequest,
    now: float,
) -> dict[str, Any]:
    state = ExitState.from_json(version.state)
    alpha = version_alpha(state.version, policy.alpha)
    by_class = shadow_counts(exits.counts(version.network, version.exit))
    counts = {c: by_class.get(c, ShadowCounts.none()) for c in state.classes}
    answers = sum(shadow.answers for shadow in counts.values())
    together = missing(counts, state.tolerance, alpha)
    rows = []
    for class_id, of_class in sorted(state.classes.items()):
        shadow = counts[class_id]
        is_released = of_class.is_released and of_class.bin is not None
        own = max(0, LEAST_ANSWERS - shadow.answers)
        lacking = together
        if state.promise == "each":
            lacking = missing({class_id: shadow}, state.tolerance, alpha)
        rows.append(
            {
                **_named(manifest, class_id),
                "state": _word(of_class),
                "shadow": shadow.answers,
                "shadow_disagreeing": int(shadow.disagreeing.sum()),
                "missing": 0 if is_released else max(lacking, own),
                "proof": _proof(
                    shadow.answers if state.promise == "each" else answers,
                    lacking,
                    shadow.answers,
                    own,
                ),
                "bin": of_class.bin,
                "since": of_class.since,
                "share": _ratio(*of_class.photos(shadow)),
                **_audits(of_class, sent, alpha),
            }
        )
    return {
        "exit": version.exit,
        "state": version.ended or ("alive" if version.is_alive(now) else "expired"),
        "created": version.created,
        "expires": version.expires,
        "photos": version.photos,
        "release": version.number,
        "released_until": ExitRelease.from_bytes(unsigned(version.release)).expires,
        "tolerance": state.tolerance,
        "promise": state.promise,
        "share": state.share(counts),
        "classes": rows,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _proof(answers: int, lacking: int, own: int, own_lacking: int) -> float:
    """Which share of the answers is there that all classes need together, and this one by itself."""
    together = answers / (answers + lacking) if answers + lacking else 0.0
    return min(together, own / (own + own_lacking))


def _audits(of_class: ExitClass, sent: _SentRequest, alpha: float) -> dict[str, Any]:
    """What audits show of a class, with an interval that holds at all times."""
    audits = of_class.audits
    low, high = chance_interval(audits.audited, audits.disagreed, alpha)
    disagreement = audits.disagreed / audits.audited if audits.audited else None
    return {
        "exits": audits.exits,
        "bytes_saved": max(0.0, audits.exits - audits.audited) * sent.nbytes,
        "ms_saved": audits.exits * sent.ms,
        "audit_share": of_class.audit,
        "audited": audits.audited,
        "disagreement": disagreement,
        "disagreement_low": low,
        "disagreement_high": high,
    }


def _word(of_class: ExitClass) -> str:
    if of_class.withdrawn is not None:
        return "withdrawn"
    return "released" if of_class.is_released else "shadow"


class _SentRequest(NamedTuple):
    """What a request at a cut costs on average beside the device's own time; 0 where unknown.

    Attributes:
        ms: in decoding and in the tail, and where devices report them, on the uplink, for the round
            trip and in the queue.
    """

    nbytes: float
    ms: float


def _sent_request(live: LiveView, cut: Cut) -> _SentRequest:
    rows = [row for row in live.served if row.cut == cut]
    requests = sum(row.requests for row in rows)
    nbytes = sum(row.bytes for row in rows) / requests if requests else 0.0
    kinds = ("uplink", "rtt", "queue", "decode", "tail")
    return _SentRequest(
        nbytes, sum(_mean_ms([getattr(row, kind) for row in rows]) for kind in kinds)
    )


def _mean_ms(times: Sequence[Times]) -> float:
    """The mean over all requests that have this time; 0 where none has."""
    counted = [row for row in times if row.count > 0 and math.isfinite(row.mean_ms)]
    count = sum(row.count for row in counted)
    return sum(row.count * row.mean_ms for row in counted) / count if count else 0.0


def _named(manifest: Manifest, class_id: int) -> dict[str, Any]:
    labels: Sequence[str] = manifest.classes
    known = NONE < class_id < len(labels)
    return {"class": class_id, "label": labels[class_id] if known else str(class_id)}


def _about(manifest: Manifest) -> Mapping[str, str]:
    return {
        "model": manifest.model,
        "version": manifest.version,
        "network_hash": manifest.network_hash,
    }
