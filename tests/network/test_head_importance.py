"""Importance inside the head: joined with the tail's it is that of the whole network."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.export import Dim, ExportedProgram
from toys.network import Branches, Hand, Residual, Transformer, seeded, wire

from isplit_plugin.errors import BundleError, DataError, SplitPointError
from isplit_plugin.network import CapturedNetwork, HeadImportance, capture, export_head
from isplit_plugin.schema import Cut, Manifest, Preprocessing


def _manifest(net: CapturedNetwork) -> Manifest:
    return Manifest(
        model="m",
        version="1",
        network_hash="h",
        input_shape=net.input_shape,
        preprocessing=Preprocessing((8, 8)),
        classes=("a",),
        split_points=net.split_points,
        deployed=(),
        codecs=(),
        default=Cut("input", "fp32"),
    )


def _exported(net: CapturedNetwork, point: str, folder: Path) -> ExportedProgram:
    """The head as a device loads it."""
    export_head(net, point, folder / "head.pt2", "pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own loader
        return torch.export.load(folder / "head.pt2")


def _joined(
    net: CapturedNetwork,
    program: ExportedProgram,
    point: str,
    x: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    forward = HeadImportance.from_program(program, _manifest(net), point).run(x)
    tail, gradient = net.gradient_from(point, wire(forward.activation))
    scale = 2.0 ** torch.floor(
        torch.log2(gradient.abs().max())
    )  # as the wire does: fp16 has few small numbers
    head = forward.finish((gradient / scale).to(dtype).to(torch.float32) * scale)
    before = head.shape[1]
    assert np.isnan(tail.values[:, :before]).all()
    return np.concatenate([head, tail.values[:, before:]], axis=1)


def test_by_hand(tmp_path: Path) -> None:
    """Channels x and -x, ReLU, mean, weights 2 and 4."""
    net = capture(seeded(Hand), torch.zeros(1, 1, 2, 2))
    x = torch.tensor([[[[1.0, -2.0], [3.0, -1.0]]]])
    forward = HeadImportance.from_program(
        _exported(net, "relu", tmp_path), _manifest(net), "relu"
    ).run(x)
    # d score / d relu: 2/4 at every position of channel 0, 4/4 of channel 1.
    gradient = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    # ReLU passes the gradient of channel 0 at two of four positions, and that of channel 1 at the
    # other two, so alpha at `conv` is (0.25, 0.5). L = ReLU(mean of 0.25 x and -0.5 x) =
    # ReLU(-0.125 x), which is 0.25 and 0.125 at x = -2 and -1, and 0 at the other two positions.
    np.testing.assert_allclose(forward.finish(gradient), [[0.375 / 4]], rtol=1e-6)
    with pytest.raises(DataError, match="finished before"):
        forward.finish(gradient)


@pytest.mark.parametrize(
    ("factory", "shape"),
    [(Residual, (3, 8, 8)), (Branches, (3, 8, 8)), (Transformer, (3, 16, 16))],
)
def test_joined_curves_of_small_networks(
    factory: type[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(2)
    x = torch.randn(3, *shape)
    net = capture(seeded(factory), x[:1])
    whole = net.importance(x).values
    for point in net.split_points[::2]:
        joined = _joined(net, _exported(net, point.name, tmp_path), point.name, x)
        np.testing.assert_allclose(joined, whole, rtol=1e-5, atol=1e-9)


def test_joined_curves_of_resnet18(tmp_path: Path) -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 3, 64, 64)
    net = capture(seeded(torchvision.models.resnet18, num_classes=10), x[:1])
    whole = net.importance(x).values
    program = _exported(net, "layer2", tmp_path)
    np.testing.assert_allclose(_joined(net, program, "layer2", x), whole, rtol=1e-5, atol=1e-9)
    # fp16 rounds each gradient to 11 bits, an error of at most 1e-3.
    np.testing.assert_allclose(
        _joined(net, program, "layer2", x, torch.float16), whole, rtol=1e-3, atol=1e-9
    )


@pytest.mark.slow
def test_joined_curves_of_swin(tmp_path: Path) -> None:
    torch.manual_seed(4)
    x = torch.randn(1, 3, 64, 64)
    net = capture(seeded(torchvision.models.swin_t, num_classes=10), x)
    point = net.split_points[9].name
    head, _ = net.bisect(point)
    program = torch.export.export(
        head, (x.repeat(2, 1, 1, 1),), dynamic_shapes=({0: Dim("batch", min=1)},)
    )
    np.testing.assert_allclose(
        _joined(net, program, point, x), net.importance(x).values, rtol=1e-5, atol=1e-9
    )


def test_a_head_of_another_network_is_refused(tmp_path: Path) -> None:
    net = capture(seeded(Residual), torch.zeros(1, 3, 8, 8))
    wider = capture(seeded(Residual, 6), torch.zeros(1, 3, 8, 8))
    program = _exported(wider, "layers.0", tmp_path)
    with pytest.raises(BundleError, match="expected 3 split points before the cut"):
        HeadImportance.from_program(program, _manifest(net), "layers.0")
    with pytest.raises(BundleError, match="expected 5 split points"):
        HeadImportance.from_program(
            _exported(net, "layers.0", tmp_path), _manifest(net), "layers.1"
        )
    forward = HeadImportance.from_program(program, _manifest(wider), "layers.0").run(
        torch.zeros(1, 3, 8, 8)
    )
    with pytest.raises(DataError, match="expected a gradient"):
        forward.finish(torch.zeros(1, 4, 8, 8))


class Tail(nn.Module):
    """A nonlinear start, followed by ``rest``."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.rest = rest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.start(x))


class Squared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean((2, 3))
        return x * x


class Inverse(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.0 / (2.0 + x.mean((2, 3)))


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(2).mean(2) * 3.0 + 1.0) / 2.0 - x.amin((2, 3)).mean() * 0.0


_END = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("rest", "linear"),
    [
        (nn.Sequential(*_END), True),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Dropout(), *_END), True),
        (nn.Sequential(*_END, nn.Softmax(1)), True),
        (nn.Sequential(*_END, nn.Softmax(1), nn.Linear(3, 3)), False),
        (nn.Sequential(nn.ReLU(), *_END), False),
        (nn.Sequential(nn.MaxPool2d(2), *_END), False),
        (nn.Sequential(nn.GELU(), *_END), False),
        (nn.Sequential(nn.LayerNorm([4, 6, 6]), *_END), False),
        (Squared(), False),
        (Inverse(), False),
        (Scaled(), False),
    ],
)
def test_which_tails_are_linear(rest: nn.Module, linear: bool) -> None:
    net = capture(seeded(Tail, rest), torch.zeros(1, 3, 8, 8))
    assert net.is_linear_after("start") is linear


def test_nothing_to_finish_at_the_ends() -> None:
    net = capture(seeded(Residual), torch.zeros(1, 3, 8, 8))
    for end in ("input", "output"):
        with pytest.raises(SplitPointError):
            net.gradient_from(end, torch.zeros(1, 3, 8, 8))
