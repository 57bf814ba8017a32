"""From predictions and measurements to statements with intervals.

What is resampled: photos of both sides and seeds always, and the split points besides where a statement is meant for
other networks of the kind. With ten points the second is wide, and honest. All predictors share the same resamples, so
that differences between them are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .predictors import DEPTH
from .ranks import Estimate, interval, kendall, partial_spearman, spearman, within_groups

__all__ = ["Measured", "Resamples", "Score", "regret", "score", "top"]

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
NONE: Final = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The class that the network answers with a bottleneck at each point: ``answers`` (seeds, photos, P).

    ``labels`` (photos,): true classes.
    """

    answers: Ids
    labels: Ids

    @property
    def correct(self) -> Array:
        """(seeds, photos, P) of 0 and 1."""
        return np.asarray(self.answers == self.labels[:, None], dtype=np.float64)

    @property
    def class_ids(self) -> Ids:
        """The classes that have photos."""
        return np.unique(self.labels)

    def accuracy(self) -> Array:
        """(P,): mean over seeds and photos."""
        return np.asarray(self.correct.mean(axis=(0, 1)))

    def by_class(self) -> Array:
        """(classes with photos, P): mean over seeds and the photos of a class."""
        correct = self.correct
        return np.stack([correct[:, self.labels == c].mean(axis=(0, 1)) for c in self.class_ids])


class Resamples:
    """``repeats`` bootstrap resamples of a measurement; photos within their classes, so that none disappears.

    ``accuracy`` (R, P) and ``by_class`` (R, classes, P): photos and seeds resampled. ``points`` (R, P): places of
    resampled split points.
    """

    def __init__(self, measured: Measured, repeats: int, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        correct = measured.correct
        seeds, _, points = correct.shape
        self.repeats = repeats
        self.measured = measured
        share = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=repeats) / seeds
        classes = []
        for class_id in measured.class_ids:
            mine = correct[:, measured.labels == class_id]
            weight = rng.multinomial(
                mine.shape[1], np.full(mine.shape[1], 1 / mine.shape[1]), size=repeats
            )
            means = np.stack([weight @ one for one in mine]) / mine.shape[1]
            classes.append(np.einsum("rs,srp->rp", share, means))
        self.by_class: Array = np.stack(classes, axis=1)
        sizes = np.asarray(
            [(measured.labels == c).sum() for c in measured.class_ids], dtype=np.float64
        )
        self.accuracy: Array = np.einsum("rcp,c->rp", self.by_class, sizes / sizes.sum())
        self.points: npt.NDArray[np.intp] = np.sort(
            rng.integers(0, points, (repeats, points)), axis=1
        )
        self._seed = seed + 1

    def values(self, values: Array, rows: Ids) -> tuple[Array, Array]:
        """A predictor resampled over its photos: overall (R, P), and by class (R, classes, P), NaN where it has no
        photo of a class. ``values``: (P,), or (photos, P) with the photos' classes ``rows``."""
        shape = (self.repeats, len(self.measured.class_ids), values.shape[-1])
        if values.ndim == 1:
            return np.broadcast_to(values, (shape[0], shape[2])), np.broadcast_to(values, shape)
        rng = np.random.default_rng(self._seed)
        by_class, total = np.full(shape, np.nan), np.zeros((shape[0], shape[2]))
        for i, class_id in enumerate(self.measured.class_ids):
            mine = values[rows == class_id]
            if len(mine):
                sums = (
                    rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=self.repeats)
                    @ mine
                )
                by_class[:, i], total = sums / len(mine), total + sums
        return total / max(1, int(np.isin(rows, self.measured.class_ids).sum())), by_class


