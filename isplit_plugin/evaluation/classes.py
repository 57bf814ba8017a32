"""Does the best split point depend on the class, and is choosing per class worth it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .analysis import Measured, top
from .ranks import Estimate

__all__ = ["class_choice"]

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


def class_choice(
    measured: Measured,
    predictions: Mapping[str, tuple[Array, Ids]],
    points: Sequence[str],
    *,
    repeats: int = 300,
    seed: int = 0,
) -> dict[str, Any]:
    """What one split point for each class gains over one for all classes.

    Chosen on one half of the test photos and all seeds but one, paid out on the other half and the remaining seed, so
    that neither lucky photos nor the taste of one trained bottleneck count as gain. Means over ``repeats`` random
    divisions and the middle 95 % of them, with all points to choose from and for a device that reaches the first half.

    - ``recall``: share of correct photos with the class's own point, minus that with the one point for all. **Biased
      upwards**: it knows the class before the network does, and a bottleneck that answers one class too often looks
      good for it.
    - ``youden``: the same for recall minus false positive rate, which such a bottleneck does not gain; mean over
      classes.
    - ``differ``: share of classes whose own point is another one. ``predictors``: recall gained where a predictor's
      class means choose against its overall mean.
    """
    reach = {"all points": len(points), "first half": max(2, len(points) // 2)}
    return {
        name: _within(measured, predictions, points[:end], repeats, seed)
        for name, end in reach.items()
    }


def _within(
    measured: Measured,
    predictions: Mapping[str, tuple[Array, Ids]],
    points: Sequence[str],
    repeats: int,
    seed: int,
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    end, ids = len(points), measured.class_ids
    names = [name for name, (values, _) in predictions.items() if values.ndim == 2]
    picks = {name: _picks(*predictions[name], ids, end) for name in names}
    found = []
    for _ in range(repeats):
        half = _half(measured.labels, rng)
        pay = int(rng.integers(len(measured.answers)))
        choose = [s for s in range(len(measured.answers)) if s != pay] or [pay]
        recall, false = _rates(measured, choose, half, end)
        paid, paid_false = _rates(measured, [pay], ~half, end)
        share = np.asarray([(~half & (measured.labels == c)).sum() for c in ids]) / int(
            (~half).sum()
        )
        classes = np.arange(len(ids))
        one = int(np.argmax(share @ recall))
        own = recall.argmax(axis=1)
        gain = float(share @ (paid[classes, own] - paid[:, one]))
        youden, paid_youden = recall - false, paid - paid_false
        one_youden, own_youden = int(np.argmax(youden.mean(axis=0))), youden.argmax(axis=1)
        gain_youden = float((paid_youden[classes, own_youden] - paid_youden[:, one_youden]).mean())
        chosen = [
            float(share @ (paid[classes, mine] - paid[:, everyone]))
            for everyone, mine in picks.values()
        ]
        found.append([gain, gain_youden, float((own_youden != one_youden).mean()), *chosen])
    columns = np.asarray(found).T
    by_class = measured.by_class()[:, :end]
    best = int(np.argmax(measured.accuracy()[:end]))
    return {
        "points": list(points),
        "recall": _spread(columns[0]),
        "youden": _spread(columns[1]),
        "differ": _spread(columns[2]),
        "best": points[best],
        "best_by_class": {
            int(c): points[int(np.argmax(row))] for c, row in zip(ids, by_class, strict=True)
        },
        "accuracy_sd_over_classes": float(by_class[:, best].std()),
        "predictors": {
            name: _spread(column) for name, column in zip(names, columns[3:], strict=True)
        },
    }


def _half(labels: Ids, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    half = np.zeros(len(labels), dtype=bool)
    for class_id in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == class_id))
        half[places[: len(places) // 2]] = True
    return half


def _rates(
    measured: Measured, seeds: Sequence[int], photos: npt.NDArray[np.bool_], end: int
) -> tuple[Array, Array]:
    """Recall and false positive rate of each class at each point, (classes, P); 0 where there is no photo."""
    answers, labels = measured.answers[list(seeds)][:, photos, :end], measured.labels[photos]
    recall, false = [], []
    for class_id in measured.class_ids:
        mine = labels == class_id
        said = answers == class_id
        recall.append(said[:, mine].mean(axis=(0, 1)) if mine.any() else np.zeros(end))
        false.append(said[:, ~mine].mean(axis=(0, 1)) if not mine.all() else np.zeros(end))
    return np.stack(recall), np.stack(false)


def _picks(values: Array, rows: Ids, ids: Ids, end: int) -> tuple[int, npt.NDArray[np.intp]]:
    """A predictor's point for all classes and for each class; for a class that it never saw, the one for all."""
    one = top(values.mean(axis=0)[:end])
    own = [top(values[rows == c].mean(axis=0)[:end]) if (rows == c).any() else one for c in ids]
    return one, np.asarray(own, dtype=np.intp)


def _spread(found: Array) -> dict[str, float]:
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(float(found.mean()), float(low), float(high))._asdict()
