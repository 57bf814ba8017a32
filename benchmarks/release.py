"""Does the promise of exits hold? Releases, audits and withdrawals, simulated with the real rules.

``python -m benchmarks release`` simulates one version of an exit many times, each with classes of
its own: how many, how often each comes, how often each disagrees at which margin. In half of the
runs something changes at once, at a random moment: half of the answers of all classes, or of one
class, or which classes come. Each promise gets the same exits and the same changes.

With the promise ``together`` a run is bad where more of the photos that the device answered by
itself disagree with the full network than the tolerance allows, over the whole run, what came before
the withdrawal included. With ``each`` every class is judged like that by itself: each has alpha of
its own, so of all classes of all runs 5 % may be bad. How many runs have a bad class is printed, and
not promised.

A class "must not be released" from a margin on at which more than the tolerance of its photos
disagree in truth. The proof of ``each`` says how rare that is; a class can be bad without it, by
chance or by a drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, get_args

import numpy as np

from isplit_plugin.exits import Promise

from .exit_runs import CLASSES, DRIFTS, PHOTOS, Run, simulations
from .harness import Row, row

RUNS: Final = 1000
BAD_SHARE: Final = 0.07
"""The share of bad runs, or classes, that the promise leaves: 5 %, and what chance adds in a
thousand runs."""
MANY_EXITS: Final = 300
"""From so many exits on a class may have three wrong ones: what it takes to notice a drift."""


def run(quick: bool = False) -> list[Row]:
    """For each promise rows without a drift, with each kind of drift, and for all together."""
    number = 60 if quick else RUNS // 2
    rows: list[Row] = []
    steady: dict[Promise, list[Run]] = {}
    for promise in get_args(Promise):
        steady[promise] = simulations(number, drift=False, promise=promise)
        drifting = simulations(number, drift=True, promise=promise)
        rows += rows_of(f"{promise}, no drift", steady[promise])
        for index, drift in enumerate(DRIFTS):
            rows += rows_of(f"{promise}, drift ({drift})", drifting[index :: len(DRIFTS)])
        rows += verdict(promise, [*steady[promise], *drifting])
    return [*rows, *_first_releases(steady["together"], steady["each"])]


def rows_of(name: str, runs: Sequence[Run]) -> list[Row]:
    """What came of runs of one kind: first the runs, then their classes."""
    exits = sum(int(each.exits.sum()) for each in runs)
    audited = sum(int(each.audited.sum()) for each in runs)
    released = [each for each in runs if each.released]
    many = sum(int((each.bad_classes & (each.exits >= MANY_EXITS)).sum()) for each in runs)
    false = sum(int(each.false_release.sum()) for each in runs)
    rows = [
        row(f"{name}: runs", len(runs), "runs"),
        row(f"{name}: released", len(released), "runs"),
        row(f"{name}: bad", sum(each.bad for each in runs), "runs"),
        row(f"{name}: with a bad class", sum(bool(r.bad_classes.any()) for r in runs), "runs"),
        row(f"{name}: with a false alarm", sum(r.false_alarms > 0 for r in runs), "runs"),
        row(f"{name}: classes", sum(each.classes for each in runs), "classes"),
        row(f"{name}: classes released", sum(_released(each) for each in runs), "classes"),
        row(f"{name}: classes released that must not be", false, "classes"),
        row(f"{name}: bad classes", sum(int(r.bad_classes.sum()) for r in runs), "classes"),
        row(f"{name}: bad classes with {MANY_EXITS} exits or more", many, "classes"),
    ]
    if released:
        first = median(each.shadow for each in released)
        rows.append(row(f"{name}: until the first release, median", first, "photos"))
    if exits:
        rows += [
            row(f"{name}: answered on the device", exits / (PHOTOS * len(runs)), "share"),
            row(f"{name}: of these audited", audited / exits, "share"),
        ]
    return [*rows, *_until_withdrawal(name, runs)]


def _released(each: Run) -> int:
    return int(np.isfinite(each.released_at).sum())


def _until_withdrawal(name: str, runs: Sequence[Run]) -> list[Row]:
    """What a drift costs: until all are withdrawn, and in one class until it is."""
    of_all = [r.wrong_after_drift.sum() for r in runs if r.drift_at < r.ended < float("inf")]
    of_class = [
        wrong
        for r in runs
        for wrong, at in zip(r.wrong_after_drift, r.withdrawn_at, strict=True)
        if r.drift_at < at < float("inf")
    ]
    return [
        row(f"{name}: wrong until {what}, median of {len(wrong)}", float(median(wrong)), "photos")
        for what, wrong in (("all are withdrawn", of_all), ("a class is withdrawn", of_class))
        if wrong
    ]


def verdict(promise: Promise, runs: Sequence[Run]) -> list[Row]:
    """Bad runs, or classes, of all; with ``each`` also by the number of classes of the exit."""
    if promise == "together":
        bad, of = sum(each.bad for each in runs), len(runs)
        expected = f"at most {BAD_SHARE * of:.0f}"
        return [row(f"{promise}, all {of} runs: bad", bad, "runs", expected=expected)]
    rows = []
    for classes in (*CLASSES, None):
        own = [each for each in runs if classes in {None, each.classes}]
        of = sum(each.classes for each in own)
        bad = sum(int(each.bad_classes.sum()) for each in own)
        released = sum(_released(each) for each in own)
        which = "all exits" if classes is None else f"exits of {classes}"
        name = f"{promise}, {which}: bad of {of} classes, {released} released"
        rows.append(row(name, bad, "classes", expected=f"at most {BAD_SHARE * of:.0f}"))
    return rows


def _first_releases(together: Sequence[Run], each: Sequence[Run]) -> list[Row]:
    """Photos until the first release, beside those where each class is proven by itself."""
    rows = []
    for classes in CLASSES:
        ours, theirs = (
            median(r.shadow for r in runs if r.classes == classes) for runs in (together, each)
        )
        rows.append(
            row(
                f"no drift, {classes} classes: shadow answers until the first release, median",
                ours, "photos", rival="each class by itself", rival_value=theirs,
                ratio=ours / theirs if theirs < float("inf") else 0.0,
            )
        )  # fmt: skip
    return rows
