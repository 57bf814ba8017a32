"""Your own network on the command line: a factory that `isplit` can call.

    PYTHONPATH=examples isplit profile --network own_network:build \
        --weights mine.safetensors --data photos/ -o mine
    PYTHONPATH=examples isplit package --network own_network:build \
        --weights mine.safetensors --profile mine.profile.safetensors

A factory takes no arguments. What it returns beside the module (preprocessing, class names) is
packaged with it, so that device, server and profile cannot disagree.
"""

from __future__ import annotations

import torchvision
from torch import nn

from isplit_plugin.schema import Preprocessing

CLASSES = ("cat", "dog", "neither")


def build() -> tuple[nn.Module, Preprocessing, tuple[str, ...]]:
    """A MobileNetV3 with three classes, trained on 160-pixel crops."""
    model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=len(CLASSES))
    return model, Preprocessing(crop=(160, 160), resize=184), CLASSES
