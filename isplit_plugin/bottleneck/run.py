"""Bottlenecks at several split points in one run that shares photos, features and the full network's answers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import DataError
from ..network import CapturedNetwork
from ..network.execution import on_device
from ..schema import Preprocessing
from .autoencoder import Autoencoder, AutoencoderConfig
from .budget import Budget, Epoch
from .features import gather, teach
from .measuring import measure, quantised_codecs
from .photos import Photos
from .trained import SUFFIX, Bottleneck, bottleneck_name, load_bottleneck
from .training import fit

__all__ = ["train_bottlenecks"]

Progress = Callable[[str, str, int, int, Epoch], None]


def train_bottlenecks(
    net: CapturedNetwork,
    split_points: Sequence[str],
    photos: Photos,
    *,
    preprocessing: Preprocessing,
    test: Photos,
    config: AutoencoderConfig | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    codecs: Sequence[str] | None = None,
    directory: str | Path | None = None,
    resume: bool = True,
    max_bytes: int = 2 << 30,
    device: str | None = None,
    progress: Progress | None = None,
) -> list[Bottleneck]:
    """Train, measure on ``test`` and (with ``directory``) write one bottleneck for each split point.

    An interrupted run goes on where it stopped: finished bottlenecks in ``directory`` are checked and kept, the one under
    way resumes from ``<name>.checkpoint.safetensors``. ``resume=False`` begins anew. ``max_bytes`` bounds the features
    in memory. ``progress(bottleneck, stage, epoch, epochs, line)``.

    Every bottleneck is checked against its split point before anything is trained. Raises SplitPointError,
    UnknownSplitPointError, UnknownCodecError, DataError, NetworkMismatchError, ArtifactError.
    """
    budget = budget or Budget()
    if not split_points:
        raise DataError("no split points to train a bottleneck at")
    work = on_device(net, device or ("cuda" if torch.cuda.is_available() else net.device))
    points = [work.split_point(name) for name in dict.fromkeys(split_points)]
    names = {point.name: bottleneck_name(Autoencoder(point, config)) for point in points}
    owner = work.network_hash(preprocessing)
    folder = None if directory is None else Path(directory)
    rows = photos.sample(budget.images, seed=seed)
    teacher = teach(work, photos, rows)
    facts = {
        "isplit": __version__,
        "torch": torch.__version__,
        "device": work.device.type,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "budget": budget.to_json(),
        "train_photos": len(rows),
        "test_photos": len(test),
        "data": hashlib.sha256(rows.tobytes() + photos.labels[rows].tobytes()).hexdigest(),
        "skipped": len(photos.skipped) + len(test.skipped),
    }
    test_teacher = teach(work, test, test.sample(None))
    done: dict[str, Bottleneck] = {}
    for point in points:
        kept = _finished(work, folder, names[point.name], preprocessing, facts) if resume else None
        if kept is not None:
            done[point.name] = kept
    missing = [point.name for point in points if point.name not in done]
    for group in gather(work, photos, missing, teacher, max_bytes=max_bytes):
        for features in group:
            name = names[features.split_point]
            checkpoint_path = None if folder is None else folder / f"{name}.checkpoint.safetensors"
            if checkpoint_path is not None and not resume:
                checkpoint_path.unlink(missing_ok=True)
            began = time.process_time()
            fitted = fit(
                work.split_point(features.split_point),
                features,
                work.bisect(features.split_point)[1],
                network_hash=owner,
                config=config,
                budget=budget,
                seed=seed,
                checkpoint_path=checkpoint_path,
                progress=None if progress is None else _named(progress, name),
            )
            training: dict[str, Any] = {
                **facts,
                "history": [asdict(line) for line in fitted.history],
                "cpu_seconds": round(time.process_time() - began, 2),
            }
            bottleneck = Bottleneck(
                name,
                owner,
                fitted.autoencoder,
                training=training,
                head=None if fitted.head is None else fitted.head.state_dict(),
                tail=None if fitted.tail is None else fitted.tail.state_dict(),
            )
            measures = measure(
                work,
                bottleneck,
                test,
                codecs=quantised_codecs() if codecs is None else codecs,
                teacher=test_teacher,
            )
            bottleneck = Bottleneck(
                name,
                owner,
                fitted.autoencoder,
                measures,
                training,
                head=bottleneck.head,
                tail=bottleneck.tail,
            )
            if folder is not None:
                bottleneck.save(folder / f"{name}{SUFFIX}")
            if checkpoint_path is not None:
                checkpoint_path.unlink(missing_ok=True)
            done[features.split_point] = bottleneck
    return [done[point.name] for point in points]


def _finished(
    net: CapturedNetwork,
    folder: Path | None,
    name: str,
    preprocessing: Preprocessing,
    facts: dict[str, Any],
) -> Bottleneck | None:
    """A bottleneck that an earlier run of the same training finished; of another training it is made anew."""
    path = None if folder is None else folder / f"{name}{SUFFIX}"
    if path is None or not path.exists():
        return None
    bottleneck = load_bottleneck(path, net, preprocessing)
    same = all(bottleneck.training.get(key) == facts[key] for key in ("seed", "budget", "data"))
    return bottleneck if same else None


def _named(progress: Progress, name: str) -> Callable[[str, int, int, Epoch], None]:
    return lambda stage, epoch, epochs, line: progress(name, stage, epoch, epochs, line)
