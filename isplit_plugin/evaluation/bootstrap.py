"""Measured answers of the trained bottlenecks, and their bootstrap resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["MeasuredAnswers", "Resamples"]

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredAnswers:
    """The answers of the network with a trained bottleneck at each of P split points.

    Attributes:
        answers: top-1 classes, shape (seeds, photos, P).
        labels: true classes, shape (photos,).
    """

    answers: Ids
    labels: Ids

    @property
    def correct(self) -> Array:
        """1 where the answer is the true class, else 0, shape (seeds, photos, P)."""
        return np.asarray(self.answers == self.labels[:, None], dtype=np.float64)

    @property
    def class_ids(self) -> Ids:
        """The classes that have photos."""
        return np.unique(self.labels)

    def accuracy(self) -> Array:
        """Mean over seeds and photos, shape (P,)."""
        return np.asarray(self.correct.mean(axis=(0, 1)))

    def accuracy_by_class(self) -> Array:
        """Mean over seeds and the photos of a class, shape (classes with photos, P)."""
        correct = self.correct
        return np.stack([correct[:, self.labels == c].mean(axis=(0, 1)) for c in self.class_ids])


class Resamples:
    """R bootstrap resamples of photos, seeds and split points.

    Photos are resampled within their class, so every class keeps its photos. All predictors are
    compared on the same resamples, so the differences between them are paired.

    Attributes:
        measured: what is resampled.
        accuracy: accuracy with photos and seeds resampled, shape (R, P).
        accuracy_by_class: the same for each class, shape (R, classes with photos, P).
        points: indices of resampled split points, sorted, shape (R, P).
    """

    def __init__(self, measured: MeasuredAnswers, repeats: int, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        correct = measured.correct
        seeds, photos, points = correct.shape
        seed_weights = _resample_weights(rng, seeds, repeats) / seeds
        by_class = []
        sizes = []
        for class_id in measured.class_ids:
            correct_of_class = correct[:, measured.labels == class_id]
            size = correct_of_class.shape[1]
            photo_weights = _resample_weights(rng, size, repeats)
            means = np.stack([photo_weights @ of_seed for of_seed in correct_of_class]) / size
            by_class.append(np.einsum("rs,srp->rp", seed_weights, means))
            sizes.append(size)
        self.measured = measured
        self.accuracy_by_class: Array = np.stack(by_class, axis=1)
        shares = np.asarray(sizes, dtype=np.float64) / photos
        self.accuracy: Array = np.einsum("rcp,c->rp", self.accuracy_by_class, shares)
        self.points: npt.NDArray[np.intp] = np.sort(
            rng.integers(0, points, (repeats, points)), axis=1
        )
        self._repeats = repeats
        self._prediction_seed = seed + 1

    def predictions(self, values: Array, labels: Ids) -> tuple[Array, Array]:
        """A predictor's values with its photos resampled: overall and by class.

        Parameters:
            values: (P,), or (I, P) for I calibration photos.
            labels: the classes of these photos, shape (I,).

        Returns:
            Shapes (R, P) and (R, classes with photos, P). A class without calibration photos has
            NaN.
        """
        class_ids = self.measured.class_ids
        shape = (self._repeats, len(class_ids), values.shape[-1])
        if values.ndim == 1:
            return np.broadcast_to(values, (shape[0], shape[2])), np.broadcast_to(values, shape)
        rng = np.random.default_rng(self._prediction_seed)
        by_class = np.full(shape, np.nan)
        total = np.zeros((shape[0], shape[2]))
        for i, class_id in enumerate(class_ids):
            values_of_class = values[labels == class_id]
            size = len(values_of_class)
            if size:
                sums = _resample_weights(rng, size, self._repeats) @ values_of_class
                by_class[:, i] = sums / size
                total += sums
        return total / max(1, int(np.isin(labels, class_ids).sum())), by_class


def _resample_weights(rng: np.random.Generator, count: int, repeats: int) -> Ids:
    """How often each of ``count`` items is drawn in each resample, shape (repeats, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=repeats)
