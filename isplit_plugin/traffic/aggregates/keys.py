"""Keys, limits and units that the writers and the readers of the store share."""

from __future__ import annotations

from typing import Final, NamedTuple

from ...schema import Cut

HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S

TIME_KINDS: Final = ("head", "encode", "uplink", "rtt", "queue", "decode", "tail")
"""The kinds of time, in the order in which their histograms are stored."""
SOURCES: Final = ("tail", "input", "probe")
"""Who computed an importance curve."""
TARGETS: Final = ("predicted", "true")
"""Whose score was differentiated: the predicted class or the true class."""

OTHER: Final = "other"
"""The name under which everything above a limit of names is counted."""
MAX_NAME: Final = 128
MAX_GROUPS: Final = 16
"""Device groups that are counted by a name that nobody signed."""
MAX_SIGNED_GROUPS: Final = 64
"""Device groups that are counted by a name that the operator signed."""
NAME_LIMITS: Final = {
    "group": MAX_GROUPS,
    "signed_group": MAX_SIGNED_GROUPS,
    "split_point": 512,
    "codec": 64,
}
"""How many names of each kind a network may have."""


class Population(NamedTuple):
    """Importance curves that may be pooled: all four fields are equal.

    Attributes:
        group: the device group.
        source: one of SOURCES.
        target: one of TARGETS.
        start: the first known point of the curves.
    """

    group: str
    source: str
    target: str
    start: int


class ServedKey(NamedTuple):
    """A cut, a device group, and the epoch second at which an hour began."""

    cut: Cut
    group: str
    bucket: int


class OutcomeKey(NamedTuple):
    """A cut, a device group and a predicted class."""

    cut: Cut
    group: str
    class_id: int
