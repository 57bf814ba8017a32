"""The served model: two versions of a small network, with other weights."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from isplit_plugin.network import capture, profile
from isplit_plugin.schema import Manifest, Preprocessing
from isplit_plugin.serving.packaging import package

NAME: Final = "soak"
WORKERS: Final = 2
"""Workers of each version. The first is the one that is killed."""
CUTS: Final = ("relu1:uint8+zstd", "relu2:q4+zstd", "relu2:fp32", "input:jpeg")

_CLASSES: Final = tuple(f"class {number}" for number in range(10))
_PREPROCESSING: Final = Preprocessing(crop=(32, 32), resize=None)
_CONFIG: Final = {
    "minWorkers": WORKERS,
    "maxWorkers": WORKERS,
    "isplit": {"sampling": 0.1, "cpu_budget": 0.05},
}


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the model.

    Attributes:
        manifest: Its manifest.
        archive: The file name of its archive.
        bundle: Its head bundle.
    """

    manifest: Manifest
    archive: str
    bundle: Path

    @property
    def number(self) -> str:
        """The version as clients name it."""
        return self.manifest.version


def photos(number: int = 32) -> list[np.ndarray]:
    """Noise with a colour of its own, uint8 (32, 32, 3)."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 80, (number, 32, 32, 3))
    colours = rng.integers(0, 176, (number, 1, 1, 3))
    return list((noise + colours).astype(np.uint8))


def build(folder: Path) -> list[Version]:
    """Package both versions, and the endpoint, into a model store."""
    return [_version(folder, number, seed) for seed, number in enumerate(("1.0", "2.0"))]


def _version(folder: Path, number: str, seed: int) -> Version:
    torch.manual_seed(seed)
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 16, 3, stride=2, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(16, 32, 3, stride=2, padding=1),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(32, 64, 3, stride=2, padding=1),
        relu3=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(64, len(_CLASSES)),
    )
    net = capture(nn.Sequential(layers).eval(), torch.randn(1, 3, 32, 32))
    measured = profile(
        net,
        [(photo, None) for photo in photos(16)],
        preprocessing=_PREPROCESSING,
        classes=_CLASSES,
        model=NAME,
        split_points=["relu1", "relu2"],
        codecs=("fp32", "uint8+zstd", "q4+zstd"),
        threads=1,
        device="cpu",
    )
    built = package(
        net,
        model=NAME,
        version=number,
        profile=measured,
        preprocessing=_PREPROCESSING,
        classes=_CLASSES,
        deployed=["relu1", "relu2"],
        codecs=["fp32", "uint8+zstd", "q4+zstd"],
        config=_CONFIG,
        out_dir=folder,
    )
    return Version(built.manifest, built.archive.name, built.bundle)
