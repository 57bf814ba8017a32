"""What to do: class-conditional curves, latency model, recommendation. Pure: no I/O, no clock, no database."""

from __future__ import annotations

from .live_view import (
    ALL_GROUPS,
    ClassCounts,
    ImportanceRows,
    LiveView,
    OutcomeRow,
    ServedRow,
    Times,
)
from .query import MAX_CLASSES, Constraints, Query
from .recommend import recommend
from .smallest_codec import SmallestCodec, smallest_codec
from .standing import Change, Policy, Settlement, Standing, is_held, settle

__all__ = [
    "ALL_GROUPS",
    "MAX_CLASSES",
    "Change",
    "ClassCounts",
    "Constraints",
    "ImportanceRows",
    "LiveView",
    "OutcomeRow",
    "Policy",
    "Query",
    "ServedRow",
    "Settlement",
    "SmallestCodec",
    "Standing",
    "Times",
    "is_held",
    "recommend",
    "settle",
    "smallest_codec",
]
