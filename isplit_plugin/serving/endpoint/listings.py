"""Answers that list what is in the store: models, classes, curves, accuracy, device groups, changes
of picks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from ...advice import (
    LabelSums,
    LiveView,
    OutcomeRow,
    PickChange,
    bare_profile,
    class_curves,
    live_weights,
    wilson,
)
from ...errors import QueryError, StoreError, UnknownClassError, UnknownModelError
from ...profile import Profile
from ...schema import Cut, Manifest
from ...traffic import Group, StoredNetwork

MAX_ROWS: Final = 20_000
MAX_CURVES: Final = 100


def models(networks: Sequence[StoredNetwork], model: str = "") -> dict[str, Any]:
    """The versions of all models in the store, or of one, by name and version.

    Raises UnknownModelError.
    """
    listed = [network for network in networks if model in ("", network.model)]
    if model and not listed:
        raise UnknownModelError.of(model, dict.fromkeys(network.model for network in networks))
    return {
        "models": [
            {
                "model": network.model,
                "version": network.version,
                "network_hash": network.network_hash,
                "has_profile": network.has_profile,
                "as_of": network.as_of,
                "current": network.current,
            }
            for network in listed
        ]
    }


def groups(manifest: Manifest, groups: Sequence[Group]) -> dict[str, Any]:
    """Device groups with their requests. ``all`` is all of them together."""
    total = sum(group.requests for group in groups)
    rows = [
        {
            "group": group.name,
            "signed": group.signed,
            "requests": group.requests,
            "errors": group.errors,
            "share": group.requests / total if total else 0.0,
        }
        for group in groups
    ]
    return {**_about(manifest), "requests": total, "groups": rows}


def changes(manifest: Manifest, group: str, changes: Sequence[PickChange]) -> dict[str, Any]:
    """Changes of the standing pick, the newest first."""
    rows = [change.to_json() for change in changes]
    return {**_about(manifest), "group": group, "changes": rows}


def classes(manifest: Manifest, live: LiveView) -> dict[str, Any]:
    """Class ids and labels, with the requests of each and its share of the live mix."""
    weight, count = live_weights(live, len(manifest.classes))
    total = weight.sum()
    share = weight / total if total > 0 else weight
    rows = [
        {"id": i, "label": label, "requests": int(count[i]), "share": float(share[i])}
        for i, label in enumerate(manifest.classes)
    ]
    return {**_about(manifest), "group": live.group, "as_of": live.as_of, "classes": rows}


def curves(
    manifest: Manifest, profile: Profile | None, live: LiveView, class_ids: Sequence[int] | None
) -> dict[str, Any]:
    """The CUI curve of each class. Raises QueryError, UnknownClassError, StoreError."""
    if class_ids is None or len(class_ids) > MAX_CURVES:
        number = "none" if class_ids is None else len(class_ids)
        raise QueryError(
            f"classes: expected 1 to {MAX_CURVES} class ids for curves, got {number}",
            field="classes",
        )
    _check_classes(manifest, class_ids)
    prior = profile if profile is not None else bare_profile(manifest)
    if prior.network_hash != manifest.network_hash:
        raise StoreError(
            f"expected a profile of network {manifest.network_hash}, got one of {prior.network_hash}"
        )
    rows = []
    of_classes = class_curves(prior, live, np.asarray(class_ids, dtype=np.int64))
    for class_id, curve in zip(class_ids, of_classes, strict=True):
        points = [_without_nan(point._asdict()) for point in curve.points(prior)]
        rows.append({"id": class_id, "label": manifest.classes[class_id], "curve": points})
    return {**_about(manifest), "group": live.group, "as_of": live.as_of, "curves": rows}


def accuracy(manifest: Manifest, live: LiveView, class_ids: Sequence[int] | None) -> dict[str, Any]:
    """Measured accuracy from labels with 95 % Wilson intervals, by cut and by predicted class.

    Counts are decayed: a label weighs 2^-h once h half-lives have passed since its prediction.
    Accuracy and interval count opinions: where devices are known, the labels of one device in one
    hour are one. ``class_ids``: ``None`` for all. Raises UnknownClassError.
    """
    _check_classes(manifest, class_ids or ())
    outcomes = [row for row in live.outcomes if class_ids is None or row.class_id in class_ids]
    labelled = [row for row in outcomes if row.labelled > 0][:MAX_ROWS]
    by_cut: dict[Cut, list[dict[str, Any]]] = {}
    for row, counts in zip(labelled, _accuracies(labelled), strict=True):
        known = row.class_id < len(manifest.classes)
        label = manifest.classes[row.class_id] if known else str(row.class_id)
        by_cut.setdefault(row.cut, []).append({"class": row.class_id, "label": label, **counts})
    rows = []
    for cut, of_classes in sorted(by_cut.items()):
        at_cut = [row[2:] for row in outcomes if row.cut == cut]
        sums = map(math.fsum, zip(*at_cut, strict=True))
        (total,) = _accuracies([OutcomeRow(cut, -1, *sums)])
        parts = {"cut": str(cut), "split_point": cut.split_point, "codec": cut.coding}
        rows.append({**parts, **total, "classes": of_classes})
    return {**_about(manifest), "group": live.group, "as_of": live.as_of, "accuracy": rows}


def _about(manifest: Manifest) -> dict[str, Any]:
    return {
        "model": manifest.model,
        "version": manifest.version,
        "network_hash": manifest.network_hash,
    }


def _check_classes(manifest: Manifest, class_ids: Sequence[int]) -> None:
    for class_id in class_ids:
        if class_id >= len(manifest.classes):
            raise UnknownClassError.of(class_id, range(len(manifest.classes)))


def _accuracies(rows: Sequence[OutcomeRow]) -> list[dict[str, float]]:
    """The counts of each row, and the share of correct labels among its opinions."""
    sizes, correct = LabelSums.of(rows).opinions()
    answers = []
    for row, size, right in zip(rows, sizes.tolist(), correct.tolist(), strict=True):
        share = right / size if size > 0 else min(1.0, row.correct / row.labelled)
        low, high = wilson(share, size)
        answers.append(
            {
                "predictions": row.predictions,
                "labelled": row.labelled,
                "correct": row.correct,
                "effective_size": size,
                "accuracy": share,
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return answers


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
