"""How much a device may ask: a rate, and requests at the same time."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import RateLimitError, ServerBusyError
from ..token_bucket import TokenBucket
from .settings import Limits

MAX_DEVICES: Final = 100_000
"""Devices whose budgets are kept. Of more, the least recent ones are forgotten."""
BUSY_RETRY_S: Final = 1


class Budgets:
    """The budgets of all devices. For one thread.

    Parameters:
        limits: how large they are.
        clock: seconds, monotonic.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._rates: OrderedDict[str, TokenBucket] = OrderedDict()
        self._running: dict[str, int] = {}
        self._all = 0

    @contextmanager
    def request(self, device_id: str) -> Iterator[None]:
        """Around one request of a device.

        Raises:
            RateLimitError: the device has sent too much.
            ServerBusyError: too many requests run already.
        """
        self._spend(device_id)
        running = self._running.get(device_id, 0)
        most = self._limits.requests_per_device
        if running >= most:
            raise RateLimitError(
                f"expected at most {most} requests of one device at the same time; wait for an "
                "answer first",
                retry_after_s=BUSY_RETRY_S,
            )
        if self._all >= self._limits.requests:
            raise ServerBusyError(
                f"{self._all} requests are being answered, as many as allowed; try again",
                retry_after_s=BUSY_RETRY_S,
            )
        self._running[device_id] = running + 1
        self._all += 1
        try:
            yield
        finally:
            self._all -= 1
            self._running[device_id] -= 1
            if not self._running[device_id]:
                del self._running[device_id]

    def _spend(self, device_id: str) -> None:
        bucket = self._rates.get(device_id)
        if bucket is None:
            bucket = TokenBucket(self._limits.rate, self._limits.burst, self._clock)
            self._rates[device_id] = bucket
            if len(self._rates) > MAX_DEVICES:
                self._rates.popitem(last=False)
        self._rates.move_to_end(device_id)
        if bucket.level() < 1.0:
            raise RateLimitError(
                f"expected at most {self._limits.rate:g} requests a second of one device",
                rate=self._limits.rate,
                retry_after_s=math.ceil(bucket.seconds_until(1.0)),
            )
        bucket.take(1.0)
