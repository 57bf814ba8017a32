"""How long requests wait at the server, from what its answers say."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

_WINDOW: Final = 5
"""Answers that count. Their median ignores one or two slow ones, and follows after three."""
_HALF_LIFE_S: Final = 20.0
"""After so long without an answer, half of the wait is still expected: queues go as they come."""


class QueueTimes:
    """The queue at the server as a device sees it. Without answers, it is taken to empty.

    All times in seconds are on a clock that does not go back.
    """

    def __init__(self) -> None:
        self._waited_ms: deque[float] = deque(maxlen=_WINDOW)
        self._at_s = -math.inf

    def add(self, ms: float, at_s: float) -> None:
        """Take in the wait of one request. One that cannot be is ignored."""
        if math.isfinite(ms) and ms >= 0:
            self._waited_ms.append(ms)
            self._at_s = max(at_s, self._at_s)

    def expected_ms(self, now_s: float) -> float:
        """How long a request is expected to wait now; 0 where nothing is known."""
        if not self._waited_ms:
            return 0.0
        age_s = max(0.0, now_s - self._at_s)
        return float(median(self._waited_ms) * 2.0 ** (-age_s / _HALF_LIFE_S))
