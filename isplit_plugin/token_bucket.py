"""A token bucket: a budget that refills at a constant rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class TokenBucket:
    """A budget that refills at a constant rate, up to a capacity. It starts full.

    Taking never fails: the level may fall below zero, for costs that are only known afterwards.
    Whoever spends from the bucket checks :meth:`level` first. Not for several threads at once.

    Parameters:
        rate: tokens per second.
        capacity: the largest level.
        clock: seconds, monotonic.
    """

    __slots__ = ("_capacity", "_clock", "_level", "_rate", "_updated")

    def __init__(
        self, rate: float, capacity: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._capacity = capacity
        self._clock = clock
        self._level = capacity
        self._updated = clock()

    def level(self) -> float:
        """The tokens there are now; negative after more was taken than there was."""
        now = self._clock()
        self._level = min(self._capacity, self._level + self._rate * (now - self._updated))
        self._updated = now
        return self._level

    def take(self, tokens: float) -> None:
        """Take tokens, if need be more than there are."""
        self._level -= tokens

    def seconds_until(self, level: float) -> float:
        """Seconds until the bucket holds ``level`` tokens: 0 if it does, infinite at rate 0."""
        missing = level - self.level()
        if missing <= 0:
            return 0.0
        return missing / self._rate if self._rate > 0 else math.inf
