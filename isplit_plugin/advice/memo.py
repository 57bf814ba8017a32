"""Values that follow from one object alone, worked out once for as long as that object lives.

Profiles and views never change, and many questions are asked of the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
R = TypeVar("R")


def once(function: Callable[[T], R]) -> Callable[[T], R]:
    """Keep what ``function`` returned for an object (told apart by identity, so it must not define equality)."""
    known: WeakKeyDictionary[T, R] = WeakKeyDictionary()

    @wraps(function)
    def kept(of: T) -> R:
        found = known.get(of)
        if found is None:
            found = known[of] = function(of)
        return found

    return kept
