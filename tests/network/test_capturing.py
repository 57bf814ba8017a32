"""Capturing small networks: scores, names, cuts, MACs, layouts, and what cannot be captured."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import nn
from toys.network import (
    Attention,
    Branches,
    Hand,
    Recurrent,
    Residual,
    Transformer,
    seeded,
    wire,
)

from isplit_plugin import network
from isplit_plugin.errors import CaptureError, SplitPointError, UnknownSplitPointError
from isplit_plugin.network import CapturedNetwork, capture
from isplit_plugin.schema import Macs

TOYS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "hand": (Hand, (1, 2, 2)),
    "residual": (Residual, (3, 6, 6)),
    "branches": (Branches, (3, 5, 5)),
    "transformer": (Transformer, (3, 8, 8)),
    "recurrent": (Recurrent, (4,)),
}


@lru_cache
def toy(name: str) -> tuple[nn.Module, torch.Tensor, CapturedNetwork]:
    factory, shape = TOYS[name]
    model = seeded(factory)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    return model, x, capture(model, x[:1])


def names(net: CapturedNetwork) -> list[str]:
    return [point.name for point in net.split_points]


def test_public_names() -> None:
    assert {"CapturedNetwork", "Importance", "capture", "load_network"} <= set(network.__all__)
    assert all(hasattr(network, name) for name in network.__all__)


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_parts_compute_what_the_whole_computes(name: str, batch: int) -> None:
    model, x, net = toy(name)
    x = x[:batch]
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(net.model(x), expected)
        for point in net.split_points:
            head, tail = net.bisect(point.name)
            activation = head(x)
            assert activation.shape == (batch, *point.shape)
            assert str(activation.dtype) == f"torch.{point.dtype}"
            assert activation[0].numel() * activation.element_size() == point.nbytes
            assert torch.equal(tail(wire(activation)), expected), point.name


def test_split_points_of_a_residual_network() -> None:
    _, _, net = toy("residual")
    assert names(net) == [
        "stem",
        "relu",
        "layers.0.add",
        "layers.0",
        "layers.1.add",
        "layers",
        "drop",
    ]
    assert net.split_point("layers").aliases == ("layers.1", "layers.1.relu_1")
    assert net.split_point("layers.1.relu_1") is net.split_point("layers")
    assert [p.name for p in net.split_points if p.is_block] == [
        "relu",
        "layers.0",
        "layers",
        "drop",
    ]


def test_a_module_called_again_gets_a_suffix() -> None:
    _, _, net = toy("recurrent")
    assert names(net) == ["cell", "tanh", "cell_1", "tanh_1", "cell_2", "tanh_2"]


def test_only_one_live_tensor_may_cross_a_cut() -> None:
    _, _, net = toy("branches")
    assert names(net) == ["stem", "cat", "amax"]
    with pytest.raises(
        SplitPointError, match=r"2 tensors are live there: stem, left; .* stem before, cat"
    ) as e:
        net.split_point("left")
    assert e.value.details == {"live": ["stem", "left"], "before": "stem", "after": "cat"}
    with pytest.raises(SplitPointError) as e:
        net.bisect("right")
    assert e.value.details["live"] == ["left", "middle", "right"]


def test_unknown_names_list_the_known_ones_the_closest_first() -> None:
    _, _, net = toy("residual")
    with pytest.raises(
        UnknownSplitPointError, match=r"unknown split point 'layer.0'; known: layers.0"
    ) as e:
        net.split_point("layer.0")
    assert set(e.value.details["known"]) >= {"input", "output", *names(net)}
    with pytest.raises(UnknownSplitPointError):
        net.bisect("no such place")


def test_input_and_output_are_no_split_points() -> None:
    model, x, net = toy("residual")
    for name in ("input", "output", "fc"):
        with pytest.raises(SplitPointError, match="not a split point"):
            net.split_point(name)
    with torch.no_grad():
        for name in ("input", "output", "fc"):
            head, tail = net.bisect(name)
            assert torch.equal(tail(head(x)), model(x))
        assert torch.equal(net.bisect("input")[0](x), x)


def test_a_tensor_without_the_batch_in_front_is_no_split_point() -> None:
    _, _, net = toy("transformer")
    assert "norm" not in names(net)
    with pytest.raises(SplitPointError, match="batch first"):
        net.split_point("norm")


def test_channels_follow_the_graph() -> None:
    _, _, net = toy("transformer")
    axes = {point.name: (point.shape, point.channel_axis) for point in net.split_points}
    assert axes == {
        "patch": ((8, 2, 2), 1),
        "flatten": ((8, 4), 1),
        "transpose": ((4, 8), 2),
        "cat": ((5, 8), 2),
        "blocks.0": ((5, 8), 2),
        "blocks.1": ((5, 8), 2),
        "getitem": ((8,), 1),
    }
    assert net.split_point("transpose").stride_order == (0, 2, 1)
    assert [p.name for p in net.split_points if p.is_block] == ["patch", "blocks.0", "blocks.1"]


class Shuffle(nn.Module):
    """Splits channels over two axes, swaps and merges them; takes windows as a Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = self.norm(x.permute(0, 2, 3, 1))
        x = torch.roll(torch.nn.functional.pad(x, (0, 0, 0, 2)), 1, 1)
        x = x.view(n, h // 2, 2, w // 2 + 1, 2, c).permute(0, 1, 3, 2, 4, 5)
        return self.fc(x.sum((1, 2)).mean((1, 2)))


def test_channels_are_followed_over_reshapes() -> None:
    net = capture(seeded(Shuffle), torch.randn(2, 3, 4, 4))
    assert [(p.name, p.shape, p.channel_axis) for p in net.split_points] == [
        ("conv", (4, 4, 4), 1),
        ("view", (2, 2, 4, 4), 2),
        ("transpose", (2, 2, 4, 4), 2),
        ("clone", (2, 2, 4, 4), 2),
        ("reshape", (4, 4, 4), 1),
        ("permute", (4, 4, 4), 3),
        ("norm", (4, 4, 4), 3),
        ("pad", (4, 6, 4), 3),
        ("roll", (4, 6, 4), 3),
        ("view_1", (2, 2, 3, 2, 4), 5),
        ("permute_1", (2, 3, 2, 2, 4), 5),
        ("sum", (2, 2, 4), 3),
        ("mean", (4,), 1),
    ]


def test_macs_by_hand() -> None:
    _, _, net = toy("hand")
    conv, fc = 2 * 1 * 4, 2 * 2
    assert {p.name: p.macs for p in net.split_points} == dict.fromkeys(
        ["conv", "relu", "pool", "flatten"], Macs(conv, fc)
    )
    _, _, net = toy("transformer")
    width, tokens = 8, 5
    patch, block = 8 * 3 * 16 * 4, tokens * width * 4 * width + 2 * tokens * tokens * width
    assert net.split_point("patch").macs == Macs(patch, 2 * block + width * 6)
    assert net.split_point("blocks.0").macs == Macs(patch + block, block + width * 6)


def test_parts_carry_their_own_tensors_only_and_share_them() -> None:
    model, _, net = toy("residual")
    original = {p.data_ptr() for p in model.parameters()}
    head, tail = net.bisect("layers.0")
    assert {n.rpartition(".")[0] for n, _ in head.named_parameters()} == {
        "stem",
        *(f"layers.0.{part}" for part in ("conv1", "bn", "conv2")),
    }
    assert {n.rpartition(".")[0] for n, _ in tail.named_parameters()} == {
        "fc",
        *(f"layers.1.{part}" for part in ("conv1", "bn", "conv2")),
    }
    for part in (head, tail, net.model):
        assert {p.data_ptr() for p in part.parameters()} <= original
    assert "num_batches_tracked" not in str(dict(tail.named_buffers()))
    assert not dict(net.bisect("drop")[1].named_buffers())


@pytest.mark.parametrize("name", TOYS)
def test_heads_can_be_exported_again(name: str) -> None:
    model, x, net = toy(name)
    batch = {0: torch.export.Dim("batch", min=1)}
    for point in net.split_points:
        head, tail = net.bisect(point.name)
        again = torch.export.export(head, (x[:2],), dynamic_shapes=(batch,), strict=False).module()
        with torch.no_grad():
            assert torch.equal(tail(wire(again(x))), model(x))


def test_capture_leaves_the_model_as_it_was() -> None:
    model = seeded(Residual).train()
    model.get_submodule("layers.1").eval()
    before = {name: module.training for name, module in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, torch.randn(1, 3, 6, 6))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_failed_capture_leaves_the_model_as_it_was() -> None:
    model = Steered().train()
    with pytest.raises(CaptureError):
        capture(model, torch.randn(1, 4))
    assert model.training
    assert model.fc.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_floating_types(dtype: torch.dtype) -> None:
    model = seeded(Residual).to(dtype)
    x = torch.randn(2, 3, 6, 6).to(dtype)
    net = capture(model, x)
    with torch.no_grad():
        assert torch.equal(net.model(x), model(x))
    assert net.split_point("stem").dtype == str(dtype).removeprefix("torch.")
    assert net.split_point("stem").nbytes == 4 * 6 * 6 * dtype.itemsize
    expected = np.float64 if dtype == torch.float64 else np.float32
    assert net.importance(x).values.dtype == expected


def test_channels_last_layouts_are_restored() -> None:
    model = seeded(Residual, 8).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)
    net = capture(model, x)
    assert net.split_point("layers.0").stride_order == (0, 2, 3, 1)
    with torch.no_grad():
        for point in net.split_points:
            head, tail = net.bisect(point.name)
            assert torch.equal(tail(wire(head(x))), model(x)), point.name


