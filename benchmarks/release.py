"""Does the promise of exits hold? Releases, audits and withdrawals, simulated with the real rules.

``python -m benchmarks release`` simulates one class of one exit many times, each with a quality of
its own. In half of the runs half of the photos change their answer at once, at a random moment. A
run is bad where more of the photos that the device answered by itself disagree with the full
network than the tolerance allows, over the whole run, what came before the withdrawal included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt

from isplit_plugin.exits import (
    BINS,
    TOLERANCE,
    Audits,
    ShadowCounts,
    audit_share,
    released_bin,
)

from .harness import Row, row

PHOTOS: Final = 20_000
"""Photos of a run that the exit takes for its class."""
RUNS: Final = 1000
BATCH: Final = 25
"""Photos between two looks at the counts. A withdrawal counts from the audit that breaks it on."""
BAD_RUNS: Final = 0.07
"""The share of bad runs that the promise leaves: 5 %, and what chance adds in a thousand runs."""

Bools = npt.NDArray[np.bool_]


@dataclass
class Run:
    """What happened in one run.

    Attributes:
        drift_at: the photo from which on half of the answers change; infinite without a drift.
        bin: the lowest released bin, ``None`` before a release.
        shadow: shadow answers until the release.
        exits, wrong: photos that the device answered by itself, and those that disagree.
        wrong_after_drift: of them since the drift.
        audited: exits that were audited.
        ended: the photo at which the class was withdrawn; infinite if it was not.
    """

    drift_at: float
    bin: int | None = None
    shadow: int = 0
    exits: int = 0
    wrong: int = 0
    wrong_after_drift: int = 0
    audited: int = 0
    ended: float = float("inf")

    @property
    def bad(self) -> bool:
        """Whether too many of the exits disagree."""
        return self.wrong > TOLERANCE * self.exits

    @property
    def false_alarm(self) -> bool:
        """Whether the class was withdrawn before any drift."""
        return self.ended < self.drift_at


def simulate(random: np.random.Generator, *, drift: bool, photos: int = PHOTOS) -> Run:
    """One run with a class and an exit drawn at random, and a drift at a random moment or none."""
    center = random.uniform(4, 14)  # in bins of the margin
    misses = 10 ** random.uniform(-3.5, -1.5) * np.exp(
        random.uniform(0, 0.4) * (10 - np.arange(BINS))
    )
    run = Run(random.uniform(0, photos) if drift else float("inf"))
    counts, audits = ShadowCounts.none(), Audits()
    for start in range(0, photos, BATCH):
        bins = np.clip(np.rint(random.normal(center, 4, BATCH)), 0, BINS - 1).astype(int)
        chance = np.minimum(misses, 0.9)[bins]
        drifted = np.arange(start, start + BATCH) >= run.drift_at
        miss = random.random(BATCH) < np.where(drifted, 0.5 + 0.5 * chance, chance)
        exits = np.zeros(BATCH, bool) if run.bin is None else bins >= run.bin
        audits = _answer(random, run, audits, start=start, exits=exits, miss=miss)
        if run.ended < float("inf"):
            break
        counts = _watched(counts, bins[~exits], miss[~exits])
        lowest = released_bin(counts)
        if lowest is not None and (run.bin is None or lowest < run.bin):
            run.shadow = run.shadow or counts.answers
            run.bin = lowest
    return run


def _answer(
    random: np.random.Generator, run: Run, audits: Audits, *, start: int, exits: Bools, miss: Bools
) -> Audits:
    """Answer photos on the device until an audit withdraws the class."""
    share = audit_share(audits.exits)
    audited = random.random(len(exits)) < share
    for index in np.flatnonzero(exits):
        run.exits += 1
        run.wrong += int(miss[index])
        run.wrong_after_drift += int(miss[index] and start + index >= run.drift_at)
        if audited[index]:
            run.audited += 1
            audits = audits.after(int(not miss[index]), int(miss[index]), share)
            if audits.withdrawn:
                run.ended = float(start + index)
                break
    return audits


def _watched(counts: ShadowCounts, bins: npt.NDArray[np.int64], miss: Bools) -> ShadowCounts:
    both = (np.bincount(bins[chosen], minlength=BINS) for chosen in (~miss, miss))
    return counts.merge(ShadowCounts(*both))


def simulations(runs: int, *, drift: bool, seed: int = 0, photos: int = PHOTOS) -> list[Run]:
    """Several runs. The same seed gives the same runs."""
    random = np.random.default_rng([seed, drift])
    return [simulate(random, drift=drift, photos=photos) for _ in range(runs)]


def run(quick: bool = False) -> list[Row]:
    """Rows without a drift, with one, and for both together."""
    number = 40 if quick else RUNS // 2
    steady, drifting = (simulations(number, drift=drift) for drift in (False, True))
    everything = [*steady, *drifting]
    expected = f"at most {BAD_RUNS * len(everything):.0f}"
    return [
        *_rows("no drift", steady),
        *_rows("half of the answers change at once", drifting),
        row(
            f"all {len(everything)} runs: bad", sum(r.bad for r in everything), "runs",
            expected=expected,
        ),
    ]  # fmt: skip


def _rows(name: str, runs: Sequence[Run]) -> list[Row]:
    released = [each for each in runs if each.bin is not None]
    caught = [each for each in released if each.drift_at < each.ended < float("inf")]
    exits = sum(each.exits for each in runs)
    rows = [
        row(f"{name}: runs", len(runs), "runs"),
        row(f"{name}: released", len(released), "runs"),
        row(f"{name}: bad", sum(each.bad for each in runs), "runs"),
        row(f"{name}: withdrawn before a drift", sum(r.false_alarm for r in runs), "runs"),
        row(f"{name}: shadow answers until release", median(r.shadow for r in released), "photos"),
        row(f"{name}: answered on the device", exits / (PHOTOS * len(runs)), "share"),
        row(f"{name}: of these audited", sum(each.audited for each in runs) / exits, "share"),
    ]
    if caught:
        wrong = median(each.wrong_after_drift for each in caught)
        rows.append(row(f"{name}: wrong answers until withdrawal", wrong, "photos"))
    return rows
