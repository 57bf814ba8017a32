"""Recommendations: class-conditional curves, latency model, ranking of cuts, standing pick.

The package does no I/O and has no clock: the same input gives the same answer.
"""

from __future__ import annotations

from .anytime import median_ranks
from .assessment import bare_profile, recommend
from .curves import class_curves
from .faithful import CHANCE, TOLERANCE, Sample, is_faithful, most_misses, photos_needed, sign_test
from .intervals import wilson
from .labels import LabelSums
from .live_view import (
    ALL_GROUPS,
    F64,
    I64,
    WHOLE_CURVES,
    ClassCounts,
    ImportanceRows,
    LiveView,
    OutcomeRow,
    OutcomeRows,
    ServedRow,
    Source,
    Target,
    Times,
    positions,
)
from .mix import live_weights
from .placement import candidate_points, local_maxima
from .query import MAX_CLASSES, Constraints, Query
from .ratios import Yardstick, yardstick
from .smallest import SmallestCodec, best_photo, smallest_codec, smallest_faithful
from .standing import (
    PickChange,
    StandingAnswer,
    StandingState,
    SwitchingPolicy,
    answer_standing,
    has_standing_pick,
)
from .winners import (
    SLOWDOWNS,
    UPLINKS_MBPS,
    Timed,
    WinnerCell,
    WinnerGrid,
    winner_grid,
    winning_split_points,
)

__all__ = [
    "ALL_GROUPS",
    "CHANCE",
    "F64",
    "I64",
    "MAX_CLASSES",
    "SLOWDOWNS",
    "TOLERANCE",
    "UPLINKS_MBPS",
    "WHOLE_CURVES",
    "ClassCounts",
    "Constraints",
    "ImportanceRows",
    "LabelSums",
    "LiveView",
    "OutcomeRow",
    "OutcomeRows",
    "PickChange",
    "Query",
    "Sample",
    "ServedRow",
    "SmallestCodec",
    "Source",
    "StandingAnswer",
    "StandingState",
    "SwitchingPolicy",
    "Target",
    "Timed",
    "Times",
    "WinnerCell",
    "WinnerGrid",
    "Yardstick",
    "answer_standing",
    "bare_profile",
    "best_photo",
    "candidate_points",
    "class_curves",
    "has_standing_pick",
    "is_faithful",
    "live_weights",
    "local_maxima",
    "median_ranks",
    "most_misses",
    "photos_needed",
    "positions",
    "recommend",
    "sign_test",
    "smallest_codec",
    "smallest_faithful",
    "wilson",
    "winner_grid",
    "winning_split_points",
    "yardstick",
]
