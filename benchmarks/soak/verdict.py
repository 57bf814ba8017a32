"""What a soak must show, and what it showed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from isplit_plugin.traffic import Store

from .faults import Fault
from .load import DEADLINE_S, Load
from .models import Version
from .watch import Sample, Slope, descriptors_grow, slope

MAX_SLOPE: Final = 5.0
"""MB an hour."""
MIN_SPAN_S: Final = 600.0
"""Seconds after the warm-up that a judgement on memory takes. In less, one step of half a megabyte
looks like a leak.
"""
FLUSH_S: Final = 2.0
"""What a killed worker answered in its last seconds may be lost: it flushes once a second."""
AFTERMATH_S: Final = DEADLINE_S + 5.0
"""Seconds after a database restart in which questions may still fail: one may have waited for it."""


class Memory(StrEnum):
    """What the trend of a process's memory shows."""

    FLAT = "below the bound"
    UNDECIDED = "too short to judge"
    GROWS = "grows"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``bound``: what it must be, empty where it is only shown; ``ok``: whether it is."""

    name: str
    value: str
    bound: str = ""
    ok: bool = True


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """Memory and descriptors of a process after the warm-up.

    Attributes:
        rss_mb: At the first and at the last sample.
        anonymous_mb: Likewise, without the pages of files.
        slope: MB an hour, with the ends of its 95 % confidence interval.
        descriptors: The fewest and the most.
        memory: What the trend shows: all of its interval is below the bound, or above it, or the
            time was too short.
    """

    process: str
    samples: int
    rss_mb: tuple[float, float]
    anonymous_mb: tuple[float, float]
    slope: tuple[float, float, float]
    descriptors: tuple[int, int]
    memory: Memory
    descriptors_grow: bool

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types; infinities, of too short a series, become ``None``."""
        raw = asdict(self)
        raw["slope"] = [value if math.isfinite(value) else None for value in self.slope]
        return raw


def process_figures(name: str, samples: list[Sample], warm_at: float) -> ProcessFigures:
    """The figures of one process. ``warm_at``: monotonic seconds, the end of the warm-up."""
    warm = [sample for sample in samples if sample.at >= warm_at]
    trend = slope(warm)
    counts = [sample.descriptors for sample in warm] or [0]
    megabytes = [sample.rss / 2**20 for sample in warm] or [math.nan]
    anonymous = [sample.anonymous / 2**20 for sample in warm] or [math.nan]
    return ProcessFigures(
        process=name,
        samples=len(warm),
        rss_mb=(round(megabytes[0], 1), round(megabytes[-1], 1)),
        anonymous_mb=(round(anonymous[0], 1), round(anonymous[-1], 1)),
        slope=(round(trend.mb_per_hour, 2), round(trend.low, 2), round(trend.high, 2)),
        descriptors=(min(counts), max(counts)),
        memory=_judgement(warm, trend),
        descriptors_grow=descriptors_grow(warm),
    )


def _judgement(samples: list[Sample], trend: Slope) -> Memory:
    if len(samples) < 2 or samples[-1].at - samples[0].at < MIN_SPAN_S:
        return Memory.UNDECIDED
    if trend.high < MAX_SLOPE:
        return Memory.FLAT
    return Memory.GROWS if trend.low > MAX_SLOPE else Memory.UNDECIDED


def prediction_rows(load: Load, faults: list[Fault], store: Store) -> list[Row]:
    """Rows about predictions, statistics and questions."""
    kills = [fault for fault in faults if fault.kind == "kill -9"]
    outages = [fault for fault in faults if fault.kind == "database restart"]
    missed = [
        failure
        for failure in load.unanswered
        if not any(o.at - 1 <= failure.at <= o.until + AFTERMATH_S for o in outages)
    ]
    lost = sum(max(0, _answered(load, v) - _counted(store, v)) for v in load.versions)
    may_lose = sum(
        kill.at - FLUSH_S <= at <= kill.at + 1
        for kill in kills
        for times in load.answered.values()
        for at in times
    )
    drops = sum(store.drops(v.manifest.network_hash) for v in load.versions)
    return [
        Row("predictions answered", str(load.total), "> 0", load.total > 0),
        Row("predictions failed", str(len(load.failed)), "0", not load.failed),
        Row("slowest prediction", f"{load.slowest_s:.2f} s"),
        Row("predictions lost to the statistics", str(lost), f"<= {may_lose}", lost <= may_lose),
        Row("of them dropped by a full recorder", str(drops)),
        Row("questions answered", str(load.questions), "> 0", load.questions > 0),
        Row("questions and labels that failed", str(len(load.unanswered))),
        Row("of them without a database restart", str(len(missed)), "0", not missed),
        Row("labels stored", str(load.labels), "> 0", load.labels > 0),
    ]


def _answered(load: Load, version: Version) -> int:
    return len(load.answered[version.number])


def _counted(store: Store, version: Version) -> int:
    return store.view(version.manifest.network_hash).observations