@dataclass(frozen=True, slots=True)
class Score:
    """How a predictor does; correlations are with the measured accuracy over the split points.

    ``spearman``, ``kendall``, ``partial`` (given depth), ``by_class`` (mean over classes of the Spearman correlation
    within a class) and ``versus_depth`` (its Spearman correlation minus depth's): intervals over points, photos and
    seeds. ``spearman_here``, ``within`` (concordance of ``pairs`` pairs of one stage), ``regret`` (accuracy lost by
    taking the predictor's top pick of all points) and ``regret_reach`` (the mean of that over devices that reach only
    the first k points, for every k from 2 on): over photos and seeds, the points as they are. ``seconds``: CPU time
    for one photo and all points.
    """

    name: str
    spearman: Estimate
    spearman_here: Estimate
    kendall: Estimate
    partial: Estimate
    versus_depth: Estimate
    within: Estimate
    pairs: int
    by_class: Estimate
    regret: Estimate
    regret_reach: Estimate
    pick: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: v._asdict() if isinstance(v, Estimate) else v for name, v in found.items()}


def score(
    name: str,
    values: Array,
    rows: Ids,
    resamples: Resamples,
    *,
    points: Sequence[str],
    groups: Sequence[object],
    seconds: float = 0.0,
) -> Score:
    """Compare a predictor with the measurement. ``values``: (P,), or (photos, P) with ``rows``, the photos' classes.
    ``groups``: the stage of each point; pairs are compared within one."""
    measured = resamples.measured
    depth = np.arange(len(points), dtype=np.float64)
    accuracy, value = measured.accuracy(), values if values.ndim == 1 else values.mean(axis=0)
    drawn, drawn_by_class = resamples.values(values, rows)

    def over_points(statistic: Callable[[Array, Array, Array], float]) -> Estimate:
        found = [
            statistic(v[p], a[p], depth[p])
            for v, a, p in zip(drawn, resamples.accuracy, resamples.points, strict=True)
        ]
        return interval(statistic(value, accuracy, depth), found)

    def here(statistic: Callable[[Array, Array], float]) -> Estimate:
        found = [statistic(v, a) for v, a in zip(drawn, resamples.accuracy, strict=True)]
        return interval(statistic(value, accuracy), found)

    plain = _class_means(values, rows, measured.class_ids)
    in_classes = [
        _mean_spearman(v[:, p], a[:, p])
        for v, a, p in zip(drawn_by_class, resamples.by_class, resamples.points, strict=True)
    ]
    _, pairs = within_groups(value, accuracy, groups)
    return Score(
        name=name,
        spearman=over_points(lambda v, a, _d: spearman(v, a)),
        spearman_here=here(spearman),
        kendall=over_points(lambda v, a, _d: kendall(v, a)),
        partial=NONE if name == DEPTH else over_points(partial_spearman),
        versus_depth=NONE
        if name == DEPTH
        else over_points(lambda v, a, d: spearman(v, a) - spearman(d, a)),
        within=here(lambda v, a: within_groups(v, a, groups)[0]),
        pairs=pairs,
        by_class=interval(_mean_spearman(plain, measured.by_class()), in_classes),
        regret=here(regret),
        regret_reach=here(_regret_reach),
        pick=points[top(value)],
        seconds=seconds,
    )


def _class_means(values: Array, rows: Ids, class_ids: Ids) -> Array:
    """(classes, P), NaN where there is no photo of a class."""
    if values.ndim == 1:
        return np.broadcast_to(values, (len(class_ids), len(values)))
    none = np.full(values.shape[1], np.nan)
    return np.stack(
        [values[rows == c].mean(axis=0) if (rows == c).any() else none for c in class_ids]
    )


def _mean_spearman(values: Array, accuracies: Array) -> float:
    found = [
        spearman(v, a) for v, a in zip(values, accuracies, strict=True) if np.isfinite(v).all()
    ]
    known = [f for f in found if np.isfinite(f)]
    return float(np.mean(known)) if known else float("nan")


def top(value: Array) -> int:
    """The predictor's pick; of equal values the earliest point, which costs the device least."""
    return int(np.argmax(np.where(np.isfinite(value), value, -np.inf)))


def regret(value: Array, accuracy: Array) -> float:
    """Accuracy lost by taking the predictor's top pick instead of the best point."""
    return float(accuracy.max() - accuracy[top(value)])


def _regret_reach(value: Array, accuracy: Array) -> float:
    return float(np.mean([regret(value[:k], accuracy[:k]) for k in range(2, len(value) + 1)]))
