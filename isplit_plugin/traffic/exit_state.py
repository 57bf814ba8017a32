"""What is known of each class of an exit: released or not, withdrawn or not, and its audits.

Worked out from counts alone, and kept with the version, because some of it is sticky: a group that
was proven stays so, whatever shadow answers follow, and a class that was withdrawn does, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self, get_args

from ..errors import DataError, StoreError
from ..exits import (
    BINS,
    DETECTORS,
    FALSE_ALARM,
    LEAST_SHARE,
    Audits,
    ClassRelease,
    Promise,
    ProvenGroup,
    ShadowCounts,
    audit_share,
    may_be_released,
    proven_groups,
)
from ..schema import filled
from .rows.exits import AUDIT, SHADOW, ExitCount

_FEWER: Final = 2.0
"""The share of audits falls in steps of this factor, because each is a new release."""
_ALL_AUDITED: Final = 100.0
"""The first exits of a class, which are all audited, however many other classes have."""
_FALSE_ALARM: Final = FALSE_ALARM / 10
"""Of all classes together: about one disagreement more than of one class, so that a class alone that
drifts is withdrawn before it withdraws all."""
_MORE: Final = 1.1
"""By which factor another group must answer more photos before it replaces the present one."""


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

    def audited(
        self, agreeing: int, disagreeing: int, *, tolerance: float, now: float
    ) -> ExitClass:
        """With all counted audits so far."""
        counted = replace(self, agreeing=agreeing, disagreeing=disagreeing)
        if not self.is_released:
            return counted
        more = (agreeing - self.agreeing, disagreeing - self.disagreeing)
        audits = self.audits
        if min(more) >= 0 and any(more):
            audits = audits.after(*more, self.audit, tolerance)
        return replace(counted, audits=audits, withdrawn=now if audits.withdrawn else None)

    def photos(self, shadow: ShadowCounts) -> tuple[float, float]:
        """The photos that devices may answer now, and all that the exit has answered.

        Once a class is released, those above its bin hardly come as shadow answers any more: they
        are among the exits that audits stand for.
        """
        exits = self.audits.exits
        if self.bin is None or not self.is_released:
            return 0.0, shadow.answers + exits
        return float(shadow.trials()[self.bin]) + exits, shadow.answers + exits

    def with_share(self, exits: float, tolerance: float) -> ExitClass:
        """With the share of audits after so many exits of all that the promise is for."""
        share = audit_share(exits, tolerance) if self.audits.exits >= _ALL_AUDITED else 1.0
        fewer = share * _FEWER <= self.audit or share == LEAST_SHARE
        return replace(self, audit=share) if fewer else self


@dataclass(frozen=True, slots=True)
class ExitState:
    """All classes of one version.

    Attributes:
        version: which one of its cut it is, from 1 on.
        tolerance: the share of the exit's answers that may disagree, for as long as it lives.
        classes: by class id.
        group: the proven group whose classes are released; ``None`` before there is one, and where
            each class is proven by itself.
        audits: of all classes together.
        promise: whose answers keep the tolerance.
    """

    version: int
    tolerance: float
    classes: Mapping[int, ExitClass]
    group: ProvenGroup | None = None
    audits: Audits = field(default_factory=Audits)
    promise: Promise = "together"

    @property
    def was_released(self) -> bool:
        """Whether any class ever was."""
        return any(state.bin is not None for state in self.classes.values())

    @property
    def is_withdrawn(self) -> bool:
        """Whether classes were released, and none is any more."""
        released = any(state.is_released for state in self.classes.values())
        return self.was_released and not released

    def after(self, counts: Iterable[ExitCount], *, alpha: float, now: float) -> ExitState:
        """With all counts of the version so far."""
        tolerance = self.tolerance
        state = self._audited(audit_counts(counts), now=now)
        by_class = shadow_counts(counts)
        shadow = {c: by_class.get(c, ShadowCounts.none()) for c in self.classes}
        if self.promise == "each":
            return state._each(shadow, alpha=alpha, now=now)
        group = state._best_group(shadow, alpha=alpha)
        if group is None:
            return state
        classes = {
            class_id: _in_group(of_class, group, class_id, shadow[class_id], tolerance, now)
            for class_id, of_class in state.classes.items()
        }
        return replace(state, classes=classes, group=group)

    def _each(self, shadow: Mapping[int, ShadowCounts], *, alpha: float, now: float) -> ExitState:
        """With each class released that its own answers prove, from the lowest bin of any time on."""
        classes = dict(self.classes)
        for class_id, of_class in self.classes.items():
            groups = proven_groups({class_id: shadow[class_id]}, self.tolerance, alpha)
            if of_class.withdrawn is None and groups:
                lowest = min(groups[0].bin, BINS if of_class.bin is None else of_class.bin)
                since = now if of_class.since is None else of_class.since
                classes[class_id] = replace(of_class, bin=lowest, since=since)
        return replace(self, classes=classes)

    def _audited(self, counts: Mapping[int, tuple[int, int]], *, now: float) -> ExitState:
        """With all counted audits: classes that disagree are withdrawn, and all if together they do.

        What a class disagreed that is withdrawn now says nothing of the others.
        """
        tolerance = self.tolerance
        classes = {
            class_id: each.audited(*counts.get(class_id, (0, 0)), tolerance=tolerance, now=now)
            for class_id, each in self.classes.items()
        }
        number, disagreed, exits = 0, 0, 0.0
        for class_id, each in classes.items():
            before = self.classes[class_id].audits
            if each.withdrawn is None:
                number += each.audits.audited - before.audited
                disagreed += each.audits.disagreed - before.disagreed
                exits += each.audits.exits - before.exits
        audits = self.audits
        if number:
            audits = audits.after(number - disagreed, disagreed, number / exits, tolerance)
        if self.promise == "together" and audits.alarms(_FALSE_ALARM):
            classes = {
                class_id: replace(each, withdrawn=now) if each.is_released else each
                for class_id, each in classes.items()
            }
        together = self.promise == "together"
        classes = {
            # A class that keeps the promise by itself has only its own audits to end it.
            c: each.with_share(audits.exits if together else each.audits.exits, tolerance)
            for c, each in classes.items()
        }
        return replace(self, classes=classes, audits=audits)

    def _best_group(
        self, shadow: Mapping[int, ShadowCounts], *, alpha: float
    ) -> ProvenGroup | None:
        """The proven group that answers the most photos, those of withdrawn classes not counted. The
        present one is kept where another would answer hardly more.
        """

        def photos(group: ProvenGroup) -> float:
            return sum(
                float(shadow[c].trials()[group.bin]) + self.classes[c].audits.exits
                for c in group.class_ids
                if c in shadow and self.classes[c].withdrawn is None
            )

        groups = proven_groups(shadow, self.tolerance, alpha)
        best = max(groups, key=photos, default=None)
        if self.group is None or best is None:
            return best if self.group is None else self.group
        return best if photos(best) > _MORE * photos(self.group) else self.group

    def released(self) -> dict[int, ClassRelease]:
        """What devices may answer."""
        return {
            class_id: ClassRelease(state.bin, state.audit)
            for class_id, state in self.classes.items()
            if state.is_released and state.bin is not None
        }

    def share(self, shadow: Mapping[int, ShadowCounts]) -> float:
        """Of the photos with an answer of the exit, those that devices may answer; 0 without any."""
        none = ShadowCounts.none()
        pairs = [of_class.photos(shadow.get(c, none)) for c, of_class in self.classes.items()]
        answers = sum(pair[1] for pair in pairs)
        return sum(pair[0] for pair in pairs) / answers if answers else 0.0

    def to_json(self) -> str:
        """As text; :meth:`from_json` is its inverse."""
        group = None if self.group is None else [self.group.bin, sorted(self.group.class_ids)]
        return json.dumps(
            {
                "version": self.version,
                "tolerance": self.tolerance,
                "classes": {str(c): asdict(state) for c, state in self.classes.items()},
                "group": group,
                "audits": asdict(self.audits),
                "promise": self.promise,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote. Raises StoreError."""
        try:
            raw = json.loads(text, parse_constant=_no_number)
            classes = {int(name): _class(value) for name, value in raw["classes"].items()}
            version, tolerance = int(raw["version"]), float(raw["tolerance"])
            if version < 1 or not 0 < tolerance < 1:
                raise ValueError("expected a version from 1 on, and a tolerance between 0 and 1")
            group, audits = _group(raw["group"]), _audits(raw["audits"])
            promise = raw.get("promise", "together")
            if promise not in get_args(Promise):
                raise ValueError(f"expected a promise of {get_args(Promise)}")
            return cls(version, tolerance, classes, group, audits, promise)
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise StoreError(
                f"expected the state of an exit, got {text[:80]!r}", reason="malformed"
            ) from error


