"""The whole evaluation of one network on one data set: train, predict, compare, and write it down."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from .. import __version__
from ..bottleneck import (
    Autoencoder,
    AutoencoderConfig,
    Bottleneck,
    Budget,
    CodeMeasurement,
    Photos,
    Teacher,
    decoder_tail,
    encoder_head,
    measure,
    teach,
    train_bottlenecks,
)
from ..errors import DataError, SplitPointError
from ..network import CapturedNetwork
from ..network.execution import on_device
from ..schema import Preprocessing, SplitPoint
from .analysis import Measured, Resamples, score
from .classes import class_choice
from .predictors import PREDICTORS, Context, get
from .rivals import TRAINING_FREE, codec_rivals, image_rivals

__all__ = ["CODE_CODECS", "Settings", "candidates", "evaluate"]

CODE_CODECS: Final = ("uint8", "q4+rle", "q2+rle")
"""Codecs of the codes in the table of bytes and accuracy."""
FORMAT: Final = 1

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured. ``seeds``: trainings at each point. ``calibration``: photos for the predictors, taken out of
    the test photos. ``rival_photos``: of the photos that measure, so many
    for codecs, JPEG and codes. ``repeats``: bootstrap resamples."""

    config: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    budget: Budget = field(default_factory=Budget)
    seeds: tuple[int, ...] = (0, 1, 2)
    calibration: int = 256
    test_limit: int | None = None
    rival_photos: int = 500
    repeats: int = 1000
    predictors: tuple[str, ...] | None = None
    code_codecs: tuple[str, ...] = CODE_CODECS
    training_free: tuple[str, ...] = TRAINING_FREE


