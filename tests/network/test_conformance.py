"""One test over classifiers of every family in torchvision, with seeded random weights.

At every split point the tail, given a row-major copy of the activation, computes the scores of the
whole network bit for bit: in one process, with the same number of threads and the same batch.
Inputs are as small as each network allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from toys.network import seeded, wire

from isplit_plugin.network import CapturedNetwork, capture
from isplit_plugin.schema import Preprocessing

Factory = Callable[[], nn.Module]


def small_maxvit() -> nn.Module:
    return models.MaxVit(
        input_size=(32, 32),
        stem_channels=8,
        partition_size=4,
        block_channels=[8, 16],
        block_layers=[1, 1],
        head_dim=4,
        stochastic_depth_prob=0.2,
        num_classes=10,
    )


def small_densenet() -> nn.Module:
    return models.DenseNet(8, (3, 3, 3), 16, num_classes=10)


def small_swin_v2() -> nn.Module:
    block = partial(SwinTransformerBlockV2, norm_layer=partial(nn.LayerNorm, eps=1e-5))
    return models.SwinTransformer(
        [4, 4],
        16,
        [2, 2],
        [2, 4],
        [4, 4],
        num_classes=10,
        block=block,
        downsample_layer=PatchMergingV2,
    )


def channels_last_resnet50() -> nn.Module:
    model: nn.Module = models.resnet50()
    return model.to(memory_format=torch.channels_last)


# name: (factory, side of the input, split points, block outputs). The counts would show a change of
# the analysis, which changes what users are offered.
NETWORKS: dict[str, tuple[Factory, int, int, int]] = {
    "alexnet": (models.alexnet, 64, 19, 12),
    "convnext_tiny": (models.convnext_tiny, 32, 39, 28),
    "densenet": (small_densenet, 32, 19, 9),
    "efficientnet_b0": (models.efficientnet_b0, 32, 77, 20),
    "googlenet": (lambda: models.googlenet(init_weights=False), 32, 24, 18),
    "inception_v3": (lambda: models.inception_v3(init_weights=False), 75, 30, 19),
    "maxvit": (small_maxvit, 32, 51, 8),
    "mnasnet0_5": (models.mnasnet0_5, 32, 70, 21),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 32, 57, 15),
    "regnet_y_400mf": (models.regnet_y_400mf, 32, 37, 18),
    "resnet50": (models.resnet50, 32, 38, 19),
    "resnet50_channels_last": (channels_last_resnet50, 32, 38, 19),
    "shufflenet_v2_x0_5": (models.shufflenet_v2_x0_5, 32, 88, 19),
    "squeezenet1_1": (models.squeezenet1_1, 32, 32, 14),
    "swin_t": (models.swin_t, 64, 43, 22),
    "swin_v2": (small_swin_v2, 40, 19, 12),
    "vgg11_bn": (models.vgg11_bn, 32, 35, 16),
    "vgg16": (models.vgg16, 32, 37, 21),
    "vit_b_32": (lambda: models.vit_b_32(image_size=64), 64, 32, 15),
}


@pytest.fixture(autouse=True)
def _differentiable_attention() -> Iterator[None]:
    """Turn off the fused inference path of nn.MultiheadAttention, which rounds differently."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_cut_of(name: str) -> None:
    factory, side, points, blocks = NETWORKS[name]
    model = seeded(factory)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, side, side, generator=generator)
    net = capture(model, x[:1])

    with torch.no_grad():
        expected = model(x)
        assert torch.equal(net.model(x), expected)
        for point in net.split_points:
            head, tail = net.bisect(point.name)
            activation = head(x)
            assert activation.shape[1:] == point.shape
            assert torch.equal(tail(wire(activation)), expected), point.name

    assert (len(net.split_points), sum(p.is_block for p in net.split_points)) == (points, blocks)
    names = [n for point in net.split_points for n in point.names]
    assert len(names) == len(set(names))

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x[:1])
    macs = counter.get_total_flops() // 2
    assert {sum(point.macs) for point in net.split_points} == {macs}
    heads = [point.macs.head for point in net.split_points]
    assert heads == sorted(heads)

    importance = net.importance(x)
    assert importance.values.shape == (2, points)
    assert (importance.values >= 0).all()
    assert (importance.values[:, -1] > 0).all()


def test_a_saved_network_is_the_same_network(tmp_path: Path) -> None:
    preprocessing = Preprocessing(crop=(32, 32))
    x = torch.randn(2, 3, 32, 32)
    net = capture(seeded(models.resnet18), x)
    net.save(tmp_path / "net.pt2")
    again = CapturedNetwork.load(tmp_path / "net.pt2")
    assert again.split_points == net.split_points
    assert again.network_hash(preprocessing) == net.network_hash(preprocessing)
    with torch.no_grad():
        assert torch.equal(again.model(x), net.model(x))
    assert (again.importance(x).values == net.importance(x).values).all()


def test_channels_are_last_in_a_swin_transformer() -> None:
    """Except at the convolution of the stem and after the last permutation."""
    net = capture(
        seeded(models.SwinTransformer, [4, 4], 16, [2, 2], [2, 4], [3, 3], num_classes=10),
        torch.randn(1, 3, 40, 40),
    )
    first = [p.name for p in net.split_points if len(p.shape) == 3 and p.channel_axis == 1]
    assert first == ["features.0.0", "permute", "avgpool"]
    assert net.split_point("permute").stride_order == (0, 2, 3, 1)
    assert {p.shape[-1] for p in net.split_points if p.name.startswith("features.1")} == {16}


def test_names_are_those_of_the_modules() -> None:
    net = capture(seeded(models.resnet18), torch.randn(1, 3, 32, 32))
    blocks = [f"layer{stage}{'' if block else '.0'}" for stage in range(1, 5) for block in range(2)]
    assert [p.name for p in net.split_points if p.is_block] == [
        "relu",
        "maxpool",
        *blocks,
        "avgpool",
    ]
    assert net.split_point("layer1.1") is net.split_point("layer1")
    assert net.split_point("layer1.0.add").is_block is False
    net = capture(seeded(models.VisionTransformer, 32, 8, 2, 2, 16, 32), torch.randn(1, 3, 32, 32))
    blocks = ["encoder.layers.encoder_layer_0", "encoder.layers", "encoder"]
    assert [p.name for p in net.split_points if p.is_block] == [
        "conv_proj",
        "encoder.dropout",
        *blocks,
    ]
    assert net.split_point("encoder.layers.encoder_layer_1").name == "encoder.layers"