def shadow_counts(counts: Iterable[ExitCount]) -> dict[int, ShadowCounts]:
    """Shadow answers by class. Raises StoreError for counts that are none."""
    lists: dict[int, tuple[list[int], list[int]]] = {}
    for row in counts:
        if row.kind != SHADOW:
            continue
        empty: tuple[list[int], list[int]] = ([0] * BINS, [0] * BINS)
        agreeing, disagreeing = lists.setdefault(row.class_id, empty)
        if not 0 <= row.bin < BINS:
            raise StoreError(
                f"expected a bin from 0 to {BINS - 1}, got {row.bin}", reason="malformed"
            )
        agreeing[row.bin] += row.agreeing
        disagreeing[row.bin] += row.number - row.agreeing
    try:
        return {c: ShadowCounts.from_lists(*both) for c, both in lists.items()}
    except DataError as error:
        raise StoreError(error.message, reason="malformed") from error


def audit_counts(counts: Iterable[ExitCount]) -> dict[int, tuple[int, int]]:
    """Agreeing and disagreeing audits by class."""
    audited: dict[int, tuple[int, int]] = {}
    for row in counts:
        if row.kind == AUDIT:
            agreeing, disagreeing = audited.get(row.class_id, (0, 0))
            more = row.number - row.agreeing
            audited[row.class_id] = (agreeing + row.agreeing, disagreeing + more)
    return audited