def test_properties_of_the_whole_network() -> None:
    _, _, net = toy("residual")
    assert (net.input_shape, net.classes, net.dtype, net.device) == (
        (3, 6, 6),
        5,
        torch.float32,
        torch.device("cpu"),
    )


class Steered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return -self.fc(x)


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Returning(nn.Module):
    """Returns ``make(x, scores)`` for the input x (N, 4) and the scores of a linear layer."""

    def __init__(self, make: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.make = make

    def forward(self, x: torch.Tensor) -> object:
        return self.make(x, self.fc(x))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.calls: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return self.fc(x) + self.calls


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (TwoInputs(), torch.randn(1, 4), "one input, got 2 inputs: x, y"),
        (
            nn.Linear(4, 2),
            (torch.randn(1, 4), torch.randn(1, 4)),
            "one input tensor, got tuple of 2",
        ),
        (nn.Linear(4, 2), "photo.jpg", "one input tensor, got str"),
        (
            nn.Linear(4, 2),
            torch.zeros(1, 4, dtype=torch.long),
            r"floating-point input, got torch\.int64",
        ),
        (nn.Linear(4, 2), torch.randn(4), r"batch dimension, got shape \(4,\)"),
        (nn.Linear(4, 2), torch.randn(0, 4), r"batch dimension, got shape \(0, 4\)"),
        (Returning(lambda x, s: (s, s)), torch.randn(1, 4), "class scores"),
        (Returning(lambda x, s: {"out": s}), torch.randn(1, 4), "class scores|one output tensor"),
        (Returning(lambda x, s: s[:, :, None]), torch.randn(1, 4), "class scores"),
        (Returning(lambda x, s: s.sum(0, keepdim=True)), torch.randn(1, 4), "one row of scores"),
        (Returning(lambda x, s: s.reshape(2, -1)), torch.randn(1, 4), "class scores|rows|batch"),
        (Returning(lambda x, s: s + torch.rand_like(s)), torch.randn(1, 4), "random in eval mode"),
        (
            Returning(lambda x, s: s[:, :1] if x.shape[0] == 2 else s),
            torch.randn(1, 4),
            "batch dimension is not free",
        ),
        (
            Steered(),
            torch.randn(1, 4),
            r"control flow depends on data.*test_capturing.py:\d+: if x.sum\(\) > 0",
        ),
        (Counting(), torch.randn(1, 4), "side effects.*calls"),
        (lambda x: x, torch.randn(1, 4), "torch.nn.Module, got function"),
    ],
)
def test_what_cannot_be_captured(model: nn.Module, example: object, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(model, example)  # type: ignore[arg-type]


def test_modules_that_are_given_a_batch_size() -> None:
    class Positions(nn.Module):
        def forward(self, batch: int, width: int) -> torch.Tensor:
            return torch.arange(width).expand(batch, -1) * 0.5

    class Positioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.positions = Positions()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.fc(x + self.positions(x.shape[0], 4))

    model, x = seeded(Positioned), torch.randn(3, 4)
    net = capture(model, x)
    assert names(net) == ["first", "add"]
    with torch.no_grad():
        head, tail = net.bisect("add")
        assert torch.equal(tail(head(x)), model(x))
    assert all(not m._forward_hooks for m in model.modules())


def test_the_blocks_of_a_wrapper_are_those_of_the_network_inside() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(Residual)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net((x - 0.5) / 0.25)

    net = capture(Wrapper(), torch.randn(1, 3, 6, 6))
    blocks = [p.name for p in net.split_points if p.is_block]
    assert blocks == ["net.relu", "net.layers.0", "net.layers", "net.drop"]


def test_the_elements_of_a_stage_are_blocks_and_their_parts_are_not() -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(Attention(8), Attention(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    class Staged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.Sequential(Stage(), Stage())
            self.fc = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.stages(x).mean(1))

    net = capture(seeded(Staged), torch.randn(1, 5, 8))
    blocks = [p.name for p in net.split_points if p.is_block]
    assert blocks == ["stages.0.inner.0", "stages.0", "stages.1.inner.0", "stages"]
    assert {p.channel_axis for p in net.split_points[:-1]} == {2}


class ReadsANumber(nn.Module):
    """Scales by a number that is read from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        out: torch.Tensor = self.fc((x * x.amax().item()).mean((2, 3)))
        return out


def test_a_number_read_from_the_data_is_refused_with_its_line() -> None:
    with pytest.raises(
        CaptureError, match=r"item.* depends on data \(at .*test_capturing.py.*amax\(\)\.item"
    ):
        capture(seeded(ReadsANumber), torch.rand(1, 3, 4, 4))


def test_a_failed_capture_prints_no_graph(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError, match="control flow depends on data"):
        capture(Steered(), torch.randn(1, 4))
    assert "def forward" not in "".join(capfd.readouterr())


def test_items_that_depend_on_their_neighbours_are_refused() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with pytest.raises(CaptureError, match="neighbours in a batch"):
        capture(model, torch.randn(1, 3, 8, 8))
