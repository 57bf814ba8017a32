"""What was seen: mergeable statistics of live traffic, the recorder that takes them, the sampler that computes
importance in the background, and the store that keeps it all."""

from __future__ import annotations

from .delta import MAX_GROUPS, OTHER
from .networks import StoredNetwork
from .recorder import Recorder
from .sampler import ImportanceFn, Sampler, is_sampled
from .store import Group, StandingSnapshot, Store

__all__ = [
    "MAX_GROUPS",
    "OTHER",
    "Group",
    "ImportanceFn",
    "Recorder",
    "Sampler",
    "StandingSnapshot",
    "Store",
    "StoredNetwork",
    "is_sampled",
]
