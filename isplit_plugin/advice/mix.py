"""The classes of a question and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..errors import UnknownClassError
from ..profile import Profile
from ..schema import ClassShare
from .live_view import F64, I64, MAX_COUNT, LiveView
from .query import Query

MIN_LIVE_MIX: Final = 10
"""Requests that a live mix takes. With fewer, the calibration set's mix is used."""


@dataclass(frozen=True, eq=False)
class Mix:
    """The classes of a question and their weights.

    Attributes:
        name: "live", "profile" or "asked".
        class_ids: shape (M,).
        weights: shape (M,); they sum to 1.
        note: says so, where this is not the mix that was asked for.
    """

    name: str
    class_ids: I64
    weights: F64
    note: str = ""

    def shares(self, labels: Sequence[str]) -> tuple[ClassShare, ...]:
        """The classes with their labels, heaviest first."""
        order = np.lexsort((self.class_ids, -self.weights))
        ids, weights = self.class_ids[order].tolist(), self.weights[order].tolist()
        return tuple(map(ClassShare, ids, [labels[i] for i in ids], weights))


def live_weights(live: LiveView, classes: int) -> tuple[F64, F64]:
    """Decayed weight, relative to the largest, and request count of each class.

    Both shapes are (classes,). Unknown class ids are left out.
    """
    weight, count = np.zeros(classes), np.zeros(classes)
    counts = live.class_counts
    good = (counts.class_ids >= 0) & (counts.class_ids < classes)
    good &= (
        np.isfinite(counts.weight)
        & (counts.weight > 0)
        & (counts.count > 0)
        & (counts.count <= MAX_COUNT)
    )
    top = counts.weight[good].max(initial=0.0)
    # Scaled: decayed weights may be as large as floats go.
    np.add.at(weight, counts.class_ids[good], counts.weight[good] / top)
    np.add.at(count, counts.class_ids[good], counts.count[good])
    return weight, count


def resolve(query: Query, profile: Profile, live: LiveView, labels: Sequence[str]) -> Mix:
    """The mix that ``query`` asks for.

    With fewer than 10 requests, the calibration set's mix replaces the live one. Without images in
    the calibration set, all classes weigh the same.

    Raises:
        UnknownClassError: a class id is not one of the network's, which it lists.
    """
    total = len(labels)
    if query.classes is None:
        asked = np.arange(total, dtype=np.int64)
    else:
        unknown = [c for c in query.classes if c >= total]
        if unknown:
            raise UnknownClassError.of(unknown[0], range(total))
        asked = np.asarray(query.classes, dtype=np.int64)
    of = "of the asked classes " if query.classes is not None else ""
    note = ""
    wanted = query.wanted_mix
    if wanted == "live":
        weight, count = live_weights(live, total)
        requests = count[asked].sum()
        if requests >= MIN_LIVE_MIX and weight[asked].sum() > 0:
            return _mix("live", asked, weight[asked])
        if requests > 0:
            note = (
                f"{requests:.0f} live requests {of}are too few for a live mix "
                f"(it takes {MIN_LIVE_MIX})"
            )
        wanted = "profile"
    if wanted == "profile":
        weight = np.zeros(total)
        good = (profile.class_ids >= 0) & (profile.class_ids < total)
        np.add.at(weight, profile.class_ids[good], profile.count[good].astype(np.float64))
        if weight[asked].sum() > 0:
            return _mix("profile", asked, weight[asked], note)
        note = f"{note}; " if note else ""
        note += f"the calibration set has no image {of}".rstrip() + ": each class weighs the same"
    return _mix("asked", asked, np.ones(len(asked)), note)


def _mix(name: str, class_ids: I64, weights: F64, note: str = "") -> Mix:
    kept = weights > 0
    return Mix(name, class_ids[kept], weights[kept] / weights[kept].sum(), note)
