"""What was seen: mergeable statistics of live traffic, the recorder that takes them, and the store that keeps them."""

from __future__ import annotations

from .recorder import Recorder
from .store import Store, StoredNetwork

__all__ = ["Recorder", "Store", "StoredNetwork"]
