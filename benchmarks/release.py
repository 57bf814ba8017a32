"""Does the promise of exits hold? Releases, audits and withdrawals, simulated with the real rules.

``python -m benchmarks release`` simulates one version of an exit many times, each with classes of
its own: how many, how often each comes, how often each disagrees at which margin. In half of the
runs something changes at once, at a random moment: half of the answers of all classes, or of one
class, or which classes come. A run is bad where more of the photos that the device answered by
itself disagree with the full network than the tolerance allows, over the whole run, what came before
the withdrawal included.

Rows of ``each class by itself`` say what the same photos release where every class needs a proof of
its own, with the same tests: the price of proof of the rule before groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt

from isplit_plugin.exits import ALPHA, BINS, TOLERANCE, ShadowCounts, proven_groups, version_alpha
from isplit_plugin.traffic import ExitClass, ExitCount, ExitState

from .harness import Row, row

PHOTOS: Final = 10_000
"""Photos of a run to which the exit gives a class."""
RUNS: Final = 1000
BATCH: Final = 100
"""Photos between two looks at the counts, at most. After every audit that disagrees there is one:
devices hear of a withdrawal at their next contact, which comes with every audit."""
ALONE_EVERY: Final = 500
"""Photos between two looks at classes by themselves."""
BAD_RUNS: Final = 0.07
"""The share of bad runs that the promise leaves: 5 %, and what chance adds in a thousand runs."""
CLASSES: Final = (1, 2, 5, 20)
DRIFTS: Final = ("all", "one", "mix")
"""What changes: the answers of all classes, those of one, or how often each class comes."""

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass
class Population:
    """The photos of a run.

    Attributes:
        shares: (K,), how often each class comes.
        centers: (K,), the bins of the margin around which its photos are.
        chances: (K, BINS), of a disagreement.
    """

    shares: F64
    centers: F64
    chances: F64

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Population:
        number = int(random.choice(CLASSES))
        shares = random.dirichlet(np.ones(number))
        centers = random.uniform(4, 14) + random.normal(0, 1.5, number)
        level = 10 ** (random.uniform(-3.5, -1.5) + random.normal(0, 0.3, number))
        slope = random.uniform(0, 0.4) * (10 - np.arange(BINS))
        return cls(shares, centers, np.minimum(level[:, None] * np.exp(slope), 0.9))

    def drifted(self, random: np.random.Generator, drift: str) -> Population:
        """What comes afterwards."""
        if drift == "mix":
            return Population(
                random.dirichlet(np.ones(len(self.shares))), self.centers, self.chances
            )
        one = random.choice(len(self.shares), p=self.shares)
        hit = (np.arange(len(self.shares)) == one) | (drift == "all")
        chances = np.where(hit[:, None], 0.5 + 0.5 * self.chances, self.chances)
        return Population(self.shares, self.centers, chances)

    def photos(self, random: np.random.Generator, number: int) -> tuple[I64, I64, F64]:
        """(N,) classes, bins, and chances of a disagreement."""
        classes = random.choice(len(self.shares), number, p=self.shares)
        bins = np.clip(np.rint(random.normal(self.centers[classes], 4)), 0, BINS - 1).astype(int)
        return classes, bins, self.chances[classes, bins]


@dataclass
class Run:
    """What happened in one run.

    Attributes:
        classes: of the exit.
        drift_at: the photo from which on something has changed; infinite without a drift.
        shadow: photos until the release of the first classes; infinite before it.
        alone: the same where each class is proven by itself.
        exits, wrong: photos that the device answered by itself, and those that disagree.
        wrong_after_drift: of them since the drift.
        audited: exits that were audited.
        false_alarms: classes that were withdrawn before a drift.
        ended: the photo at which no class was released any more; infinite if one always was.
    """

    classes: int
    drift_at: float
    shadow: float = float("inf")
    alone: float = float("inf")
    exits: int = 0
    wrong: int = 0
    wrong_after_drift: int = 0
    audited: int = 0
    false_alarms: int = 0
    ended: float = float("inf")

    @property
    def released(self) -> bool:
        """Whether any class ever was."""
        return self.shadow < float("inf")

    @property
    def bad(self) -> bool:
        """Whether too many of the exits disagree."""
        return self.wrong > TOLERANCE * self.exits


@dataclass
class Counts:
    """What was counted of a version: (K, BINS, 2), agreeing and disagreeing last."""

    shadow: I64
    audits: I64 = field(init=False)

    def __post_init__(self) -> None:
        self.audits = np.zeros_like(self.shadow)

    def rows(self) -> list[ExitCount]:
        """As the store has them."""
        return [
            ExitCount(kind, class_id, index, agreeing + disagreeing, agreeing)
            for kind, counts in (("shadow", self.shadow), ("audit", self.audits))
            for class_id, of_class in enumerate(counts.tolist())
            for index, (agreeing, disagreeing) in enumerate(of_class)
            if agreeing or disagreeing
        ]


def simulate(
    random: np.random.Generator, *, drift: str | None, photos: int = PHOTOS, alone: bool = False
) -> Run:
    """One run with an exit drawn at random, and a drift at a random moment or none.

    ``alone``: also how long it takes where each class is proven by itself.
    """
    population = Population.drawn(random)
    number = len(population.shares)
    run = Run(number, random.uniform(0, photos) if drift else float("inf"))
    state = ExitState(1, TOLERANCE, {class_id: ExitClass() for class_id in range(number)})
    counts = Counts(np.zeros((number, BINS, 2), np.int64))
    now, start, next_alone = population, 0, 0
    while start < photos:
        if drift and now is population and start >= run.drift_at:
            now = population.drifted(random, drift)
        classes, bins, chances = now.photos(random, BATCH)
        misses = (random.random(BATCH) < chances).astype(int)
        start += _answer(random, run, state, counts, start, classes, bins, misses)
        state = _look(run, state, counts, start)
        if alone and run.alone == float("inf") and start >= next_alone:
            next_alone = start + ALONE_EVERY
            run.alone = start if _any_alone(counts.shadow) else run.alone
        if state.is_withdrawn:
            run.ended = start
            break
    return run


def _answer(  # noqa: PLR0917
    random: np.random.Generator,
    run: Run,
    state: ExitState,
    counts: Counts,
    start: int,
    classes: I64,
    bins: I64,
    misses: I64,
) -> int:
    """The device answers what is released, and sends the others and its audits.

    Ends after an audit that disagrees. Returns how many photos there were until then.
    """
    released = state.released()
    lowest = np.array([released[c].bin if c in released else BINS for c in state.classes])
    share = np.array([released[c].audit if c in released else 0.0 for c in state.classes])
    exits = bins >= lowest[classes]
    audited = exits & (random.random(len(bins)) < share[classes])
    ends = np.flatnonzero(audited & (misses > 0))
    if len(ends):
        until = slice(int(ends[0]) + 1)
        classes, bins, misses = classes[until], bins[until], misses[until]
        exits, audited = exits[until], audited[until]
    run.exits += int(exits.sum())
    run.wrong += int(misses[exits].sum())
    run.audited += int(audited.sum())
    if start >= run.drift_at:
        run.wrong_after_drift += int(misses[exits].sum())
    np.add.at(counts.shadow, (classes[~exits], bins[~exits], misses[~exits]), 1)
    np.add.at(counts.audits, (classes[audited], bins[audited], misses[audited]), 1)
    return len(bins)


def _look(run: Run, before: ExitState, counts: Counts, start: int) -> ExitState:
    """What the exit keeper makes of the counts."""
    alpha = version_alpha(before.version, ALPHA)
    state = before.after(counts.rows(), alpha=alpha, now=float(start))
    if start < run.drift_at:
        withdrawn = [
            sum(c.withdrawn is not None for c in s.classes.values()) for s in (before, state)
        ]
        run.false_alarms += withdrawn[1] - withdrawn[0]
    if not run.released and state.was_released:
        run.shadow = start
    return state


def _any_alone(shadow: I64) -> bool:
    alpha = version_alpha(1, ALPHA)
    every = (ShadowCounts(counts[:, 0], counts[:, 1]) for counts in shadow)
    return any(proven_groups({0: each}, TOLERANCE, alpha) for each in every)


def simulations(
    runs: int, *, drift: bool, seed: int = 0, photos: int = PHOTOS, alone: bool = False
) -> list[Run]:
    """Several runs. The same seed gives the same runs."""
    return [
        simulate(
            np.random.default_rng([seed, drift, number]),
            drift=DRIFTS[number % len(DRIFTS)] if drift else None,
            photos=photos,
            alone=alone,
        )
        for number in range(runs)
    ]


def run(quick: bool = False) -> list[Row]:
    """Rows without a drift, with each kind of drift, and for all together."""
    number = 60 if quick else RUNS // 2
    steady = simulations(number, drift=False, alone=True)
    drifting = simulations(number, drift=True)
    everything = [*steady, *drifting]
    rows = [*_rows("no drift", steady), *_alone_rows(steady)]
    for index, drift in enumerate(DRIFTS):
        rows += _rows(f"drift ({drift})", drifting[index :: len(DRIFTS)])
    expected = f"at most {BAD_RUNS * len(everything):.0f}"
    bad = sum(each.bad for each in everything)
    return [*rows, row(f"all {len(everything)} runs: bad", bad, "runs", expected=expected)]


def _rows(name: str, runs: Sequence[Run]) -> list[Row]:
    released = [each for each in runs if each.released]
    caught = [each for each in released if each.drift_at < each.ended < float("inf")]
    exits = sum(each.exits for each in runs)
    rows = [
        row(f"{name}: runs", len(runs), "runs"),
        row(f"{name}: released", len(released), "runs"),
        row(f"{name}: bad", sum(each.bad for each in runs), "runs"),
        row(f"{name}: runs with a false alarm", sum(r.false_alarms > 0 for r in runs), "runs"),
        row(f"{name}: answered on the device", exits / (PHOTOS * len(runs)), "share"),
        row(f"{name}: of these audited", sum(each.audited for each in runs) / exits, "share"),
    ]
    if caught:
        wrong = median(each.wrong_after_drift for each in caught)
        rows.append(row(f"{name}: wrong answers until withdrawal", wrong, "photos"))
    return rows


def _alone_rows(runs: Sequence[Run]) -> list[Row]:
    """Photos until the first release, beside those where each class is proven by itself."""
    rows = []
    for classes in CLASSES:
        own = [each for each in runs if each.classes == classes]
        together, alone = median(r.shadow for r in own), median(r.alone for r in own)
        rows.append(
            row(
                f"no drift, {classes} classes: shadow answers until the first release, median",
                together, "photos", rival="each class by itself", rival_value=alone,
                ratio=together / alone if alone < float("inf") else 0.0,
            )
        )  # fmt: skip
    return rows
