"""Positions on a grid: how an activation of any layout becomes maps (N, C, H, W), and back.

Convolutional activations are maps already, but for the channel axis (Swin has it last). Tokens of a vision transformer
are a square grid in reading order behind a few prefix tokens (class, distillation, registers), which stay apart.
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
"""Most prefix tokens in front of a square grid; above it, tokens count as one row."""


@dataclass(frozen=True, slots=True)
class Grid:
    """One activation layout: ``channels`` C, a grid of ``height`` x ``width`` positions and ``prefix`` tokens.

    ``channel_axis`` counts with batch. ``tokens``: two axes beside the batch, so the grid is flattened on one of them.
    """

    channels: int
    height: int
    width: int
    prefix: int
    channel_axis: int
    tokens: bool

    @classmethod
    def of(cls, point: SplitPoint) -> Grid:
        """The grid of a split point. Raises SplitPointError where the activation has no positions."""
        shape, axis = point.shape, point.channel_axis
        if not 1 <= axis <= len(shape):
            raise SplitPointError(
                f"{point.name!r}: channel axis {axis} of an activation of shape {('N', *shape)}"
            )
        places = [size for d, size in enumerate(shape, start=1) if d != axis]
        channels = shape[axis - 1]
        if len(places) == 2:
            return cls(channels, places[0], places[1], 0, axis, tokens=False)
        if len(places) == 1:
            side = math.isqrt(places[0])
            prefix = places[0] - side * side
            if prefix > MAX_PREFIX or side < 2:
                return cls(channels, 1, places[0], 0, axis, tokens=True)
            return cls(channels, side, side, prefix, axis, tokens=True)
        raise SplitPointError(
            f"{point.name!r}: a bottleneck needs maps (N, C, H, W) or tokens (N, T, C), "
            f"the activation has shape {('N', *shape)} with channels on axis {axis}",
            shape=list(shape),
        )

    def split(self, activation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Activation (N, ...) -> maps (N, C, H, W), and the prefix tokens (N, prefix, C) where there are any."""
        if not self.tokens:
            return activation.movedim(self.channel_axis, 1), None
        rows = activation.transpose(1, 2) if self.channel_axis == 1 else activation
        maps = (
            rows[:, self.prefix :]
            .transpose(1, 2)
            .reshape(-1, self.channels, self.height, self.width)
        )
        return maps, rows[:, : self.prefix] if self.prefix else None

    def join(self, maps: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        """The inverse of :meth:`split`."""
        if not self.tokens:
            return maps.movedim(1, self.channel_axis)
        rows = maps.flatten(2).transpose(1, 2)
        if prefix is not None:
            rows = torch.cat([prefix, rows], dim=1)
        return rows.transpose(1, 2) if self.channel_axis == 1 else rows
