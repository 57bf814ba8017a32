"""Objects by name: built-in ones, and those that other installed packages offer as entry points.

A package offers an object with an entry point, in its ``pyproject.toml``::

    [project.entry-points."isplit.codecs"]
    bfloat16 = "isplit_bfloat16:CODECS"

The groups are ``isplit.codecs``, ``isplit.predictors`` and ``isplit.runtimes``. Specification:
https://packaging.python.org/en/latest/specifications/entry-points/
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


class Registry(MutableMapping[str, T], Generic[T]):
    """A mapping from names to objects that loads the entry points of a group when it needs them.

    They are loaded once: at the first lookup of a name that is not known, or when the names are
    listed. Looking up a known name loads nothing. An entry point that cannot be loaded, or whose
    name is taken, is logged as an error and ignored.

    Parameters:
        group: The group of the entry points.
        read: Turns the name and the object of an entry point into objects by name. Whatever it
            raises is logged.
    """

    def __init__(self, group: str, read: Callable[[str, object], Mapping[str, T]]) -> None:
        self._group = group
        self._read = read
        self._objects: dict[str, T] = {}
        self._loaded = False
        self._lock = threading.RLock()  # reentrant: a plugin may use the registry as it is loaded

    def __getitem__(self, name: str) -> T:
        if name not in self._objects:
            self._load()
        return self._objects[name]

    def __setitem__(self, name: str, value: T) -> None:
        self._objects[name] = value

    def __delitem__(self, name: str) -> None:
        del self._objects[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(tuple(self._objects))

    def __len__(self) -> int:
        self._load()
        return len(self._objects)

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            self._loaded = True
            # Imported here: most programs use built-in names only.
            from importlib.metadata import entry_points

            for entry_point in entry_points(group=self._group):
                try:
                    objects = self._read(entry_point.name, entry_point.load())
                    self._add(objects)
                except Exception as error:
                    log.error(
                        "entry point %s = %s of group %s is ignored: %s: %s",
                        entry_point.name,
                        entry_point.value,
                        self._group,
                        type(error).__name__,
                        error,
                    )

    def _add(self, objects: Mapping[str, T]) -> None:
        taken = [
            name for name, value in objects.items() if self._objects.get(name, value) is not value
        ]
        if taken:
            raise ValueError(f"the name {', '.join(map(repr, taken))} is taken")
        self._objects.update(objects)


def named_callable(name: str, value: object) -> dict[str, Callable[..., Any]]:
    """Read an entry point whose object is a function or a class: its name is the entry point's.

    Raises TypeError for any other object.
    """
    if not callable(value):
        raise TypeError(f"expected a function or a class, got {type(value).__name__}")
    return {name: value}
