"""Reading labels for the sampler."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..closing import Closing
from .store import Store


class LabelReader(Closing):
    """Reads labels from a store, which it opens at its first use. For one thread."""

    def __init__(self, store_url: str | Path) -> None:
        self._url = store_url
        self._store: Store | None = None

    def label_of(self, request_id: str) -> int | None:
        """The true class of a request; ``None`` without a label or a store. Never raises."""
        if not request_id:
            return None
        with suppress(Exception):
            if self._store is None:
                self._store = Store(self._url, create=False)
            return self._store.label_of(request_id)
        return None

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
            self._store = None
