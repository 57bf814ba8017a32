"""What is known of each class of an exit: released or not, withdrawn or not, and its audits.

Worked out from counts alone, and kept with the version, because some of it is sticky: a class that
was released stays so, whatever shadow answers follow, and one that was withdrawn does, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

from ..errors import DataError, StoreError
from ..exits import (
    BINS,
    LEAST_SHARE,
    Audits,
    ClassRelease,
    ShadowCounts,
    audit_share,
    released_bin,
)
from .rows.exits import AUDIT, SHADOW, ExitCount

_FEWER: Final = 2.0
"""The share of audits falls in steps of this factor, because each is a new release."""


@dataclass(frozen=True, slots=True)
class ExitClass:
    """One class of one version.

    Attributes:
        bin: from which bin on it is released; ``None`` before that.
        since: epoch seconds of its release.
        withdrawn: epoch seconds at which it was withdrawn, ``None`` while it was not.
        audit: the share of its exits that devices send as well.
        audits: what they showed.
        agreeing, disagreeing: the counted audits that ``audits`` has.
    """

    bin: int | None = None
    since: float | None = None
    withdrawn: float | None = None
    audit: float = 1.0
    audits: Audits = field(default_factory=Audits)
    agreeing: int = 0
    disagreeing: int = 0

    @property
    def is_released(self) -> bool:
        """Whether devices may answer it."""
        return self.bin is not None and self.withdrawn is None

    def after(
        self,
        shadow: ShadowCounts,
        audited: tuple[int, int],
        *,
        tolerance: float,
        alpha: float,
        now: float,
    ) -> ExitClass:
        """With all counts so far. ``audited``: agreeing and disagreeing audits."""
        if self.withdrawn is not None:
            return self
        state = self
        if state.bin is not None:
            more = (audited[0] - state.agreeing, audited[1] - state.disagreeing)
            audits = state.audits
            if min(more) >= 0 and any(more):
                audits = audits.after(*more, state.audit, tolerance)
            share = audit_share(audits.exits, tolerance)
            if share * _FEWER <= state.audit or share == LEAST_SHARE:
                state = replace(state, audit=share)
            if audits.withdrawn:
                state = replace(state, withdrawn=now)
            state = replace(state, audits=audits)
        state = replace(state, agreeing=audited[0], disagreeing=audited[1])
        proven = released_bin(shadow, tolerance, alpha)
        if proven is None or (state.bin is not None and state.bin <= proven):
            return state
        return replace(state, bin=proven, since=now if state.since is None else state.since)


@dataclass(frozen=True, slots=True)
class ExitState:
    """All classes of one version, by class id, and which version of its cut it is, from 1 on."""

    version: int
    classes: Mapping[int, ExitClass]

    @property
    def was_released(self) -> bool:
        """Whether any class ever was."""
        return any(state.bin is not None for state in self.classes.values())

    @property
    def is_withdrawn(self) -> bool:
        """Whether classes were released, and none is any more."""
        released = any(state.is_released for state in self.classes.values())
        return self.was_released and not released

    def after(
        self, counts: Iterable[ExitCount], *, tolerance: float, alpha: float, now: float
    ) -> ExitState:
        """With all counts of the version so far."""
        shadow, audited = shadow_counts(counts), audit_counts(counts)
        classes = {
            class_id: state.after(
                shadow.get(class_id, ShadowCounts.none()),
                audited.get(class_id, (0, 0)),
                tolerance=tolerance,
                alpha=alpha,
                now=now,
            )
            for class_id, state in self.classes.items()
        }
        return ExitState(self.version, classes)

    def released(self) -> dict[int, ClassRelease]:
        """What devices may answer."""
        return {
            class_id: ClassRelease(state.bin, state.audit)
            for class_id, state in self.classes.items()
            if state.is_released and state.bin is not None
        }

    def to_json(self) -> str:
        """As text; :meth:`from_json` is its inverse."""
        classes = {str(class_id): asdict(state) for class_id, state in self.classes.items()}
        return json.dumps({"version": self.version, "classes": classes})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote. Raises StoreError."""
        try:
            raw = json.loads(text)
            classes = {int(name): _class(value) for name, value in raw["classes"].items()}
            return cls(int(raw["version"]), classes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"expected the state of an exit, got {text[:80]!r}") from error


def shadow_counts(counts: Iterable[ExitCount]) -> dict[int, ShadowCounts]:
    """Shadow answers by class. Raises StoreError for counts that are none."""
    lists: dict[int, tuple[list[int], list[int]]] = {}
    for row in counts:
        if row.kind != SHADOW:
            continue
        empty: tuple[list[int], list[int]] = ([0] * BINS, [0] * BINS)
        agreeing, disagreeing = lists.setdefault(row.class_id, empty)
        if not 0 <= row.bin < BINS:
            raise StoreError(f"expected a bin from 0 to {BINS - 1}, got {row.bin}")
        agreeing[row.bin] += row.agreeing
        disagreeing[row.bin] += row.number - row.agreeing
    try:
        return {c: ShadowCounts.from_lists(*both) for c, both in lists.items()}
    except DataError as error:
        raise StoreError(error.message) from error


def audit_counts(counts: Iterable[ExitCount]) -> dict[int, tuple[int, int]]:
    """Agreeing and disagreeing audits by class."""
    audited: dict[int, tuple[int, int]] = {}
    for row in counts:
        if row.kind == AUDIT:
            agreeing, disagreeing = audited.get(row.class_id, (0, 0))
            more = row.number - row.agreeing
            audited[row.class_id] = (agreeing + row.agreeing, disagreeing + more)
    return audited


def _class(raw: Mapping[str, Any]) -> ExitClass:
    audits = dict(raw["audits"])
    audits["detector"] = tuple(float(value) for value in audits["detector"])
    return ExitClass(**{**raw, "audits": Audits(**audits)})
