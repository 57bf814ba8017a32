"""A toy network and toy photos that bottlenecks and evaluations can learn from in a second."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import nn

from isplit_plugin.bottleneck import Photos
from isplit_plugin.network import CapturedNetwork, LoadedNetwork, capture
from isplit_plugin.schema import Preprocessing

PRE = Preprocessing(crop=(15, 18), resize=None, mean=(0.5,) * 3, std=(0.5,) * 3)
CLASSES = ("red", "green", "blue")


def toy_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()


@cache
def trained_model() -> nn.Module:
    """The toy model, trained briefly, so that its accuracy differs from chance."""
    model = toy_model().train()
    rng = np.random.default_rng(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        labels = rng.integers(0, 3, 32)
        pixels = np.stack([toy_pixels(int(label), rng) for label in labels])
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        loss = nn.functional.cross_entropy(model(x), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@cache
def toy_network() -> CapturedNetwork:
    """The trained model, captured once for all tests."""
    return capture(trained_model(), torch.zeros(1, *PRE.shape))


def loaded() -> LoadedNetwork:
    """A factory for ``--network toys.bottleneck:loaded``."""
    return LoadedNetwork(trained_model(), torch.zeros(1, *PRE.shape), PRE, CLASSES)


def toy_pixels(label: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Noise with more of one colour than of the others."""
    pixels = rng.integers(0, 160, (15, 18, 3))
    pixels[..., label] += rng.integers(20, 90)
    return pixels.astype(np.uint8)


def toy_photos(count: int, *, seed: int = 0) -> Photos:
    """Photos in memory; their classes take turns."""
    rng = np.random.default_rng(seed)
    return Photos([(toy_pixels(i % 3, rng), i % 3) for i in range(count)], PRE, 3)


def write_photos(folder: Path, per_class: int, *, seed: int = 0) -> Path:
    """``folder/<class>/<number>.png``."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            PIL.Image.fromarray(toy_pixels(label, rng)).save(folder / name / f"{number:03d}.png")
    return folder
