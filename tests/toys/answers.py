"""Made-up answers of trained bottlenecks whose true accuracy is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isplit_plugin.evaluation import MeasuredAnswers

Array = npt.NDArray[np.float64]

POINTS = [f"p{i}" for i in range(6)]
RISING = np.array([0.2, 0.35, 0.5, 0.65, 0.8, 0.95])


def answers(
    accuracy: Array, *, seeds: int = 3, photos: int = 300, seed: int = 0
) -> MeasuredAnswers:
    """Three classes and six split points.

    An answer is correct with probability ``accuracy``, of shape (6,) or (3, 6) by class.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(photos) % 3
    chance = np.broadcast_to(accuracy, (3, 6))[labels]
    correct = rng.random((seeds, photos, 6)) < chance
    wrong = (labels[:, None] + rng.integers(1, 3, (seeds, photos, 6))) % 3
    return MeasuredAnswers(np.where(correct, labels[:, None], wrong), labels)
