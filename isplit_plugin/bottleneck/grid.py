"""Activations of any layout as maps (N, C, H, W), and back.

A convolutional activation already is a map, except that its channel axis may differ (Swin has it
last). The tokens of a vision transformer form a square grid in reading order, after a few prefix
tokens (class, distillation, registers). Prefix tokens have no position and are kept apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from ..errors import SplitPointError
from ..schema import SplitPoint

__all__ = ["MAX_PREFIX", "Grid"]

MAX_PREFIX: Final = 8
"""The most prefix tokens before a square grid. With more, all tokens count as a single row."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The layout of the activation at one split point.

    Attributes:
        channels: C, number of channels.
        height, width: size of the grid of positions.
        prefix: number of prefix tokens.
        channel_axis: axis of the channels, where axis 0 is the batch.
        tokens: the activation has one axis of tokens instead of height and width.
    """

    channels: int
    height: int
    width: int
    prefix: int
    channel_axis: int
    tokens: bool

    @classmethod
    def of(cls, point: SplitPoint) -> Grid:
        """The layout at a split point. Raises SplitPointError if there are no positions."""
        shape, axis = point.shape, point.channel_axis
        if not 1 <= axis <= len(shape):
            raise SplitPointError(
                f"{point.name!r}: channel axis {axis} does not exist "
                f"in an activation of shape {('N', *shape)}"
            )
        channels = shape[axis - 1]
        positions = [size for d, size in enumerate(shape, start=1) if d != axis]
        if len(positions) == 2:
            return cls(channels, positions[0], positions[1], 0, axis, tokens=False)
        if len(positions) == 1:
            side = math.isqrt(positions[0])
            prefix = positions[0] - side * side
            if prefix > MAX_PREFIX or side < 2:
                return cls(channels, 1, positions[0], 0, axis, tokens=True)
            return cls(channels, side, side, prefix, axis, tokens=True)
        raise SplitPointError(
            f"{point.name!r}: a bottleneck needs maps (N, C, H, W) or tokens (N, T, C), got an "
            f"activation of shape {('N', *shape)} with channels on axis {axis}",
            shape=list(shape),
        )

    def split(self, activation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Activation (N, ...) -> maps (N, C, H, W) and prefix tokens (N, prefix, C) if any."""
        if not self.tokens:
            return activation.movedim(self.channel_axis, 1), None
        tokens = activation.transpose(1, 2) if self.channel_axis == 1 else activation
        maps = (
            tokens[:, self.prefix :]
            .transpose(1, 2)
            .reshape(-1, self.channels, self.height, self.width)
        )
        return maps, tokens[:, : self.prefix] if self.prefix else None

    def join(self, maps: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        """The inverse of :meth:`split`."""
        if not self.tokens:
            return maps.movedim(1, self.channel_axis)
        tokens = maps.flatten(2).transpose(1, 2)
        if prefix is not None:
            tokens = torch.cat([prefix, tokens], dim=1)
        return tokens.transpose(1, 2) if self.channel_axis == 1 else tokens
