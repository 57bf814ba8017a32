"""Memory and descriptors of processes over time, and whether memory grows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import psutil
import scipy.stats

EVERY_S: Final = 1.0
BLOCKS: Final = 20
"""Blocks that a series is cut into: within a block values depend on each other."""


class Sample(NamedTuple):
    """One look at a process.

    Attributes:
        at: Monotonic seconds.
        rss: Resident memory, bytes.
        anonymous: The part of it that is no page of a file, bytes. A leak grows there.
        descriptors: Open files and sockets.
    """

    at: float
    rss: int
    anonymous: int
    descriptors: int


class Slope(NamedTuple):
    """The trend of memory in MB an hour, and its 95 % confidence interval."""

    mb_per_hour: float
    low: float
    high: float


@dataclass
class Watch:
    """Samples processes once a second. ``processes``: their pids by name."""

    processes: Mapping[str, int]
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Samples are taken within it."""
        self.samples.update({name: [] for name in self.processes})
        thread = threading.Thread(target=self._loop)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _loop(self) -> None:
        processes = {name: psutil.Process(pid) for name, pid in self.processes.items()}
        while not self._stop.wait(EVERY_S):
            for name, process in processes.items():
                try:
                    with process.oneshot():
                        memory, descriptors = process.memory_info(), process.num_fds()
                except psutil.NoSuchProcess:
                    continue
                anonymous = memory.rss - memory.shared
                sample = Sample(time.monotonic(), memory.rss, anonymous, descriptors)
                self.samples[name].append(sample)


def slope(samples: list[Sample]) -> Slope:
    """The trend of memory: the median of the slopes between the medians of blocks.

    So a step, or a moment with much memory, moves it less than a leak does (Theil and Sen; the
    interval is that of Sen, *JASA* 1968). Memory grows in steps, so neighbouring blocks depend on
    each other, and the interval is widened as for fewer independent blocks, by the first
    autocorrelation of the residuals (Wilks, *Statistical Methods in the Atmospheric Sciences*,
    2011, section 5.2.4). Too few samples for twenty blocks give an infinite interval.
    """
    if len(samples) < 2 * BLOCKS:
        return Slope(math.nan, -math.inf, math.inf)
    hours = np.array([sample.at for sample in samples]) / 3600
    mb = np.array([sample.rss for sample in samples]) / 2**20
    x = np.array([np.median(part) for part in np.array_split(hours, BLOCKS)])
    y = np.array([np.median(part) for part in np.array_split(mb, BLOCKS)])
    trend, intercept, low, high = (float(v) for v in scipy.stats.theilslopes(y, x))
    residuals = y - intercept - trend * x
    residuals -= residuals.mean()
    power = float(residuals @ residuals)
    dependence = 0.0
    if power > 1e-18:
        dependence = min(max(float(residuals[1:] @ residuals[:-1]) / power, 0.0), 0.9)
    wider = math.sqrt((1 + dependence) / (1 - dependence))
    return Slope(trend, trend - wider * (trend - low), trend + wider * (high - trend))


def descriptors_grow(samples: list[Sample]) -> bool:
    """Whether even the fewest of the last quarter are more than the most of the first quarter."""
    quarter = len(samples) // 4
    if not quarter:
        return False
    first = max(sample.descriptors for sample in samples[:quarter])
    last = min(sample.descriptors for sample in samples[-quarter:])
    return last > first
