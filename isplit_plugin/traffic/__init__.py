"""Statistics of live traffic: recorder and sampler take them, the store keeps them."""

from __future__ import annotations

from .aggregates.delta import Delta
from .aggregates.keys import MAX_GROUPS, OTHER
from .aggregates.samples import ImportanceSample
from .forgetting import Forgotten
from .label_reader import LabelReader
from .labels import MAX_LABELS, MAX_REQUEST_ID, Label, LabelResult
from .recorder import Recorder
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
    "Delta",
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
    "is_sampled",
]
