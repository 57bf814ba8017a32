"""Statistics of live traffic: recorder and sampler take them, the store keeps them."""

from __future__ import annotations

from .delta import Delta
from .keys import MAX_GROUPS, OTHER
from .label_reader import LabelReader
from .labels import MAX_LABELS, MAX_REQUEST_ID, Label, LabelResult
from .networks import StoredNetwork
from .recorder import Recorder
from .sampler import ImportanceFn, Sampler, is_sampled
from .samples import ImportanceSample
from .served_rows import Group
from .store import StandingSnapshot, Store
from .ticket_rows import TicketUse

__all__ = [
    "MAX_GROUPS",
    "MAX_LABELS",
    "MAX_REQUEST_ID",
    "OTHER",
    "Delta",
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
