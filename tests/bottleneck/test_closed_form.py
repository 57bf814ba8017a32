"""The closed-form start: what a linear code can carry comes back before any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys.bottleneck import toy_network, toy_photos

from isplit_plugin.bottleneck import (
    STARTS,
    Autoencoder,
    AutoencoderConfig,
    Budget,
    Features,
    FitResult,
    Targets,
    compute_features,
    compute_targets,
    fit,
)
from isplit_plugin.bottleneck.closed_form import start_from_closed_form
from isplit_plugin.errors import ArtifactError
from isplit_plugin.schema import Macs, SplitPoint

COUNT = 40


class Tail(nn.Module):
    """Scores of three classes from any activation."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(values, 3)

    def forward(self, activation: Tensor) -> Tensor:
        scores: Tensor = self.linear(activation.flatten(1))
        return scores


def features_of(activations: Tensor) -> Features:
    rows = np.arange(len(activations))
    scores = torch.zeros(len(activations), 3)
    targets = Targets(rows, scores, torch.full((len(activations),), -1))
    return Features("x", targets, toy_photos(4), nn.Identity(), activations, 1.0)


def started(
    shape: tuple[int, ...], axis: int, activations: Tensor, config: AutoencoderConfig
) -> tuple[Autoencoder, bool]:
    point = SplitPoint("x", (), shape, "float32", 4, Macs(1, 1), axis, tuple(range(len(shape) + 1)))
    torch.manual_seed(0)
    autoencoder = Autoencoder(point, config)
    tail = Tail(int(np.prod(shape)))
    did = start_from_closed_form(autoencoder, point, features_of(activations), tail, seed=0)
    return autoencoder, did


def error(autoencoder: Autoencoder, activations: Tensor) -> float:
    """The squared error as a share of the variance."""
    with torch.inference_mode():
        back = autoencoder.eval()(activations)
    return float((back - activations).square().mean() / activations.var())


def simple_maps(block: int, size: tuple[int, int] = (8, 8)) -> Tensor:
    """(N, 4, H, W) of one component, constant in blocks, about a mean."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = (-(-each // block) for each in size)
    coarse = torch.randn(COUNT, 1, rows, columns, generator=generator)
    fine = coarse.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
    channels = torch.tensor([1.0, -2.0, 0.5, 3.0])[:, None, None]
    return channels * fine[:, :, : size[0], : size[1]] + torch.arange(4.0)[:, None, None]


@pytest.mark.parametrize(
    ("config", "block"),
    [
        (AutoencoderConfig(width=1, stride=2, depth=1), 2),
        (AutoencoderConfig(width=2, stride=4, depth=2), 4),
        (AutoencoderConfig(width=2, stride=4, depth=3), 4),
        (AutoencoderConfig(width=1, stride=1, depth=1), 1),
    ],
)
def test_what_a_linear_code_can_carry_comes_back(config: AutoencoderConfig, block: int) -> None:
    activations = simple_maps(block)
    autoencoder, did = started((4, 8, 8), 1, activations, config)
    assert did
    assert error(autoencoder, activations) < 0.02


@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 8, 4), 3), ((4, 7, 9), 1), ((17, 4), 2), ((4, 16), 1)]
)
def test_every_layout_starts_better_than_noise(shape: tuple[int, ...], axis: int) -> None:
    """Channels last, odd sizes, tokens with a class token, tokens with channels first."""
    config = AutoencoderConfig(width=2, stride=2, depth=1)
    if len(shape) == 3:
        size = tuple(s for place, s in enumerate(shape, start=1) if place != axis)
        activations = simple_maps(2, (size[0], size[1])).movedim(1, axis).contiguous()
    else:
        tokens = simple_maps(2, (4, 4)).flatten(2).transpose(1, 2)
        if shape[0] == 17:
            tokens = torch.cat([tokens[:, :1] * 2, tokens], dim=1)
        activations = (tokens if axis == 2 else tokens.transpose(1, 2)).contiguous()
    autoencoder, did = started(shape, axis, activations, config)
    assert did
    # An odd last row or column has a neighbour that is not there.
    assert error(autoencoder, activations) < (0.3 if 7 in shape else 0.02)


def test_a_layer_with_one_channel_keeps_its_noise() -> None:
    config = AutoencoderConfig(width=1, stride=4, depth=2)
    autoencoder, did = started((4, 8, 8), 1, simple_maps(4), config)
    assert not did
    torch.manual_seed(0)
    point = SplitPoint("x", (), (4, 8, 8), "float32", 4, Macs(1, 1), 1, (0, 1, 2, 3))
    untouched = Autoencoder(point, config).state_dict()
    for name, value in autoencoder.state_dict().items():
        assert torch.equal(value, untouched[name]), name


def trained(start: str, epochs: int = 1) -> FitResult:
    net, photos = toy_network(), toy_photos(90)
    targets = compute_targets(net, photos, photos.sample(None))
    [[features]] = compute_features(net, photos, ["0"], targets)
    return fit(
        net.split_point("0"),
        features,
        net.bisect("0")[1],
        network_hash="toy",
        config=AutoencoderConfig(width=4, stride=2, depth=1),
        budget=Budget(epochs=epochs, batch_size=16, start=start),
    )


def test_training_begins_ahead_of_noise_and_repeats() -> None:
    closed, noise = trained("closed-form"), trained("noise")
    assert closed.history[0].validation_loss < 0.5 * noise.history[0].validation_loss
    again = trained("closed-form")
    for name, value in closed.autoencoder.state_dict().items():
        assert torch.equal(value, again.autoencoder.state_dict()[name]), name


def test_an_unknown_start_is_refused() -> None:
    assert Budget().start == STARTS[0] == "closed-form"
    with pytest.raises(ArtifactError, match=r"start: expected one of .* got 'warm'"):
        Budget(start="warm")