def candidates(
    net: CapturedNetwork, config: AutoencoderConfig, names: Sequence[str] | None = None
) -> tuple[list[SplitPoint], dict[str, str]]:
    """The split points where this bottleneck fits (default: among the block outputs), and why others are left out.

    Points that are asked for by name must fit: raises SplitPointError, UnknownSplitPointError.
    """
    if names is not None:
        points = [net.split_point(name) for name in names]
        for point in points:
            Autoencoder(point, config)
        order = [p.name for p in net.split_points]
        return sorted(points, key=lambda p: order.index(p.name)), {}
    points, left_out = [], {}
    for point in net.split_points:
        if point.is_block:
            try:
                Autoencoder(point, config)
                points.append(point)
            except SplitPointError as error:
                left_out[point.name] = error.message
    return points, left_out


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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Accuracy with a trained bottleneck at every candidate split point, beside every predictor of it, as JSON types.

    Trained bottlenecks are kept under ``directory``, so an interrupted evaluation goes on where it stopped. Raises
    DataError (no labels, too few photos, fewer than three candidates), and what
    :func:`~isplit_plugin.bottleneck.train_bottlenecks` raises.
    """
    settings = settings or Settings()
    say = progress or (lambda _line: None)
    work = on_device(net, device or ("cuda" if torch.cuda.is_available() else net.device))
    points, left_out = candidates(work, settings.config, split_points)
    if len(points) < 3:
        raise DataError(
            f"an evaluation needs at least 3 candidate split points, got {len(points)}: {left_out}"
        )
    names = [point.name for point in points]
    calibration, rows = _divide(test, settings)
    predictors = {p: get(p) for p in (settings.predictors or tuple(PREDICTORS))}

    bottlenecks: dict[int, list[Bottleneck]] = {}
    began = time.process_time()
    for seed in settings.seeds:
        bottlenecks[seed] = train_bottlenecks(
            work,
            names,
            train,
            preprocessing=preprocessing,
            test=test,
            config=settings.config,
            budget=settings.budget,
            seed=seed,
            codecs=(),
            directory=None if directory is None else Path(directory) / f"seed{seed}",
            progress=lambda bottleneck, _stage, epoch, epochs, line: (
                say(f"{name} {bottleneck}: {line.agreement:.1%} agree") if epoch == epochs else None
            ),
        )
        say(
            f"{name} seed {seed}: {len(names)} bottlenecks, {time.process_time() - began:.0f} s of CPU so far"
        )
    training_seconds = sum(
        float(v.training["cpu_seconds"]) for many in bottlenecks.values() for v in many
    )
    teacher = teach(work, test, rows)
    top = np.asarray(teacher.scores.argmax(dim=1).numpy(), dtype=np.int64)
    labels = test.labels[rows]
    answers = np.stack(
        [
            np.stack([_answers(work, v, test, rows) for v in bottlenecks[seed]], axis=1)
            for seed in settings.seeds
        ]
    )
    measured = Measured(answers, labels)
    resamples = Resamples(measured, settings.repeats)

    context = Context(work, tuple(points), test, calibration)
    context.scores  # noqa: B018 - the full network's answers belong to no predictor's bill
    values: dict[str, Array] = {}
    scores = []
    for predictor, function in predictors.items():
        began = time.process_time()
        values[predictor] = function(context)
        seconds = (time.process_time() - began) / len(calibration)
        found = score(
            predictor,
            values[predictor],
            test.labels[calibration],
            resamples,
            points=names,
            groups=[p.shape for p in points],
            seconds=seconds,
        )
        scores.append(found)
        say(f"{name} {predictor}: rho {found.spearman.value:.2f}, {1e3 * seconds:.1f} ms a photo")
    rival_rows = rows[: settings.rival_photos]
    rivals = image_rivals(work, test, rival_rows, top[: len(rival_rows)])
    rivals += codec_rivals(
        work, names, test, rival_rows, top[: len(rival_rows)], codecs=settings.training_free
    )
    rival_teacher = Teacher(
        rival_rows, teacher.scores[: len(rival_rows)], teacher.labels[: len(rival_rows)]
    )
    codes = {
        (seed, v.split_point): measure(
            work, v, test, codecs=settings.code_codecs, teacher=rival_teacher
        )
        for seed in settings.seeds
        for v in bottlenecks[seed]
    }
    say(f"{name}: rivals and codes measured")
    per_seed = measured.correct.mean(axis=1)
    by_class = measured.by_class()
    result: dict[str, Any] = _json_safe(
        {
            "format": FORMAT,
            "name": name,
            "network_hash": work.network_hash(preprocessing),
            "classes": list(classes),
            "full_accuracy": float((top == labels).mean()),
            "full_accuracy_by_class": {
                int(c): float((top == labels)[labels == c].mean()) for c in np.unique(labels)
            },
            "settings": {
                "bottleneck": settings.config.to_json(),
                "budget": settings.budget.to_json(),
                "seeds": list(settings.seeds),
                "calibration_photos": len(calibration),
                "test_photos": len(rows),
                "rival_photos": len(rival_rows),
                "train_photos": int(bottlenecks[settings.seeds[0]][0].training["train_photos"]),
                "skipped": train.skipped_names() + test.skipped_names(),
                "bootstrap": settings.repeats,
            },
            "made_with": {
                "isplit": __version__,
                "torch": torch.__version__,
                "device": work.device.type,
                "threads": torch.get_num_threads(),
                "training_cpu_seconds": round(training_seconds, 1),
            },
            "left_out": left_out,
            "macs": points[0].macs.head + points[0].macs.tail,
            "points": [
                {
                    "name": point.name,
                    "shape": list(point.shape),
                    "nbytes": point.nbytes,
                    "head_macs": point.macs.head,
                    "code_shape": list(bottlenecks[settings.seeds[0]][i].code_shape),
                    "accuracy": float(per_seed[:, i].mean()),
                    "accuracy_by_seed": per_seed[:, i].tolist(),
                    "accuracy_by_class": {
                        int(c): float(v[i])
                        for c, v in zip(measured.class_ids, by_class, strict=True)
                    },
                    "codes": _codes([codes[seed, point.name] for seed in settings.seeds]),
                    "predictions": {
                        p: float(v[i] if v.ndim == 1 else v[:, i].mean()) for p, v in values.items()
                    },
                }
                for i, point in enumerate(points)
            ],
            "predictors": [s.to_json() for s in scores],
            "class_choice": class_choice(
                measured,
                {p: (v, test.labels[calibration]) for p, v in values.items()},
                names,
                repeats=min(300, settings.repeats),
            ),
            "rivals": [r.to_json() for r in rivals],
        }
    )
    return result


def _divide(test: Photos, settings: Settings) -> tuple[Ids, Ids]:
    """Photos for the predictors and photos for the measurement; no photo is both."""
    known = test.sample(None)
    known = known[test.labels[known] >= 0]
    order = test.sample(
        None if settings.test_limit is None else settings.test_limit + settings.calibration
    )
    order = order[test.labels[order] >= 0]
    if len(order) < 8:
        raise DataError(
            f"an evaluation needs labelled photos: {len(known)} of {len(test)} are labelled"
        )
    count = min(settings.calibration, len(order) // 2)
    # Every second photo of a class first, so that both parts hold every class.
    taken: list[int] = []
    quota = {
        int(c): max(1, round(count * float((test.labels[order] == c).mean())))
        for c in np.unique(test.labels[order])
    }
    for row in order:
        label = int(test.labels[row])
        if quota[label] > 0:
            quota[label] -= 1
            taken.append(int(row))
    calibration = np.asarray(taken, dtype=np.int64)
    rest = order[~np.isin(order, calibration)]
    if len(rest) == 0 or set(test.labels[rest]) != set(test.labels[order]):
        raise DataError(
            "an evaluation needs at least two labelled photos of every class: one to predict, one to measure"
        )
    return calibration, rest


def _answers(
    net: CapturedNetwork, bottleneck: Bottleneck, photos: Photos, rows: Ids, batch_size: int = 64
) -> Ids:
    head, tail = encoder_head(net, bottleneck), decoder_tail(net, bottleneck)
    like = torch.empty(0, dtype=net.dtype, device=net.device)
    found = []
    with torch.inference_mode():
        for i in range(0, len(rows), batch_size):
            part = rows[i : i + batch_size]
            found.append(tail(head(photos.tensor(part, like))).argmax(dim=1).cpu().numpy())
    return np.concatenate(found)


def _codes(by_seed: Sequence[Sequence[CodeMeasurement]]) -> list[dict[str, Any]]:
    """Bytes, accuracy and agreement of the quantised codes, means over seeds; on the photos of the rivals."""
    return [
        {
            "codec": measures[0].codec,
            "nbytes": float(np.mean([m.nbytes for m in measures])),
            "accuracy": float(np.mean([m.accuracy for m in measures])),
            "agreement": float(np.mean([m.agreement for m in measures])),
        }
        for measures in zip(*by_seed, strict=True)
    ]


def _json_safe(value: Any) -> Any:
    """NaN becomes null, keys become strings, numbers keep six digits."""
    if isinstance(value, dict):
        return {str(k): _json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def save(result: dict[str, Any], path: str | Path) -> Path:
    """Write a result as JSON."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return target
