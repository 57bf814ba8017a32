"""The corrector: a small network between the decoder of the codec ``dct`` and the tail.

The error of a code has structure: what quantisation removes depends on what is left. A residual of
a few thousand parameters undoes some of it, at no cost for the device.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...schema import FloatArray
from ...wire import QUALITIES, Grid, Transform

WIDTH: Final = 64
"""The channels between the two 1 x 1 convolutions."""
KERNEL: Final = 5
MAX_BYTES: Final = 32 * 1024 * 1024
"""The memory of one hidden layer: larger batches go through in parts."""


class Corrector(nn.Module):
    """``a + n(a)``, clipped to the activation's range, for one split point and all its qualities.

    n is a 1 x 1 convolution to :data:`WIDTH` channels, two depthwise ones of 5 x 5 (along an axis
    of length 1: of 1), each with a GELU in front, a gain for each channel and quality, and a 1 x 1
    convolution back. Before training, n is 0. It runs over the grid of the transform: tokens of a
    square picture are rows and columns, the tokens in front of them stay as they are, one axis is
    one row, and without positions n is a network over the channels alone.

    Attributes:
        scale: (1,), what n divides the activation by, and multiplies its result with.
        active: (Q,), bool: the qualities that are corrected; at others the activation stays as it is.

    Parameters:
        transform: whose decoder it stands behind.
    """

    scale: Tensor
    active: Tensor

    def __init__(self, transform: Transform, *, scale: float = 1.0) -> None:
        super().__init__()
        self.shape = transform.shape
        self.channel_axis = transform.channel_axis
        self.grid = grid = Grid.of(transform.shape, transform.channel_axis)
        self.low, self.high = transform.low, transform.high
        channels = transform.shape[transform.channel_axis - 1]
        kernel = KERNEL if grid.height > 1 else 1, KERNEL if grid.width > 1 else 1
        padding = kernel[0] // 2, kernel[1] // 2
        self.widen = nn.Conv2d(channels, WIDTH, 1)
        self.first = nn.Conv2d(WIDTH, WIDTH, kernel, padding=padding, groups=WIDTH)
        self.second = nn.Conv2d(WIDTH, WIDTH, kernel, padding=padding, groups=WIDTH)
        self.narrow = nn.Conv2d(WIDTH, channels, 1)
        self.gains = nn.Parameter(torch.ones(len(QUALITIES), WIDTH))
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)  # type: ignore[arg-type]
        self.register_buffer("scale", torch.tensor([scale]))
        self.register_buffer("active", torch.ones(len(QUALITIES), dtype=torch.bool))

    def forward(self, activation: Tensor, qualities: Tensor) -> Tensor:
        """Corrected activations (N, *shape), each of its quality in ``qualities`` (N,), int64."""
        grid = self.grid
        first = activation.movedim(self.channel_axis, 1)
        values = first.flatten(2) if first.dim() > 2 else first.unsqueeze(2)
        picture = values[:, :, grid.prefix :].reshape(*values.shape[:2], grid.height, grid.width)
        hidden = F.gelu(self.widen(picture / self.scale))
        hidden = F.gelu(self.second(F.gelu(self.first(hidden))))
        hidden = hidden * self.gains[qualities][:, :, None, None]
        scale = self.scale * self.active[qualities][:, None, None, None]
        corrected = (picture + self.narrow(hidden) * scale).clamp(self.low, self.high)
        # Hostile activations can be too large for it: they stay as they are.
        corrected = torch.where(corrected.isfinite(), corrected, picture).flatten(2)
        if grid.prefix:
            corrected = torch.cat([values[:, :, : grid.prefix], corrected], dim=2)
        return corrected.reshape(first.shape).movedim(1, self.channel_axis)

    def correct(self, values: FloatArray, quality: int) -> FloatArray:
        """Decoded activations (N, *shape) of one quality, corrected: float32, row-major."""
        if not bool(self.active[quality]):
            return values
        device = self.scale.device
        owned = torch.from_numpy(np.require(values, np.float32, ("C", "A", "W")))
        items = max(MAX_BYTES // (4 * WIDTH * self.grid.positions), 1)
        with torch.inference_mode():
            parts = []
            for part in torch.split(owned, items):
                qualities = torch.full((len(part),), quality, device=device)
                parts.append(self(part.to(device), qualities).cpu())
            corrected: FloatArray = torch.cat(parts).contiguous().numpy()
        return corrected

    @property
    def parameter_count(self) -> int:
        """The number of trained parameters."""
        return sum(math.prod(parameter.shape) for parameter in self.parameters())
