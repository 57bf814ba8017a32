"""Answers about exits: their state class by class, and their bytes for devices."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...advice import LiveView
from ...errors import QueryError, StoreError, UnknownNameError
from ...exits import (
    LEAST_ANSWERS,
    MIN_VERSION,
    NONE,
    ExitRelease,
    ShadowCounts,
    chance_interval,
    margin_shares,
    missing,
    read_private_key,
    unsigned,
    version_alpha,
)
from ...schema import Cut, CutExit, Manifest
from ...traffic import (
    ClassEvidence,
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

    Raises QueryError for too few digits of the hash, UnknownNameError for a version that is not
    alive.
    """
    if len(exit_hash) < MIN_VERSION:
        raise QueryError(
            f"hash: expected at least {MIN_VERSION} digits of an exit's version, got "
            f"{len(exit_hash)}",
            field="hash",
        )
    now = exits.now()
    alive = [v for v in exits.versions(manifest.network_hash) if v.is_alive(now)]
    for version in alive:
        if version.exit.startswith(exit_hash):
            answer = {**_about(manifest), "version_of_exit": version.exit}
            answer["release"] = base64.b64encode(version.release).decode()
            if content:
                signed = exits.content(manifest.network_hash, version.exit) or b""
                answer["exit"] = base64.b64encode(signed).decode()
            return answer
    raise UnknownNameError.of(exit_hash, [version.exit for version in alive])


def cut_exits(exits: ExitStore, network_hash: str) -> tuple[CutExit, ...]:
    """The exits of a network that are alive. None where the store cannot say."""
    try:
        now = exits.now()
        return tuple(
            CutExit(
                version.cut,
                version.exit,
                version.number,
                version.expires,
                _share(exits, version),
            )
            for version in sorted(exits.versions(network_hash), key=lambda v: v.cut)
            if version.is_alive(now)
        )
    except StoreError:
        return ()


def _share(exits: ExitStore, version: ExitVersion) -> float:
    """The share of photos that devices may answer by a version; 0 where its state is damaged."""
    try:
        state = ExitState.from_json(version.state)
        return state.share(shadow_counts(exits.counts(version.network, version.exit)))
    except StoreError:
        return 0.0


def list_exits(
    exits: ExitStore, manifest: Manifest, live: LiveView, policy: ExitPolicy, *, signing: bool
) -> dict[str, Any]:
    """The exits of a network by cut, the newest version first, and the classes of each.

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
        classes = exits.classes(network, cut)
        evidence = [
            _evidence(manifest, class_id, behind, policy)
            for class_id, behind in sorted(classes.items(), key=lambda item: -item[1].photos)
        ]
        nbytes = _mean_bytes(live, cut)
        rows.append(
            {
                "cut": str(cut),
                "photos": photos.get(cut, 0),
                "evidence": evidence[:_MAX_BARE],
                "versions": [
                    _version(exits, manifest, version, policy, nbytes, now)
                    for version in by_cut.get(cut, ())
                ],
            }
        )
    return {
        **_about(manifest),
        "signing": signing,
        "tolerance": policy.tolerance,
        "alpha": policy.alpha,
        "exits": rows,
    }


def _evidence(
    manifest: Manifest, class_id: int, behind: ClassEvidence, policy: ExitPolicy
) -> dict[str, Any]:
    """What is behind one class, and what is missing before an exit names it."""
    return {
        **_named(manifest, class_id),
        "photos": behind.photos,
        "devices": round(behind.devices),
        "missing_photos": max(0, policy.min_photos - behind.photos),
        "missing_devices": max(0, policy.min_devices - round(behind.devices)),
    }


def _version(  # noqa: PLR0917
    exits: ExitStore,
    manifest: Manifest,
    version: ExitVersion,
    policy: ExitPolicy,
    nbytes: float,
    now: float,
) -> dict[str, Any]:
    state = ExitState.from_json(version.state)
    alpha = version_alpha(state.version, policy.alpha)
    by_class = shadow_counts(exits.counts(version.network, version.exit))
    counts = {c: by_class.get(c, ShadowCounts.none()) for c in state.classes}
    answers = sum(shadow.answers for shadow in counts.values())
    lacking = missing(counts, state.tolerance, alpha)
    rows = []
    for class_id, of_class in sorted(state.classes.items()):
        shadow = counts[class_id]
        is_released = of_class.is_released and of_class.bin is not None
        own = max(0, LEAST_ANSWERS - shadow.answers)
        rows.append(
            {
                **_named(manifest, class_id),
                "state": _word(of_class),
                "shadow": shadow.answers,
                "shadow_disagreeing": int(shadow.disagreeing.sum()),
                "missing": 0 if is_released else max(lacking, own),
                "proof": _proof(answers, lacking, shadow.answers, own),
                "bin": of_class.bin,
                "since": of_class.since,
                "share": float(margin_shares(shadow)[of_class.bin]) if is_released else 0.0,
                **_audits(of_class, nbytes, alpha),
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
        "classes": rows,
    }


def _proof(answers: int, lacking: int, own: int, own_lacking: int) -> float:
    """Which share of the answers is there that all classes need together, and this one by itself."""
    together = answers / (answers + lacking) if answers + lacking else 0.0
    return min(together, own / (own + own_lacking))


def _audits(of_class: ExitClass, nbytes: float, alpha: float) -> dict[str, Any]:
    """What audits show of a class, with an interval that holds at all times."""
    audits = of_class.audits
    low, high = chance_interval(audits.audited, audits.disagreed, alpha)
    disagreement = audits.disagreed / audits.audited if audits.audited else None
    return {
        "exits": audits.exits,
        "bytes_saved": max(0.0, audits.exits - audits.audited) * nbytes,
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


def _mean_bytes(live: LiveView, cut: Cut) -> float:
    """Mean bytes of a request at a cut; 0 where none was served."""
    rows = [row for row in live.served if row.cut == cut]
    requests = sum(row.requests for row in rows)
    return sum(row.bytes for row in rows) / requests if requests else 0.0


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
