"""Training bottlenecks at several split points in one run.

The bottlenecks of a run share the photos, the activations and the full network's scores.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from .. import __version__
from ..errors import DataError
from ..network import CapturedNetwork, on_device
from ..schema import Preprocessing
from .autoencoder import Autoencoder, AutoencoderConfig
from .budget import Budget
from .features import Features, Targets, compute_features, compute_targets
from .fitting import fit
from .loading import load_bottleneck
from .measuring import measure_codes, quantised_codecs
from .photos import Photos
from .stages import EpochResult
from .trained import BOTTLENECK_SUFFIX, Bottleneck, bottleneck_name

__all__ = ["train_bottlenecks"]

_CHECKPOINT_SUFFIX: Final = ".checkpoint.safetensors"

Progress = Callable[[str, EpochResult], None]


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
    """Train and measure one bottleneck at each split point.

    All autoencoders are checked against their split points before the first training starts.

    Parameters:
        photos: photos to train on, with or without labels.
        preprocessing: the network's preprocessing.
        test: other photos, on which the result is measured.
        config: size of the autoencoders.
        budget: budget of each training.
        seed: all randomness follows from it.
        codecs: codecs to measure; ``None`` takes :func:`quantised_codecs`.
        directory: where bottlenecks and checkpoints are written; ``None`` writes nothing.
        resume: continue an interrupted run: keep the bottlenecks that an equal run finished in
            ``directory``, and resume from its checkpoint. ``False`` trains all of them again.
        max_bytes: most bytes of activations in memory.
        device: "cpu" or "cuda"; ``None`` takes CUDA if available.
        progress: called with the bottleneck's name after every epoch.

    Returns:
        The bottlenecks in the order of ``split_points``, each split point once.

    Raises:
        SplitPointError: an autoencoder does not fit its split point.
        UnknownSplitPointError, UnknownCodecError: a name does not exist.
        DataError: no split points, or too few photos.
        NetworkMismatchError: a file in ``directory`` belongs to another network.
        ArtifactError: a file in ``directory`` cannot be read or written, or a checkpoint belongs
            to another training.
    """
    budget = budget or Budget()
    if not split_points:
        raise DataError("expected at least one split point to train a bottleneck at, got none")
    net = on_device(net, device or ("cuda" if torch.cuda.is_available() else net.device))
    points = [net.split_point(name) for name in dict.fromkeys(split_points)]
    names = {point.name: bottleneck_name(Autoencoder(point, config)) for point in points}
    rows = photos.sample(budget.images, seed=seed)
    run = _Run(
        net=net,
        network_hash=net.network_hash(preprocessing),
        config=config,
        budget=budget,
        seed=seed,
        folder=None if directory is None else Path(directory),
        facts={
            "seed": seed,
            "budget": budget.to_json(),
            "data": hashlib.sha256(rows.tobytes() + photos.labels[rows].tobytes()).hexdigest(),
            "train_photos": len(rows),
            "test_photos": len(test),
            "skipped": len(photos.skipped) + len(test.skipped),
        },
    )
    bottlenecks: dict[str, Bottleneck] = {}
    if resume:
        for split_point, name in names.items():
            bottleneck = run.load_finished(name, preprocessing)
            if bottleneck is not None:
                bottlenecks[split_point] = bottleneck
    missing = [split_point for split_point in names if split_point not in bottlenecks]
    if missing:
        targets = compute_targets(net, photos, rows)
        test_targets = compute_targets(net, test, test.sample(None))
        measured_codecs = quantised_codecs() if codecs is None else codecs
        for group in compute_features(net, photos, missing, targets, max_bytes=max_bytes):
            for features in group:
                name = names[features.split_point]
                bottleneck = run.train(name, features, resume=resume, progress=progress)
                bottleneck = run.measure(bottleneck, test, test_targets, measured_codecs)
                run.save(bottleneck)
                bottlenecks[features.split_point] = bottleneck
    return [bottlenecks[point.name] for point in points]


@dataclass(frozen=True, slots=True)
class _Run:
    """What the trainings of one run share.

    ``folder`` holds bottlenecks and checkpoints. ``facts`` are stored with each bottleneck.
    """

    net: CapturedNetwork
    network_hash: str
    config: AutoencoderConfig | None
    budget: Budget
    seed: int
    folder: Path | None
    facts: dict[str, Any]

    def load_finished(self, name: str, preprocessing: Preprocessing) -> Bottleneck | None:
        """The bottleneck that an earlier run wrote, ``None`` if that was another training."""
        path = self._path(name, BOTTLENECK_SUFFIX)
        if path is None or not path.exists():
            return None
        bottleneck = load_bottleneck(path, self.net, preprocessing)
        keys = ("seed", "budget", "data")
        equal = all(bottleneck.training.get(key) == self.facts[key] for key in keys)
        return bottleneck if equal else None

    def train(
        self, name: str, features: Features, *, resume: bool, progress: Progress | None
    ) -> Bottleneck:
        """Train one bottleneck, without measurements."""
        checkpoint = self._path(name, _CHECKPOINT_SUFFIX)
        if checkpoint is not None and not resume:
            checkpoint.unlink(missing_ok=True)
        started = time.process_time()
        result = fit(
            self.net.split_point(features.split_point),
            features,
            self.net.bisect(features.split_point)[1],
            network_hash=self.network_hash,
            config=self.config,
            budget=self.budget,
            seed=self.seed,
            checkpoint=checkpoint,
            progress=None if progress is None else lambda epoch: progress(name, epoch),
        )
        return Bottleneck(
            name,
            self.network_hash,
            result.autoencoder,
            training={
                **self.facts,
                "isplit": __version__,
                "torch": torch.__version__,
                "device": self.net.device.type,
                "threads": torch.get_num_threads(),
                "history": [asdict(epoch) for epoch in result.history],
                "cpu_seconds": round(time.process_time() - started, 2),
            },
            head_weights=None if result.head is None else result.head.state_dict(),
            tail_weights=None if result.tail is None else result.tail.state_dict(),
        )

    def measure(
        self, bottleneck: Bottleneck, test: Photos, targets: Targets, codecs: Sequence[str]
    ) -> Bottleneck:
        """The bottleneck with its measurements."""
        measurements = measure_codes(self.net, bottleneck, test, codecs=codecs, targets=targets)
        return replace(bottleneck, measurements=measurements)

    def save(self, bottleneck: Bottleneck) -> None:
        """Write the bottleneck, and delete its checkpoint."""
        path = self._path(bottleneck.name, BOTTLENECK_SUFFIX)
        checkpoint = self._path(bottleneck.name, _CHECKPOINT_SUFFIX)
        if path is not None and checkpoint is not None:
            bottleneck.save(path)
            checkpoint.unlink(missing_ok=True)

    def _path(self, name: str, suffix: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}{suffix}"
