"""Whether the measured accuracies are above chance: below it, comparing split points is noise."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ..advice import wilson

__all__ = ["WARNING", "at_chance", "chance_level"]

WARNING: Final = "at chance level: this ranking means nothing"


def chance_level(labels: npt.ArrayLike) -> float:
    """The accuracy of a guess that ignores the photo: the share of the most frequent label."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    return float(counts.max() / counts.sum())


def at_chance(accuracy: float, chance: float, photos: int) -> bool:
    """Whether an accuracy is too close to chance for a ranking.

    It is if the 95 % Wilson interval includes chance, or if the accuracy is at most twice the
    chance level. Few classes have a high chance level, so there the limit is lower: a tenth of the
    way from chance to 1.
    """
    limit = min(2 * chance, chance + (1 - chance) / 10)
    low, _ = wilson(accuracy, photos)
    return accuracy <= limit or low <= chance
