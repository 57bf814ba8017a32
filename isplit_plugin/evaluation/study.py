"""The evaluation of one network on one data set: train, predict and compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from .. import __version__
from ..bottleneck import Bottleneck, Photos, compute_targets
from ..errors import DataError
from ..network import CapturedNetwork, on_device
from ..schema import Preprocessing
from .classes import class_choice
from .predictors import PREDICTORS, get
from .result import Evaluation
from .selection import candidates, divide_photos
from .settings import Settings
from .steps import Steps

__all__ = ["evaluate"]

_MIN_POINTS: Final = 3
_MAX_DIVISIONS: Final = 300


def evaluate(
    net: CapturedNetwork,
    *,
    train: Photos,
    test: Photos,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    name: str = "",
    split_points: Sequence[str] | None = None,
    settings: Settings | None = None,
    directory: str | Path | None = None,
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare every predictor with the accuracy of a trained bottleneck at every split point.

    Parameters:
        train: photos to train the bottlenecks on.
        test: other photos with labels, for the predictors and to measure the accuracy.
        preprocessing: the network's preprocessing.
        classes: labels of the network's classes.
        name: title of the result.
        split_points: candidates; ``None`` takes all block outputs where the autoencoder fits.
        directory: where trained bottlenecks are kept; an interrupted evaluation resumes there.
        device: "cpu" or "cuda"; ``None`` takes CUDA if available.
        progress: called with a line of text after each step.

    Returns:
        The result in JSON types.

    Raises:
        DataError: there are too few labelled photos, or fewer than three candidates.
        UnknownNameError: a predictor is not registered.
        IsplitError: whatever :func:`isplit_plugin.bottleneck.train_bottlenecks` raises.
    """
    settings = settings or Settings()
    net = on_device(net, device or ("cuda" if torch.cuda.is_available() else net.device))
    points, left_out = candidates(net, settings.config, split_points)
    if len(points) < _MIN_POINTS:
        raise DataError(
            f"an evaluation needs at least {_MIN_POINTS} candidate split points, "
            f"got {len(points)}; left out: {left_out}"
        )
    calibration_rows, test_rows = divide_photos(
        test, calibration=settings.calibration, test_limit=settings.test_limit
    )
    predictors = {n: get(n) for n in settings.predictors or tuple(PREDICTORS)}
    steps = Steps(name, net, points, train, test, preprocessing, settings, progress)
    bottlenecks = steps.train(None if directory is None else Path(directory))
    targets = compute_targets(net, test, test_rows)
    measured = steps.measure_answers(bottlenecks, test_rows)
    predictions, scores = steps.score_predictors(predictors, calibration_rows, measured)
    baseline_targets = targets.first(settings.baseline_photos)
    baselines = steps.measure_baselines(baseline_targets)
    codes = steps.measure_codes(bottlenecks, baseline_targets)
    calibration_labels = test.labels[calibration_rows]
    return Evaluation(
        header={
            "name": name,
            "network_hash": net.network_hash(preprocessing),
            "classes": list(classes),
            "settings": settings.to_json()
            | {
                "calibration_photos": len(calibration_rows),
                "test_photos": len(test_rows),
                "baseline_photos": len(baseline_targets.rows),
                "train_photos": int(bottlenecks[0][0].training["train_photos"]),
                "skipped": train.skipped_names() + test.skipped_names(),
            },
            "environment": _environment(net, bottlenecks),
            "left_out": left_out,
        },
        points=points,
        bottlenecks=bottlenecks,
        measured=measured,
        full_top1=targets.top1,
        predictions=predictions,
        scores=scores,
        codes=codes,
        class_choice=class_choice(
            measured,
            {n: (values, calibration_labels) for n, values in predictions.items()},
            [point.name for point in points],
            repeats=min(_MAX_DIVISIONS, settings.repeats),
        ),
        baselines=baselines,
    ).to_json()


def _environment(
    net: CapturedNetwork, bottlenecks: Sequence[Sequence[Bottleneck]]
) -> dict[str, Any]:
    """Versions, device, and the CPU time of all trainings."""
    seconds = sum(
        float(bottleneck.training["cpu_seconds"])
        for of_seed in bottlenecks
        for bottleneck in of_seed
    )
    return {
        "isplit": __version__,
        "torch": torch.__version__,
        "device": net.device.type,
        "threads": torch.get_num_threads(),
        "training_cpu_seconds": round(seconds, 1),
    }
