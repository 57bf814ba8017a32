"""Pauses between tries that grow while the tries fail."""

from __future__ import annotations


class GrowingPause:
    """Pauses, each twice as long as the one before, up to the longest.

    Parameters:
        shortest_s, longest_s: seconds.
    """

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s = min(shortest_s, longest_s)
        self._longest_s = longest_s
        self._now_s = self._shortest_s

    @property
    def now_s(self) -> float:
        """Seconds of the next pause."""
        return self._now_s

    def grow(self) -> float:
        """The next pause in seconds; the one behind it is twice as long."""
        pause_s = self._now_s
        self._now_s = min(2 * pause_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin with the shortest again."""
        self._now_s = self._shortest_s
