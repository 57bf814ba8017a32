"""The networks of the study: factories ``<network>_<data set>`` for ``--network``.

There are two families, so that a finding does not depend on one architecture: the residual network
of He et al. (2016, section 4.2) with 20 layers, and a VGG (Simonyan & Zisserman, 2015) of six
convolutions with batch norm. One CPU core can train both, and the small vision transformer that
the codec ``dct`` is measured on. ResNet-50 and VGG16 are for a GPU. For
64-pixel images the first convolution of a small network has stride 2, so that the network works on
about 32 x 32 positions.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isplit_plugin.network import LoadedNetwork
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
"""For the ImageNet weights that the large study starts from: mean subtracted, nothing divided."""
RGB_224: Final = Preprocessing(crop=(224, 224), resize=224)

DATA_SETS: Final = {"notmnist": 10, "chest": 2, "tiny": 20, "tiny100": 100}
"""Number of classes of each data set; ``tiny`` is the first 20 classes of Tiny-ImageNet."""
SMALL: Final = {"notmnist": GREY_28, "chest": GREY_64, "tiny": RGB_64, "tiny100": RGB_64}
"""Preprocessing of the small networks for each data set."""

NamedLayer = tuple[str, nn.Module]


def build(network: str, data: str) -> LoadedNetwork:
    """A network for a data set, with its preprocessing; the classes are numbered."""
    classes = DATA_SETS[data]
    torch.manual_seed(0)
    if network in LARGE:
        make, preprocessing = LARGE[network]
        model = make(classes)
    else:
        preprocessing = SMALL[data]
        stem_stride = 2 if preprocessing.crop[0] > 32 else 1
        model = BUILDERS[network](preprocessing.shape[0], classes, stem_stride)
    example = torch.rand(1, *preprocessing.shape)
    labels = tuple(str(i) for i in range(classes))
    return LoadedNetwork(model.eval(), example, preprocessing, labels)


def __getattr__(name: str) -> partial[LoadedNetwork]:
    """Make ``<network>_<data set>`` a factory."""
    network, _, data = name.rpartition("_")
    if data not in DATA_SETS or network not in (*BUILDERS, *LARGE):
        raise AttributeError(name)
    return partial(build, network, data)


class Block(nn.Module):
    """Two 3 x 3 convolutions; a projecting shortcut where the shape changes (option B)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet20(channels: int, classes: int, stem_stride: int) -> nn.Module:
    """A stem and nine residual blocks of 16, 32 and 64 channels."""
    layers: list[NamedLayer] = [("stem", _convolution(channels, 16, stem_stride))]
    width = 16
    for stage, out in enumerate((16, 32, 64), start=1):
        for letter in "abc":
            stride = 2 if letter == "a" and stage > 1 else 1
            layers.append((f"block{stage}{letter}", Block(width, out, stride)))
            width = out
    return _classifier(layers, width, classes)


def vgg6(channels: int, classes: int, stem_stride: int) -> nn.Module:
    """Six convolutions with batch norm in stages of 16-32, 64-64 and 128-128 channels."""
    layers: list[NamedLayer] = []
    width = channels
    for stage, stage_widths in enumerate(((16, 32), (64, 64), (128, 128)), start=1):
        for letter, out in zip("ab", stage_widths, strict=True):
            stride = stem_stride if not layers else 1
            layers.append((f"conv{stage}{letter}", _convolution(width, out, stride)))
            width = out
        layers.append((f"pool{stage}", nn.MaxPool2d(2)))
    return _classifier(layers, width, classes)


class Attention(nn.Module):
    """Multi-head self-attention over tokens (N, T, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.perceptron(self.norm2(x))


class VisionTransformer(nn.Module):
    """The vision transformer of Dosovitskiy et al. (2021), small: patches of 4 x 4, 64 channels,
    six blocks of four heads, and a class token.
    """

    def __init__(self, channels: int, classes: int, side: int, patch: int) -> None:
        super().__init__()
        width = 64
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4) for _ in range(6)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        tokens = self.blocks(tokens + self.positions)
        return self.head(self.norm(tokens)[:, 0])


def vit6(channels: int, classes: int, stem_stride: int) -> nn.Module:
    """Six transformer blocks over 7 x 7 patches, or 8 x 8 of images of 64 pixels."""
    side, patch = (28, 4) if stem_stride == 1 else (64, 8)
    return VisionTransformer(channels, classes, side, patch)


def resnet50(classes: int) -> nn.Module:
    """torchvision's, with the strides of the original paper (v1), as the ImageNet weights need."""
    from torchvision.models import resnet50 as make

    net = make(num_classes=classes)
    for stage in (net.layer2, net.layer3, net.layer4):
        stage[0].conv1.stride = (2, 2)
        stage[0].conv2.stride = (1, 1)
    return net


def vgg16(classes: int) -> nn.Module:
    """torchvision's VGG16 with batch norm, and one linear layer after global pooling.

    It has 15 instead of 134 million parameters, so it can be trained from scratch on a few thousand
    photos.
    """
    from torchvision.models import vgg16_bn as make

    net = make(num_classes=classes)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Linear(512, classes)
    return net


BUILDERS: Final = {"resnet20": resnet20, "vgg6": vgg6, "vit6": vit6}
LARGE: Final = {"resnet50": (resnet50, CAFFE_224), "vgg16": (vgg16, RGB_224)}


def _convolution(channels: int, out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


def _classifier(layers: list[NamedLayer], width: int, classes: int) -> nn.Module:
    """The layers, global pooling and a linear layer, with He's initialisation."""
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
