"""Answers that list what is in the store: measured accuracy, device groups, changes of the picks in force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...advice import LiveView, PickChange, wilson
from ...errors import UnknownClassError
from ...schema import Cut, Manifest
from ...traffic.store import Group

MAX_ROWS: Final = 20_000


def _about(manifest: Manifest) -> dict[str, Any]:
    return {
        "model": manifest.model,
        "version": manifest.version,
        "network_hash": manifest.network_hash,
    }


def groups(manifest: Manifest, found: Sequence[Group]) -> dict[str, Any]:
    """Device groups with their requests; ``all`` is all of them together."""
    total = sum(group.requests for group in found)
    rows = [
        {
            "group": g.name,
            "requests": g.requests,
            "errors": g.errors,
            "share": g.requests / total if total else 0.0,
        }
        for g in found
    ]
    return {**_about(manifest), "requests": total, "groups": rows}


def changes(manifest: Manifest, group: str, found: Sequence[PickChange]) -> dict[str, Any]:
    """Changes of the picks in force, the newest first."""
    return {**_about(manifest), "group": group, "changes": [change.to_json() for change in found]}


def accuracy(manifest: Manifest, live: LiveView, asked: Sequence[int] | None) -> dict[str, Any]:
    """Measured accuracy from labels, with 95 % Wilson intervals: by served point and codec, and by class within.

    Counts are decayed: a label weighs 2^-h once h half-lives have passed since its prediction. The class is the
    predicted one. Raises UnknownClassError.
    """
    unknown = [c for c in asked or () if c >= len(manifest.classes)]
    if unknown:
        raise UnknownClassError.of(unknown[0], range(len(manifest.classes)))
    rows = [r for r in live.outcomes if r.labelled > 0 and (asked is None or r.class_id in asked)]
    served: dict[Cut, list[dict[str, Any]]] = {}
    for row in rows[:MAX_ROWS]:
        label = (
            manifest.classes[row.class_id]
            if row.class_id < len(manifest.classes)
            else str(row.class_id)
        )
        told = {
            "class": row.class_id,
            "label": label,
            **_share(row.predictions, row.labelled, row.correct),
        }
        served.setdefault(row.cut, []).append(told)
    seen = {key: _total(live, key, asked) for key in served}
    return {
        **_about(manifest),
        "group": live.group,
        "as_of": live.as_of,
        "accuracy": [
            {
                "cut": str(key),
                "split_point": key.split_point,
                "codec": key.coding,
                **_share(*seen[key]),
                "classes": classes,
            }
            for key, classes in sorted(served.items())
        ],
    }


def _total(live: LiveView, key: Cut, asked: Sequence[int] | None) -> tuple[float, float, float]:
    mine = [r for r in live.outcomes if r.cut == key and (asked is None or r.class_id in asked)]
    return (
        sum(r.predictions for r in mine),
        sum(r.labelled for r in mine),
        sum(r.correct for r in mine),
    )


def _share(seen: float, labelled: float, correct: float) -> dict[str, float]:
    share = min(1.0, correct / labelled)
    low, high = wilson(share, labelled)
    counts = {"predictions": seen, "labelled": labelled, "correct": correct}
    return {**counts, "accuracy": share, "accuracy_low": low, "accuracy_high": high}
