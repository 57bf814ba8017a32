"""The one cache between the store and an answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

MAX_ENTRIES: Final = 512
MAX_BYTES: Final = 64 * 1024 * 1024


class Cache:
    """Values by key, each valid for one version of the store.

    A value is loaded again when its key is asked for at another version, and then replaces the old
    one. When there are too many entries or bytes, those that were not used for longest go first.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Hashable, Any, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(
        self,
        key: Hashable,
        version: Hashable,
        load: Callable[[], T],
        nbytes: Callable[[T], int] = lambda _: 0,
    ) -> T:
        """The value of ``key`` at ``version``. Raises what ``load`` raises, and keeps nothing then.

        ``nbytes``: the memory that a value takes.
        """
        entry = self._entries.get(key)
        if entry is not None and entry[0] == version:
            self._entries.move_to_end(key)
            return cast(T, entry[1])
        value = load()
        self.put(key, version, value, nbytes(value))
        return value

    def put(self, key: Hashable, version: Hashable, value: object, size: int = 0) -> None:
        """Keep a value that was read along with another."""
        self._drop(key)
        self._entries[key] = (version, value, size)
        self._bytes += size
        while len(self._entries) > self._max_entries or (
            self._bytes > self._max_bytes and len(self._entries) > 1
        ):
            self._drop(next(iter(self._entries)))

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._bytes

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[2]
