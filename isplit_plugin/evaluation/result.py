"""The result of an evaluation as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..bottleneck import Bottleneck, CodeMeasurement
from ..schema import SplitPoint
from .baselines import Baseline
from .bootstrap import MeasuredAnswers
from .chance import WARNING, at_chance, chance_level
from .predictors import mean_over_photos
from .scores import Score

__all__ = ["Evaluation", "save"]

FORMAT: Final = 1

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything that an evaluation measured and predicted.

    Attributes:
        header: name, network, classes, settings and environment, in JSON types.
        points: the P candidate split points.
        bottlenecks: the trained bottlenecks, for each seed one at each split point.
        measured: the answers with these bottlenecks.
        full_top1: the full network's top-1 classes on the same photos, shape (photos,).
        predictions: values of each predictor, (P,) or (I, P).
        scores: one for each predictor.
        codes: measurements of the codes, for each seed one sequence for each bottleneck.
        class_choice: the result of :func:`isplit_plugin.evaluation.class_choice`.
        baselines: the measured baselines.
    """

    header: Mapping[str, Any]
    points: Sequence[SplitPoint]
    bottlenecks: Sequence[Sequence[Bottleneck]]
    measured: MeasuredAnswers
    full_top1: npt.NDArray[np.int64]
    predictions: Mapping[str, Array]
    scores: Sequence[Score]
    codes: Sequence[Sequence[Sequence[CodeMeasurement]]]
    class_choice: Mapping[str, Any]
    baselines: Sequence[Baseline]

    def to_json(self) -> dict[str, Any]:
        """JSON types; numbers have six digits, and NaN is ``None``."""
        correct = self.full_top1 == self.measured.labels
        first = self.points[0]
        chance = chance_level(self.measured.labels)
        best = float(self.measured.accuracy().max())
        is_chance = at_chance(best, chance, len(self.measured.labels))
        result: dict[str, Any] = _json_safe(
            {
                "format": FORMAT,
                **self.header,
                "full_accuracy": float(correct.mean()),
                "full_accuracy_by_class": {
                    class_id: float(correct[self.measured.labels == class_id].mean())
                    for class_id in self.measured.class_ids
                },
                "chance_level": chance,
                "warning": WARNING if is_chance else None,
                "macs": first.macs.head + first.macs.tail,
                "points": [self._point_json(i) for i in range(len(self.points))],
                "predictors": [score.to_json() for score in self.scores],
                "class_choice": self.class_choice,
                "baselines": [baseline.to_json() for baseline in self.baselines],
            }
        )
        return result

    def _point_json(self, index: int) -> dict[str, Any]:
        point = self.points[index]
        by_seed = self.measured.correct.mean(axis=1)[:, index]
        by_class = self.measured.accuracy_by_class()[:, index]
        return {
            "name": point.name,
            "shape": point.shape,
            "nbytes": point.nbytes,
            "head_macs": point.macs.head,
            "code_shape": self.bottlenecks[0][index].code_shape,
            "accuracy": float(by_seed.mean()),
            "accuracy_by_seed": by_seed.tolist(),
            "accuracy_by_class": dict(zip(self.measured.class_ids, by_class.tolist(), strict=True)),
            "codes": [
                _code_json(measurements)
                for measurements in zip(*(of_seed[index] for of_seed in self.codes), strict=True)
            ],
            "predictions": {
                name: float(mean_over_photos(values)[index])
                for name, values in self.predictions.items()
            },
        }


def save(result: Mapping[str, Any], path: str | Path) -> Path:
    """Write a result as a JSON file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return target


def _code_json(measurements: Sequence[CodeMeasurement]) -> dict[str, Any]:
    """Means over the seeds."""
    return {
        "codec": measurements[0].codec,
        "nbytes": float(np.mean([m.nbytes for m in measurements])),
        "accuracy": float(np.mean([m.accuracy for m in measurements])),
        "agreement": float(np.mean([m.agreement for m in measurements])),
    }


def _json_safe(value: Any) -> Any:
    """The value with NaN as ``None``, keys as strings and numbers with six digits."""
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
