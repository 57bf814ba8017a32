"""One version of an exit, simulated with the real rules: its release, its audits, its withdrawal.

``python -m benchmarks release`` counts what came of many such runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from isplit_plugin.exits import (
    ALPHA,
    BINS,
    TOLERANCE,
    Promise,
    version_alpha,
)
from isplit_plugin.traffic import ExitClass, ExitCount, ExitState

PHOTOS: Final = 10_000
"""Photos of a run to which the exit gives a class."""
BATCH: Final = 100
"""Photos between two looks at the counts, at most. After every audit that disagrees there is one:
devices hear of a withdrawal at their next contact, which comes with every audit."""
CLASSES: Final = (1, 2, 5, 20)
DRIFTS: Final = ("all", "one", "mix")
"""What changes: the answers of all classes, those of one, or how often each class comes."""
_SPREAD: Final = 4.0  # of the margins of a class, in bins

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

    def chances_from(self, class_id: int) -> F64:
        """(BINS,): of a disagreement of one class's photos with a margin in each bin or above."""
        edges = [(edge - 0.5 - self.centers[class_id]) / _SPREAD for edge in range(1, BINS)]
        below = np.array([0.0, *(0.5 + 0.5 * math.erf(z / math.sqrt(2)) for z in edges), 1.0])
        weights = np.diff(below)
        above = weights[::-1].cumsum()[::-1]
        return np.asarray((weights * self.chances[class_id])[::-1].cumsum()[::-1] / above)

    def photos(self, random: np.random.Generator, number: int) -> tuple[I64, I64, F64]:
        """(N,) classes, bins, and chances of a disagreement."""
        classes = random.choice(len(self.shares), number, p=self.shares)
        bins = np.clip(np.rint(random.normal(self.centers[classes], _SPREAD)), 0, BINS - 1).astype(
            int
        )
        return classes, bins, self.chances[classes, bins]


@dataclass
class Run:
    """What happened in one run. Arrays are (K,), by class.

    Attributes:
        classes: of the exit, K.
        drift_at: the photo from which on something has changed; infinite without a drift.
        exits, wrong: photos that the device answered by itself, and those that disagree.
        wrong_after_drift: of them since the drift.
        audited: exits that were audited.
        released_at: the photo at which a class was released; infinite where it never was.
        withdrawn_at: the same of its withdrawal.
        false_release: whether it ever was released from a margin on at which more than the tolerance
            of its photos disagree, before a drift.
        ended: the photo at which no class was released any more; infinite if one always was.
    """

    classes: int
    drift_at: float
    exits: I64 = field(init=False)
    wrong: I64 = field(init=False)
    wrong_after_drift: I64 = field(init=False)
    audited: I64 = field(init=False)
    released_at: F64 = field(init=False)
    withdrawn_at: F64 = field(init=False)
    false_release: npt.NDArray[np.bool_] = field(init=False)
    ended: float = math.inf

    def __post_init__(self) -> None:
        self.exits, self.wrong, self.wrong_after_drift, self.audited = (
            np.zeros((4, self.classes), np.int64)
        )  # fmt: skip
        self.released_at, self.withdrawn_at = np.full((2, self.classes), math.inf)
        self.false_release = np.zeros(self.classes, np.bool_)

    @property
    def shadow(self) -> float:
        """Photos until the release of the first classes; infinite before it."""
        return float(self.released_at.min())

    @property
    def released(self) -> bool:
        """Whether any class ever was."""
        return self.shadow < math.inf

    @property
    def bad(self) -> bool:
        """Whether too many of all exits disagree."""
        return bool(self.wrong.sum() > TOLERANCE * self.exits.sum())

    @property
    def bad_classes(self) -> npt.NDArray[np.bool_]:
        """(K,): whether too many of the exits of this class disagree."""
        return np.asarray(self.wrong > TOLERANCE * self.exits)

    @property
    def false_alarms(self) -> int:
        """Classes that were withdrawn before a drift."""
        return int(np.count_nonzero(self.withdrawn_at < self.drift_at))


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
    random: np.random.Generator,
    *,
    drift: str | None,
    photos: int = PHOTOS,
    promise: Promise = "together",
) -> Run:
    """One run with an exit drawn at random, and a drift at a random moment or none."""
    population = Population.drawn(random)
    number = len(population.shares)
    run = Run(number, random.uniform(0, photos) if drift else math.inf)
    classes = {class_id: ExitClass() for class_id in range(number)}
    state = ExitState(1, TOLERANCE, classes, promise=promise)
    counts = Counts(np.zeros((number, BINS, 2), np.int64))
    now, start = population, 0
    while start < photos:
        if drift and now is population and start >= run.drift_at:
            now = population.drifted(random, drift)
        ids, bins, chances = now.photos(random, BATCH)
        misses = (random.random(BATCH) < chances).astype(int)
        start += _answer(random, run, state, counts, start, ids, bins, misses)
        state = _look(run, population, state, counts, start)
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
    wrong = exits & (misses > 0)
    np.add.at(run.exits, classes[exits], 1)
    np.add.at(run.wrong, classes[wrong], 1)
    np.add.at(run.audited, classes[audited], 1)
    if start >= run.drift_at:
        np.add.at(run.wrong_after_drift, classes[wrong], 1)
    np.add.at(counts.shadow, (classes[~exits], bins[~exits], misses[~exits]), 1)
    np.add.at(counts.audits, (classes[audited], bins[audited], misses[audited]), 1)
    return len(bins)


def _look(
    run: Run, population: Population, before: ExitState, counts: Counts, start: int
) -> ExitState:
    """What the exit keeper makes of the counts."""
    alpha = version_alpha(before.version, ALPHA)
    state = before.after(counts.rows(), alpha=alpha, now=float(start))
    for class_id, of_class in state.classes.items():
        if of_class.is_released and of_class.bin is not None:
            run.released_at[class_id] = min(run.released_at[class_id], start)
            if of_class.bin != before.classes[class_id].bin and start < run.drift_at:
                chance = population.chances_from(class_id)[of_class.bin]
                run.false_release[class_id] |= chance > TOLERANCE
        if of_class.withdrawn is not None:
            run.withdrawn_at[class_id] = min(run.withdrawn_at[class_id], start)
    return state


def simulations(
    runs: int,
    *,
    drift: bool,
    seed: int = 0,
    photos: int = PHOTOS,
    promise: Promise = "together",
) -> list[Run]:
    """Several runs. The same seed gives the same exits and drifts, whatever the promise."""
    return [
        simulate(
            np.random.default_rng([seed, drift, number]),
            drift=DRIFTS[number % len(DRIFTS)] if drift else None,
            photos=photos,
            promise=promise,
        )
        for number in range(runs)
    ]
