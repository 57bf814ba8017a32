"""Refused requests in the log: some lines a minute, however many requests are refused."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from ..errors import IsplitError
from ..printable import printable

_LOGGER = logging.getLogger(__name__)
_EVERY_S: Final = 10.0


class Refusals:
    """Logs one refusal of each kind every ten seconds, with the number of those before it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until: dict[str, float] = {}
        self._unlogged: Counter[str] = Counter()

    def add(self, error: IsplitError, address: str | None) -> None:
        """Count a refusal, and perhaps log it."""
        now = self._clock()
        if now < self._quiet_until.get(error.code, now):
            self._unlogged[error.code] += 1
            return
        self._quiet_until[error.code] = now + _EVERY_S
        more = self._unlogged.pop(error.code, 0)
        _LOGGER.warning(
            "refused %s: %d %s: %s%s",
            address,
            error.status,
            error.code,
            printable(error.message, limit=300),
            f" ({more} more like it before)" if more else "",
        )
