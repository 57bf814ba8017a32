"""What each cut costs on this device, from its own predictions."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final

from ..schema import Cut, RatedCut

_WINDOW: Final = 9
"""Predictions of a cut that count. Their median ignores a few slow ones."""
_SHORTEST_MS: Final = 0.05


class OwnTimes:
    """Milliseconds of preparation, head and encoding on this device, by cut.

    A cut that was never tried is expected to take what the server advises, times how much slower
    this device was than advised at the cuts that were. Several threads may use it at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[Cut, deque[float]] = {}
        self._loaded: set[str] = set()

    def add(self, cut: Cut, ms: float) -> None:
        """Take in the time of one prediction.

        The first one at a split point does not count, because it loads the head.
        """
        with self._lock:
            if cut.split_point in self._loaded:
                self._times.setdefault(cut, deque(maxlen=_WINDOW)).append(ms)
            self._loaded.add(cut.split_point)

    def measured_ms(self, cut: Cut) -> float | None:
        """The median of the last predictions at a cut; ``None`` if there was none."""
        return self._measured().get(cut)

    def expected_ms(self, advised: Sequence[RatedCut]) -> dict[Cut, float]:
        """What each cut is expected to take here; NaN where neither was measured nor advised."""
        own = self._measured()
        ratios = [
            own[row.cut] / row.device_ms
            for row in advised
            if row.cut in own and row.device_ms >= _SHORTEST_MS
        ]
        slowdown = median(ratios) if ratios else 1.0
        return {row.cut: own.get(row.cut, row.device_ms * slowdown) for row in advised}

    def _measured(self) -> dict[Cut, float]:
        with self._lock:
            return {cut: median(times) for cut, times in self._times.items()}
