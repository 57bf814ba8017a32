"""Activations as maps and back."""

from __future__ import annotations

import pytest
import torch

from isplit_plugin.bottleneck import Grid
from isplit_plugin.schema import Macs, SplitPoint


def point(*shape: int, channel_axis: int = 1) -> SplitPoint:
    order = tuple(range(len(shape) + 1))
    return SplitPoint("here", (), shape, "float32", 4, Macs(0, 0), channel_axis, order)


@pytest.mark.parametrize(
    "split_point",
    [
        point(5, 4, 6),
        point(4, 6, 5, channel_axis=3),
        point(17, 5, channel_axis=2),
        point(5, 17, channel_axis=1),
        point(30, 5, channel_axis=2),
    ],
)
def test_grid_and_back_is_the_identity(split_point: SplitPoint) -> None:
    grid = Grid.of(split_point)
    x = torch.randn(2, *split_point.shape)
    maps, prefix = grid.split(x)
    assert maps.shape == (2, 5, grid.height, grid.width)
    assert torch.equal(grid.join(maps, prefix), x)


def test_tokens_keep_their_reading_order() -> None:
    grid = Grid.of(point(5, 3, channel_axis=2))
    x = torch.arange(15.0).reshape(1, 5, 3)  # one prefix token, then 2 x 2
    maps, prefix = grid.split(x)
    assert prefix is not None
    assert prefix.tolist() == [[[0, 1, 2]]]
    assert maps[0, 0].tolist() == [[3, 6], [9, 12]]
