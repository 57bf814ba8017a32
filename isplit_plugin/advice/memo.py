"""Results that depend on one object alone, computed once and kept as long as the object lives.

Profiles and views never change, and many questions are asked about the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
R = TypeVar("R")


def once(function: Callable[[T], R]) -> Callable[[T], R]:
    """Cache ``function`` by the identity of its argument, whose class must not define equality."""
    results: WeakKeyDictionary[T, R] = WeakKeyDictionary()

    @wraps(function)
    def cached(argument: T) -> R:
        result = results.get(argument)
        if result is None:
            result = function(argument)
            results[argument] = result
        return result

    return cached
