"""Statistics of live traffic: recorder and sampler take them, the store keeps them."""

from __future__ import annotations

from .aggregates.delta import Delta
from .aggregates.keys import MAX_GROUPS, OTHER
from .aggregates.samples import ImportanceSample
from .exit_keeper import ExitKeeper, ExitPolicy, look, read_version
from .exit_recorder import ExitRecorder
from .exit_state import ExitClass, ExitState, audit_counts, shadow_counts
from .exits import ExitBatch, ExitEvidence, ExitStore
from .forgetting import Forgotten
from .label_reader import LabelReader
from .labels import MAX_LABELS, MAX_REQUEST_ID, Label, LabelResult
from .recorder import Recorder
from .rows.exit_sums import ClassEvidence
from .rows.exits import CountedAnswer, ExitCount, ExitVersion
from .rows.served import Group
from .rows.ticket import TicketUse
from .rows.versions import StoredNetwork
from .sampler import ImportanceFn, Sampler, is_sampled
from .store import StandingSnapshot, Store

__all__ = [
    "MAX_GROUPS",
    "MAX_LABELS",
    "MAX_REQUEST_ID",
    "OTHER",
    "ClassEvidence",
    "CountedAnswer",
    "Delta",
    "ExitBatch",
    "ExitClass",
    "ExitCount",
    "ExitEvidence",
    "ExitKeeper",
    "ExitPolicy",
    "ExitRecorder",
    "ExitState",
    "ExitStore",
    "ExitVersion",
    "Forgotten",
    "Group",
    "ImportanceFn",
    "ImportanceSample",
    "Label",
    "LabelReader",
    "LabelResult",
    "Recorder",
    "Sampler",
    "StandingSnapshot",
    "Store",
    "StoredNetwork",
    "TicketUse",
    "audit_counts",
    "is_sampled",
    "look",
    "read_version",
    "shadow_counts",
]
