"""Fitted transforms: those to deploy, and those to measure with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...wire import Transform
from .closed_form import Metric

FOLDS: Final = 2
"""Each fold's photos are measured with transforms that were fitted without them."""
FOLD_LENGTH: Final = 8
"""Neighbours, which may be views of one photo, are mostly in one fold."""


def fold_of(number: int) -> int:
    """The fold of a calibration photo by its number: :data:`FOLD_LENGTH` photos in turn."""
    return number // FOLD_LENGTH % FOLDS


@dataclass(frozen=True, slots=True, eq=False)
class FittedTransforms:
    """The transforms of a network.

    Attributes:
        transforms: split point -> its transform, fitted on all photos. These are deployed.
        without_fold: for each fold, the transforms that were fitted without its photos. With them,
            the photos of the fold are measured.
        metrics: split point -> the metric that was chosen.
        photos: how many photos were used.
    """

    transforms: Mapping[str, Transform]
    without_fold: tuple[Mapping[str, Transform], ...]
    metrics: Mapping[str, Metric]
    photos: int

    def unseen(self, split_point: str, number: int) -> Transform | None:
        """The transform that calibration photo ``number`` is measured with."""
        return self.without_fold[fold_of(number)].get(split_point)
