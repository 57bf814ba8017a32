"""What to do: class-conditional curves, latency model, recommendation. Pure: no I/O, no clock, no database."""

from __future__ import annotations

from .live import ALL_GROUPS, ClassSeen, ImportanceRows, LiveView, OutcomeRow, ServedRow, Times
from .query import MAX_CLASSES, Constraints, Query
from .recommend import recommend
from .smallest import Smallest, smallest_codec
from .switching import Change, Policy, Settled, Standing, is_held, settle

__all__ = [
    "ALL_GROUPS",
    "MAX_CLASSES",
    "Change",
    "ClassSeen",
    "Constraints",
    "ImportanceRows",
    "LiveView",
    "OutcomeRow",
    "Policy",
    "Query",
    "ServedRow",
    "Settled",
    "Smallest",
    "Standing",
    "Times",
    "is_held",
    "recommend",
    "settle",
    "smallest_codec",
]