def _in_group(  # noqa: PLR0917
    of_class: ExitClass,
    group: ProvenGroup,
    class_id: int,
    shadow: ShadowCounts,
    tolerance: float,
    now: float,
) -> ExitClass:
    """Released from the group's bin on, or not where it is none of the group's classes.

    A class that was released in a stricter bin is released in a looser one without more answers.
    """
    if of_class.withdrawn is not None:
        return of_class
    if class_id not in group.class_ids:
        return replace(of_class, bin=None)
    if of_class.bin is None and not may_be_released(shadow, group.bin, tolerance):
        return of_class
    since = now if of_class.since is None else of_class.since
    return replace(of_class, bin=group.bin, since=since)


def _class(raw: Mapping[str, Any]) -> ExitClass:
    state = filled(ExitClass, {**raw, "audits": _audits(raw["audits"])})
    if state.bin is not None and not 0 <= state.bin < BINS:
        raise ValueError(f"expected a bin from 0 to {BINS - 1}, got {state.bin}")
    if not 0 < state.audit <= 1:
        raise ValueError("expected a share of audits above 0 and at most 1")
    return state


def _group(raw: Any) -> ProvenGroup | None:
    if raw is None:
        return None
    group = ProvenGroup(int(raw[0]), frozenset(map(int, raw[1])))
    if not 0 <= group.bin < BINS:
        raise ValueError(f"expected a bin from 0 to {BINS - 1}, got {group.bin}")
    return group


def _audits(raw: Mapping[str, Any]) -> Audits:
    detector = tuple(float(value) for value in raw["detector"])
    audits = filled(Audits, {**raw, "detector": detector})
    if not 0 <= audits.disagreed <= audits.audited or min(audits.exits, audits.wrong) < 0:
        raise ValueError("expected counts of audits, the disagreeing ones among them")
    if len(detector) != DETECTORS or not all(0 <= value < math.inf for value in detector):
        raise ValueError(f"expected {DETECTORS} sums of a detector")
    return audits


def _no_number(name: str) -> float:
    raise ValueError(f"expected finite numbers, got {name}")
