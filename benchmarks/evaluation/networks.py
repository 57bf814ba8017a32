"""The networks of the study: factories ``<network>_<data set>`` for ``--network``.

Two families, so that a finding is not one architecture's: the residual network of He et al. (2016, section 4.2) with
20 layers, and a VGG (Simonyan & Zisserman, 2015) of six convolutions with batch norm, both made to be trained on one
CPU core; ResNet-50 and VGG16 for a GPU. The first convolution of a small network halves 64-pixel images, so that it
works on about 32 x 32 positions.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from isplit_plugin.network.loading import LoadedNetwork
from isplit_plugin.schema import Preprocessing

__all__ = ["BUILDERS", "DATA_SETS", "LARGE", "build"]

GREY_28: Final = Preprocessing(crop=(28, 28), resize=None, mean=(0.42,), std=(0.45,), mode="L")
GREY_64: Final = Preprocessing(crop=(64, 64), resize=64, mean=(0.48,), std=(0.23,), mode="L")
RGB_64: Final = Preprocessing(
    crop=(64, 64), resize=None, mean=(0.48, 0.45, 0.40), std=(0.28, 0.27, 0.28)
)
CAFFE_224: Final = Preprocessing(
    crop=(224, 224),
    resize=224,
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255,) * 3,
)
"""Of the ImageNet weights that the large study starts from: mean subtracted, nothing divided."""
RGB_224: Final = Preprocessing(crop=(224, 224), resize=224)

DATA_SETS: Final = {"notmnist": 10, "chest": 2, "tiny": 20, "tiny100": 100}
"""Number of classes of each data set; ``tiny`` is the first 20 classes of Tiny-ImageNet."""
SMALL: Final = {"notmnist": GREY_28, "chest": GREY_64, "tiny": RGB_64, "tiny100": RGB_64}


class Block(nn.Module):
    """Two 3 x 3 convolutions and a projecting shortcut where the shape changes (option B of the paper)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels == out
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet20(channels: int, classes: int, stem_stride: int) -> nn.Module:
    """Stem and nine residual blocks of 16, 32 and 64 channels."""
    layers: list[tuple[str, nn.Module]] = [
        (
            "stem",
            nn.Sequential(
                nn.Conv2d(channels, 16, 3, stem_stride, 1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
            ),
        )
    ]
    width = 16
    for stage, out in enumerate((16, 32, 64), start=1):
        for index in range(3):
            layers.append(
                (
                    f"block{stage}{'abc'[index]}",
                    Block(width, out, 2 if index == 0 and stage > 1 else 1),
                )
            )
            width = out
    return _classifier(layers, width, classes)


def vgg6(channels: int, classes: int, stem_stride: int) -> nn.Module:
    """Six convolutions with batch norm in three stages of 16-32, 64-64 and 128-128 channels."""
    layers: list[tuple[str, nn.Module]] = []
    width = channels
    for stage, pair in enumerate(((16, 32), (64, 64), (128, 128)), start=1):
        for index, out in enumerate(pair):
            stride = stem_stride if stage == 1 and index == 0 else 1
            layers.append(
                (
                    f"conv{stage}{'ab'[index]}",
                    nn.Sequential(
                        nn.Conv2d(width, out, 3, stride, 1, bias=False),
                        nn.BatchNorm2d(out),
                        nn.ReLU(),
                    ),
                )
            )
            width = out
        layers.append((f"pool{stage}", nn.MaxPool2d(2)))
    return _classifier(layers, width, classes)


def _classifier(layers: list[tuple[str, nn.Module]], width: int, classes: int) -> nn.Module:
    from collections import OrderedDict

    layers += [
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("head", nn.Linear(width, classes)),
    ]
    net = nn.Sequential(OrderedDict(layers))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def resnet50(classes: int) -> nn.Module:
    """torchvision's, with the strides of the original paper (v1), which the ImageNet weights need."""
    from torchvision.models import resnet50 as make

    net = make(num_classes=classes)
    for stage in (net.layer2, net.layer3, net.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return net


def vgg16(classes: int) -> nn.Module:
    """torchvision's VGG16 with batch norm, and one linear layer behind global pooling: 15 instead of 134 million
    parameters, so that it can be trained from scratch on a few thousand photos."""
    from torchvision.models import vgg16_bn as make

    net = make(num_classes=classes)
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, classes)
    return net


BUILDERS: Final = {"resnet20": resnet20, "vgg6": vgg6}
LARGE: Final = {"resnet50": (resnet50, CAFFE_224), "vgg16": (vgg16, RGB_224)}


def build(network: str, data: str) -> LoadedNetwork:
    """The network of this name for this data set, with its preprocessing; classes are numbered."""
    classes = DATA_SETS[data]
    torch.manual_seed(0)
    if network in LARGE:
        make, pre = LARGE[network]
        model = make(classes)
    else:
        pre = SMALL[data]
        model = BUILDERS[network](pre.shape[0], classes, 2 if pre.crop[0] > 32 else 1)
    return LoadedNetwork(
        model.eval(), torch.rand(1, *pre.shape), pre, tuple(str(i) for i in range(classes))
    )


def __getattr__(name: str) -> partial[LoadedNetwork]:
    """``<network>_<data set>`` is a factory."""
    network, _, data = name.rpartition("_")
    if data not in DATA_SETS or network not in (*BUILDERS, *LARGE):
        raise AttributeError(name)
    return partial(build, network, data)
