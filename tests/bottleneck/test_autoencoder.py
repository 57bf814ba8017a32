"""Shapes, the paper's architecture, and split points that an autoencoder does not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isplit_plugin.bottleneck import Autoencoder, AutoencoderConfig
from isplit_plugin.errors import SplitPointError
from isplit_plugin.schema import Macs, SplitPoint


def point(*shape: int, channel_axis: int = 1) -> SplitPoint:
    order = tuple(range(len(shape) + 1))
    return SplitPoint("here", (), shape, "float32", 4, Macs(0, 0), channel_axis, order)


def describe(layer: nn.Module) -> tuple[object, ...]:
    name = type(layer).__name__
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return name, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride
    return (name,)


def test_the_default_is_the_papers_autoencoder() -> None:
    autoencoder = Autoencoder(point(64, 16, 16))
    assert [describe(layer) for layer in autoencoder.encoder.layers] == [
        ("Conv2d", 64, 8, (3, 3), (2, 2)),
        ("BatchNorm2d",),
        ("ReLU",),
        ("Conv2d", 8, 16, (3, 3), (2, 2)),
        ("BatchNorm2d",),
        ("ReLU",),
    ]
    assert [describe(layer) for layer in autoencoder.decoder.layers] == [
        ("ConvTranspose2d", 16, 8, (3, 3), (2, 2)),
        ("BatchNorm2d",),
        ("ReLU",),
        ("ConvTranspose2d", 8, 64, (3, 3), (2, 2)),
    ]


@pytest.mark.parametrize(("size", "ratio"), [(56, 64), (28, 64), (14, 49), (7, 49)])
def test_how_many_values_the_code_saves(size: int, ratio: int) -> None:
    channels, height, width = Autoencoder(point(256, size, size)).code_shape
    assert 256 * size * size / (channels * height * width) == ratio


@settings(max_examples=60)
@given(
    channels=st.sampled_from([8, 9, 24]),
    height=st.integers(1, 13),
    width=st.integers(4, 13),
    layers=st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (4, 2), (4, 3)]),
    axis=st.sampled_from([1, 3]),
)
def test_any_size_comes_back_exactly(
    channels: int, height: int, width: int, layers: tuple[int, int], axis: int
) -> None:
    shape = (channels, height, width) if axis == 1 else (height, width, channels)
    stride, depth = layers
    config = AutoencoderConfig(width=1, stride=stride, depth=depth)
    autoencoder = Autoencoder(point(*shape, channel_axis=axis), config).eval()
    x = torch.randn(2, *shape)
    code = autoencoder.encoder(x)
    assert code.shape == (2, *autoencoder.code_shape)
    assert code.shape[2] == -(-height // stride)
    assert code.min() >= 0
    assert autoencoder(x).shape == x.shape


@pytest.mark.parametrize(
    ("tokens", "axis", "code"),
    [
        (197, 2, (16, 1 + 16)),  # ViT: class token, 14 x 14
        (198, 2, (16, 2 + 16)),  # DeiT: distillation token too
        (196, 2, (16, 16)),
        (197, 1, (16, 1 + 16)),  # N, C, T
        (60, 2, (16, 15)),  # not a square after at most eight tokens: one row
    ],
)
def test_tokens(tokens: int, axis: int, code: tuple[int, ...]) -> None:
    shape = (tokens, 64) if axis == 2 else (64, tokens)
    autoencoder = Autoencoder(point(*shape, channel_axis=axis)).eval()
    assert autoencoder.code_shape == code
    x = torch.randn(3, *shape)
    assert autoencoder.encoder(x).shape == (3, *code)
    assert autoencoder(x).shape == x.shape


@pytest.mark.parametrize(
    ("split_point", "config", "message"),
    [
        (point(64), AutoencoderConfig(), r"maps \(N, C, H, W\) or tokens"),
        (point(64, 1, 1), AutoencoderConfig(), "stride 4 does not fit 1 x 1"),
        (point(64, 3, 3), AutoencoderConfig(), "stride 4 does not fit 3 x 3"),
        (point(64, 8, 8, 8), AutoencoderConfig(), r"maps \(N, C, H, W\) or tokens"),
        (point(64, 8, 8), AutoencoderConfig(stride=3), "power of two up to 4"),
        (point(64, 8, 8), AutoencoderConfig(stride=8), "power of two up to 4"),
        (point(64, 8, 8), AutoencoderConfig(depth=0), "depth"),
        (point(64, 8, 8), AutoencoderConfig(width=65), "width: expected 1 to 64"),
        (point(64, 8, 8), AutoencoderConfig(width=0), "width: expected 1 to 64"),
        (point(64, 8, 8), AutoencoderConfig(width=32, stride=1), "no smaller than the activation"),
        (
            dataclasses.replace(point(64, 8, 8), channel_axis=7),
            AutoencoderConfig(),
            "channel axis 7",
        ),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_refused(
    split_point: SplitPoint, config: AutoencoderConfig, message: str
) -> None:
    with pytest.raises(SplitPointError, match=message):
        Autoencoder(split_point, config)
