"""A network whose exits can be right for a while: of six kinds of photos, two look the same to an
exit at ``relu1`` and have different answers.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from isplit_plugin.network import CapturedNetwork, capture
from toys.serving import PREPROCESSING

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
TWINS = (0, 4)
"""Classes whose photos have the same pooled activation at ``relu1``."""
UNSEEN = 5


def _layers() -> OrderedDict[str, nn.Module]:
    torch.manual_seed(0)
    return OrderedDict(
        conv1=nn.Conv2d(3, 12, 3, stride=2, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(12, 16, 3, stride=2, padding=1),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(16, len(CLASSES)),
    )


def _inputs(pixels: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor(PREPROCESSING.mean).view(1, 3, 1, 1)
    std = torch.tensor(PREPROCESSING.std).view(1, 3, 1, 1)
    return (pixels / 255 - mean) / std


def _prototypes(model: nn.Sequential) -> torch.Tensor:
    """Pixels (6, 3, 16, 16), 30 to 225."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(len(CLASSES), 3, 4, 4, generator=generator)
    pixels = nn.functional.interpolate(coarse, size=(16, 16), mode="nearest") * 195 + 30
    first, deep = model[:2], model[:6]
    cells = nn.AdaptiveAvgPool2d(2)  # as an exit pools, whose grid is the finest it has
    target = cells(first(_inputs(pixels[TWINS[0]][None]))).detach()
    far = deep(_inputs(pixels[TWINS[0]][None])).detach()
    twin = pixels[TWINS[1]][None].clone().requires_grad_()
    optimizer = torch.optim.Adam([twin], lr=4.0)
    for _ in range(300):
        optimizer.zero_grad()
        x = _inputs(twin)
        same = (cells(first(x)) - target).square().sum()
        apart = (deep(x) - far).square().sum().sqrt()
        (300 * same - apart).backward()
        optimizer.step()
        with torch.no_grad():
            twin.clamp_(30, 225)
    pixels[TWINS[1]] = twin.detach()[0]
    return pixels.round()


def exit_network() -> tuple[CapturedNetwork, np.ndarray]:
    """The network, and a photo of each class, uint8 (6, 16, 16, 3)."""
    model = nn.Sequential(_layers()).eval()
    pixels = _prototypes(model)
    with torch.no_grad():
        features = model[:6](_inputs(pixels))
        centred = features - features.mean(0)
        inverse = torch.linalg.pinv(centred)  # one-hot scores at the prototypes, nearly
        fc = model[6]
        assert isinstance(fc, nn.Linear)
        fc.weight.copy_(20 * inverse.T)
        fc.bias.copy_(-20 * (inverse.T @ features.mean(0)))
    net = capture(model, torch.randn(1, 3, 16, 16))
    return net, pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()
