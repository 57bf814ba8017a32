"""Whether the best split point depends on the class, and what choosing per class gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .bootstrap import MeasuredAnswers
from .predictors import mean_over_photos
from .ranks import Estimate
from .scores import top

__all__ = ["class_choice"]

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


def class_choice(
    measured: MeasuredAnswers,
    predictions: Mapping[str, tuple[Array, Ids]],
    points: Sequence[str],
    *,
    repeats: int = 300,
    seed: int = 0,
) -> dict[str, Any]:
    """What a split point of its own for each class gains over one split point for all classes.

    The split points are chosen on one half of the test photos with all seeds but one. The gain is
    measured on the other half with the remaining seed, so that it is not due to particular photos
    or to one trained bottleneck. The result has the mean over random divisions and the middle 95 %
    of them.

    Parameters:
        predictions: values (P,) or (I, P) of each predictor, and the classes (I,) of the
            calibration photos.
        points: names of the P split points.
        repeats: number of random divisions.

    Returns:
        One entry for "all points" and one for "first half", a device that reaches only the first
        half of the split points. Each has:

        - ``recall_gain``: share of correct photos with the split point of the class, minus that
          with the one for all. **Biased upwards**: a bottleneck that answers one class too often
          has a high recall for this class.
        - ``youden_gain``: the same for Youden's J, recall minus false positive rate, which does
          not have this bias; mean over the classes.
        - ``differing_classes``: share of classes whose split point by Youden's J is not the one
          for all.
        - ``predictor_recall_gain``: ``recall_gain`` if a predictor chooses, by its mean over the
          photos of a class.
        - ``points``, ``best_point``, ``best_point_by_class``, ``accuracy_sd_over_classes``: the
          measured accuracies, without division.
    """
    reach = {"all points": len(points), "first half": max(2, len(points) // 2)}
    return {
        name: _choice_among(measured, predictions, points[:count], repeats, seed)
        for name, count in reach.items()
    }


class _Rates(NamedTuple):
    """Recall and false positive rate of each class at each split point, shape (classes, P)."""

    recall: Array
    false_positive: Array

    @property
    def youden(self) -> Array:
        return self.recall - self.false_positive


class _Choice(NamedTuple):
    """A split point for all classes, and one for each class, shape (classes,)."""

    for_all: int
    by_class: npt.NDArray[np.intp]

    def gains(self, rates: Array) -> Array:
        """What each class gains by its own split point, shape (classes,)."""
        classes = np.arange(len(self.by_class))
        return np.asarray(rates[classes, self.by_class] - rates[:, self.for_all])


def _choice_among(
    measured: MeasuredAnswers,
    predictions: Mapping[str, tuple[Array, Ids]],
    points: Sequence[str],
    repeats: int,
    seed: int,
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    predicted_choices = {
        name: _predicted_choice(values[:, : len(points)], labels, measured.class_ids)
        for name, (values, labels) in predictions.items()
        if values.ndim == 2
    }
    choices = list(predicted_choices.values())
    gains = [_division_gains(measured, choices, len(points), rng) for _ in range(repeats)]
    recall, youden, differing, *predicted = map(_spread, np.asarray(gains).T)
    by_class = measured.accuracy_by_class()[:, : len(points)]
    best = int(np.argmax(measured.accuracy()[: len(points)]))
    return {
        "points": list(points),
        "recall_gain": recall,
        "youden_gain": youden,
        "differing_classes": differing,
        "best_point": points[best],
        "best_point_by_class": {
            int(class_id): points[int(np.argmax(accuracy))]
            for class_id, accuracy in zip(measured.class_ids, by_class, strict=True)
        },
        "accuracy_sd_over_classes": float(by_class[:, best].std()),
        "predictor_recall_gain": dict(zip(predicted_choices, predicted, strict=True)),
    }


def _division_gains(
    measured: MeasuredAnswers,
    predicted_choices: Sequence[_Choice],
    count: int,
    rng: np.random.Generator,
) -> list[float]:
    """The gains of one random division.

    By recall, by Youden's J, the share of differing classes, and the gain of each predictor.
    """
    chosen_on = _random_half(measured.labels, rng)
    seeds = range(len(measured.answers))
    paid_seed = int(rng.integers(len(seeds)))
    other_seeds = [s for s in seeds if s != paid_seed] or [paid_seed]
    rates = _rates(measured, other_seeds, chosen_on, count)
    paid = _rates(measured, [paid_seed], ~chosen_on, count)
    paid_labels = measured.labels[~chosen_on]
    shares = np.asarray([(paid_labels == c).mean() for c in measured.class_ids])
    by_recall = _Choice(int(np.argmax(shares @ rates.recall)), rates.recall.argmax(axis=1))
    by_youden = _Choice(int(np.argmax(rates.youden.mean(axis=0))), rates.youden.argmax(axis=1))
    return [
        float(shares @ by_recall.gains(paid.recall)),
        float(by_youden.gains(paid.youden).mean()),
        float((by_youden.by_class != by_youden.for_all).mean()),
        *(float(shares @ choice.gains(paid.recall)) for choice in predicted_choices),
    ]


def _random_half(labels: Ids, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A random half of the photos of each class."""
    half = np.zeros(len(labels), dtype=bool)
    for class_id in np.unique(labels):
        photos = rng.permutation(np.flatnonzero(labels == class_id))
        half[photos[: len(photos) // 2]] = True
    return half


def _rates(
    measured: MeasuredAnswers, seeds: Sequence[int], photos: npt.NDArray[np.bool_], count: int
) -> _Rates:
    """The rates on these photos with these seeds; 0 if there is no photo to count."""
    answers = measured.answers[list(seeds)][:, photos, :count]
    labels = measured.labels[photos]
    recall = np.zeros((len(measured.class_ids), count))
    false_positive = np.zeros_like(recall)
    for i, class_id in enumerate(measured.class_ids):
        answered = answers == class_id
        of_class = labels == class_id
        if of_class.any():
            recall[i] = answered[:, of_class].mean(axis=(0, 1))
        if not of_class.all():
            false_positive[i] = answered[:, ~of_class].mean(axis=(0, 1))
    return _Rates(recall, false_positive)


def _predicted_choice(values: Array, labels: Ids, class_ids: Ids) -> _Choice:
    """A predictor's choice; a class without calibration photos gets the split point for all."""
    for_all = top(mean_over_photos(values))
    by_class = [
        top(values[labels == c].mean(axis=0)) if (labels == c).any() else for_all for c in class_ids
    ]
    return _Choice(for_all, np.asarray(by_class, dtype=np.intp))


def _spread(values: Array) -> dict[str, float]:
    """Mean and middle 95 %."""
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))._asdict()
