"""The one cache between the store and an answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

MAX_ENTRIES: Final = 512
MAX_BYTES: Final = 32 * 1024 * 1024


class Cache:
    """Values by key, of one version of the store.

    Using another version empties the cache: what was read of an older one is never asked for again,
    and under live traffic a version lasts for a second. When there are too many entries or bytes,
    those that were not used for longest go first.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._version: Hashable = None
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(
        self, key: Hashable, version: Hashable, load: Callable[[], T], nbytes: Callable[[T], int]
    ) -> T:
        """The value of ``key`` at ``version``. Raises what ``load`` raises, and keeps nothing then.

        ``nbytes``: about the memory that a value takes.
        """
        self._use(version)
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            return cast(T, entry[0])
        value = load()
        self.put(key, version, value, nbytes(value))
        return value

    def put(self, key: Hashable, version: Hashable, value: object, nbytes: int) -> None:
        """Keep a value that was read along with another. One above the bound is not kept."""
        self._use(version)
        self._drop(key)
        if nbytes > self._max_bytes:
            return
        self._entries[key] = (value, nbytes)
        self._bytes += nbytes
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._bytes

    def _use(self, version: Hashable) -> None:
        if version != self._version:
            self._entries.clear()
            self._bytes = 0
            self._version = version

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
