"""Comparing a predictor with the measured accuracy, with bootstrap intervals.

Intervals always cover photos (those of the predictor and those of the measurement) and seeds. A
statement about other networks of the same kind also covers the split points. With ten split points
such an interval is wide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .bootstrap import Resamples
from .predictors import DEPTH, mean_over_photos
from .ranks import Estimate, interval, kendall, partial_spearman, spearman, within_groups

__all__ = ["Score", "regret", "score_predictor", "top"]

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

_NONE: Final = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class Score:
    """How well a predictor predicts the measured accuracy of the split points.

    Intervals over split points, photos and seeds:

    Attributes:
        name: name of the predictor.
        spearman: Spearman's rank correlation with the accuracy.
        kendall: Kendall's tau-b.
        spearman_given_depth: Spearman's rank correlation with depth held fixed.
        spearman_minus_depth: Spearman's rank correlation minus that of depth.
        spearman_by_class: mean over the classes of Spearman's rank correlation within a class.

    Intervals over photos and seeds, with the split points as they are:

    Attributes:
        spearman_fixed_points: Spearman's rank correlation with the accuracy.
        within_stage: concordance of pairs of split points whose activations have one shape.
        within_stage_pairs: number of these pairs.
        regret: accuracy lost by taking the split point that the predictor ranks first.
        regret_in_reach: mean regret of devices that reach only the first k split points, over
            every k from 2.

    Other facts:

    Attributes:
        first_choice: the split point that the predictor ranks first.
        seconds: CPU time for one photo and all split points.
    """

    name: str
    spearman: Estimate
    spearman_fixed_points: Estimate
    kendall: Estimate
    spearman_given_depth: Estimate
    spearman_minus_depth: Estimate
    within_stage: Estimate
    within_stage_pairs: int
    spearman_by_class: Estimate
    regret: Estimate
    regret_in_reach: Estimate
    first_choice: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name, value in values.items()
        }


def score_predictor(
    name: str,
    values: Array,
    labels: Ids,
    resamples: Resamples,
    *,
    points: Sequence[str],
    stages: Sequence[object],
    seconds: float = 0.0,
) -> Score:
    """Compare a predictor with the measured accuracy.

    Parameters:
        values: the predictor's values, (P,), or (I, P) for I calibration photos.
        labels: the classes of these photos, shape (I,).
        resamples: the measurement.
        points: names of the P split points.
        stages: the stage of each split point, for ``within_stage``.
        seconds: CPU time for one photo and all split points.
    """
    comparison = _Comparison(values, labels, resamples)
    beyond_points = comparison.resampling_points
    fixed_points = comparison.with_fixed_points
    is_depth = name == DEPTH
    return Score(
        name=name,
        spearman=beyond_points(lambda v, a, _depth: spearman(v, a)),
        spearman_fixed_points=fixed_points(spearman),
        kendall=beyond_points(lambda v, a, _depth: kendall(v, a)),
        spearman_given_depth=_NONE if is_depth else beyond_points(partial_spearman),
        spearman_minus_depth=_NONE
        if is_depth
        else beyond_points(lambda v, a, depth: spearman(v, a) - spearman(depth, a)),
        within_stage=fixed_points(lambda v, a: within_groups(v, a, stages)[0]),
        within_stage_pairs=within_groups(comparison.value, comparison.accuracy, stages)[1],
        spearman_by_class=comparison.spearman_by_class(),
        regret=fixed_points(regret),
        regret_in_reach=fixed_points(_regret_in_reach),
        first_choice=points[top(comparison.value)],
        seconds=seconds,
    )


def top(value: Array) -> int:
    """The split point with the highest value.

    Of equal values it is the first, which costs the device least.
    """
    return int(np.argmax(np.where(np.isfinite(value), value, -np.inf)))


def regret(value: Array, accuracy: Array) -> float:
    """Accuracy lost by taking the predictor's first choice instead of the best split point."""
    return float(accuracy.max() - accuracy[top(value)])


def _regret_in_reach(value: Array, accuracy: Array) -> float:
    return float(np.mean([regret(value[:k], accuracy[:k]) for k in range(2, len(value) + 1)]))


class _Comparison:
    """A predictor's values and the accuracy, as measured and resampled."""

    def __init__(self, values: Array, labels: Ids, resamples: Resamples) -> None:
        self.value = mean_over_photos(values)
        self.accuracy = resamples.measured.accuracy()
        self._value_by_class = _means_by_class(values, labels, resamples.measured.class_ids)
        self._resamples = resamples
        self._values, self._values_by_class = resamples.predictions(values, labels)

    def resampling_points(self, statistic: Callable[[Array, Array, Array], float]) -> Estimate:
        """A statistic of value, accuracy and depth, over split points, photos and seeds."""
        depth = np.arange(len(self.value), dtype=np.float64)
        resampled = [
            statistic(value[points], accuracy[points], depth[points])
            for value, accuracy, points in zip(
                self._values, self._resamples.accuracy, self._resamples.points, strict=True
            )
        ]
        return interval(statistic(self.value, self.accuracy, depth), resampled)

    def with_fixed_points(self, statistic: Callable[[Array, Array], float]) -> Estimate:
        """A statistic of value and accuracy, over photos and seeds."""
        resampled = [
            statistic(value, accuracy)
            for value, accuracy in zip(self._values, self._resamples.accuracy, strict=True)
        ]
        return interval(statistic(self.value, self.accuracy), resampled)

    def spearman_by_class(self) -> Estimate:
        """The mean correlation within a class, over split points, photos and seeds."""
        resamples = self._resamples
        resampled = [
            _mean_spearman(value[:, points], accuracy[:, points])
            for value, accuracy, points in zip(
                self._values_by_class,
                resamples.accuracy_by_class,
                resamples.points,
                strict=True,
            )
        ]
        accuracy = resamples.measured.accuracy_by_class()
        return interval(_mean_spearman(self._value_by_class, accuracy), resampled)


def _means_by_class(values: Array, labels: Ids, class_ids: Ids) -> Array:
    """A predictor's values (classes, P); NaN for a class without calibration photos."""
    if values.ndim == 1:
        return np.broadcast_to(values, (len(class_ids), len(values)))
    means = np.full((len(class_ids), values.shape[1]), np.nan)
    for i, class_id in enumerate(class_ids):
        if (labels == class_id).any():
            means[i] = values[labels == class_id].mean(axis=0)
    return means


def _mean_spearman(values: Array, accuracies: Array) -> float:
    """Spearman's correlation of each row, averaged over the rows where it exists."""
    correlations = [
        spearman(value, accuracy)
        for value, accuracy in zip(values, accuracies, strict=True)
        if np.isfinite(value).all()
    ]
    finite = [correlation for correlation in correlations if np.isfinite(correlation)]
    return float(np.mean(finite)) if finite else float("nan")
