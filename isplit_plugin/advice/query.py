"""A question: its classes, device group, link and limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..errors import QueryError
from ..schema import OBJECTIVES
from .live_view import ALL_GROUPS

RULES: Final = ("local-maxima", "global-maximum")
CANDIDATE_SETS: Final = ("blocks", "all")
MIXES: Final = ("live", "profile", "asked")
MAX_CLASSES: Final = 1000
"""The most classes of one question."""
MAX_GROUP: Final = 64
MAX_PREDICTOR: Final = 64
_LIMITS: Final = {
    "bandwidth_mbps": (1e-6, 1e9),
    "rtt_ms": (0.0, 1e9),
    "max_latency_ms": (1e-6, 1e12),
    "max_bytes": (0.0, 1e18),
    "max_head_macs": (0.0, 1e18),
    "accuracy_tolerance": (0.0, 1.0),
    "device_slowdown": (1e-6, 1e6),
}
"""Least and largest value of each number: far beyond what exists, and no sum of them overflows."""


def _one_of(name: str, value: object, known: Iterable[str]) -> None:
    if value not in tuple(known):
        raise QueryError(
            f"{name}: expected one of {', '.join(known)}, got {_shown(value)}", field=name
        )


def _number(name: str, value: object, low: float, high: float) -> None:
    valid = isinstance(value, int | float) and not isinstance(value, bool)
    if valid and isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
        valid = low <= number <= high
    if not valid:
        raise QueryError(
            f"{name}: expected a number from {low:g} to {high:g}, got {_shown(value)}", field=name
        )


def _shown(value: object) -> str:
    try:
        return repr(str(value)[:100])
    except RecursionError:  # lists within lists
        return type(value).__name__


@dataclass(frozen=True, slots=True)
class Constraints:
    """The link, the limits and the objective of a question. ``None`` where nothing is asked.

    Attributes:
        bandwidth_mbps: the uplink, in megabits per second.
        rtt_ms: the round-trip time.
        max_bytes: on the wire, for one image.
        max_head_macs: multiply-accumulates that the device can spend on one image.
        accuracy_tolerance: the share of predictions that may differ from the full network's.
        objective: "latency" or "bytes".
        device_slowdown: how many times slower the device runs the head than the machine that made
            the profile. By default it follows from the head times that devices report, and is 1
            where none did.

    Raises:
        QueryError: a value is not valid; it names the field.
    """

    bandwidth_mbps: float | None = None
    rtt_ms: float | None = None
    max_latency_ms: float | None = None
    max_bytes: float | None = None
    max_head_macs: float | None = None
    accuracy_tolerance: float = 0.01
    objective: str = "latency"
    device_slowdown: float | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None or name == "accuracy_tolerance":
                _number(f"constraints.{name}", value, low, high)
        _one_of("constraints.objective", self.objective, OBJECTIVES)


@dataclass(frozen=True, slots=True)
class Query:
    """One question.

    Attributes:
        classes: class ids, kept sorted and unique; ``None`` for all classes.
        mix: the weights of the classes. "asked": all the same; "live": as this group sees them;
            "profile": as in the calibration set. By default "asked" where classes are named, else
            "live".
        rule: the rule that selects places for a bottleneck by CUI.
        candidate_set: the split points among which it selects.
        predictor: what ranks these: "cui", "depth", or a predictor of the profile. Other predictors
            than CUI take the largest value, whatever the rule.

    Raises:
        QueryError: a value is not valid; it names the field.
    """

    classes: tuple[int, ...] | None = None
    group: str = ALL_GROUPS
    rule: str = "local-maxima"
    candidate_set: str = "blocks"
    predictor: str = "cui"
    constraints: Constraints = field(default_factory=Constraints)
    mix: str | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            self._check_classes(self.classes)
            object.__setattr__(self, "classes", tuple(sorted({int(c) for c in self.classes})))
        if (
            not isinstance(self.group, str)
            or not 0 < len(self.group) <= MAX_GROUP
            or not self.group.isprintable()
        ):
            raise QueryError(
                f"group: expected 1 to {MAX_GROUP} printable characters, got {_shown(self.group)}",
                field="group",
            )
        _one_of("rule", self.rule, RULES)
        if (
            not isinstance(self.predictor, str)
            or not 0 < len(self.predictor) <= MAX_PREDICTOR
            or not self.predictor.isprintable()
        ):
            raise QueryError(
                f"predictor: expected a name of 1 to {MAX_PREDICTOR} characters, "
                f"got {_shown(self.predictor)}",
                field="predictor",
            )
        _one_of("candidate_set", self.candidate_set, CANDIDATE_SETS)
        if self.mix is not None:
            _one_of("mix", self.mix, MIXES)
        if self.mix == "asked" and self.classes is None:
            raise QueryError("mix: expected classes with the mix 'asked', got none", field="mix")

    @staticmethod
    def _check_classes(classes: tuple[int, ...]) -> None:
        if not 0 < len(classes) <= MAX_CLASSES:
            raise QueryError(
                f"classes: expected 1 to {MAX_CLASSES} class ids, got {len(classes)}",
                field="classes",
            )
        for class_id in classes:
            if (
                not isinstance(class_id, int)
                or isinstance(class_id, bool)
                or not 0 <= class_id < 2**31
            ):
                raise QueryError(
                    f"classes: expected class ids from 0, got {_shown(class_id)}",
                    field="classes",
                )

    @property
    def wanted_mix(self) -> str:
        """The mix, or its default."""
        return self.mix or ("live" if self.classes is None else "asked")

    def to_json(self) -> dict[str, Any]:
        """The question as JSON types, with all defaults. Equal questions have equal JSON."""
        raw = asdict(self)
        raw["mix"] = self.wanted_mix
        raw["constraints"] = {
            k: float(v) if isinstance(v, int | float) else v
            for k, v in raw["constraints"].items()
            if v is not None
        }
        return raw
