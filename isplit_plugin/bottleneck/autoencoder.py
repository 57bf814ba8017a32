"""The undercomplete autoencoder of I-SPLIT at a split point: encoder on the device, decoder in front of the tail.

Cunico et al., "I-SPLIT: Deep Network Interpretability for Split Computing" (ICPR 2022), with n = C / 8::

    encoder   Conv(C -> n, 3, s2)  BN ReLU   Conv(n -> 2n, 3, s2) BN ReLU
    decoder   ConvT(2n -> n, 3, s2) BN ReLU  ConvT(n -> C, 3, s2)

64 times fewer values where 4 divides height and width, 49 on 14 x 14 and 7 x 7 maps. Width, total stride and depth
(layers on each side) are options here; the defaults are theirs. The training recipe is not published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ArtifactError, SplitPointError
from ..schema import SplitPoint
from .grid import Grid

__all__ = ["Autoencoder", "AutoencoderConfig", "Decoder", "Encoder"]


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """``width``: n, the channels of the inner layers; the code has 2n (``None``: the paper's C / 8, at least 1).
    ``stride``: total subsampling on each axis, a power of two, at most 2^depth. ``depth``: layers on each side."""

    width: int | None = None
    stride: int = 4
    depth: int = 2

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], *, where: str = "bottleneck") -> AutoencoderConfig:
        """Raises ArtifactError naming ``where``."""
        try:
            width = raw["width"]
            return cls(None if width is None else int(width), int(raw["stride"]), int(raw["depth"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{where}: not a bottleneck's shape ({type(error).__name__}: {error})"
            ) from error

    def strides(self) -> tuple[int, ...]:
        """The stride of each encoder layer: twos first."""
        twos = self.stride.bit_length() - 1
        return (2,) * twos + (1,) * (self.depth - twos)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Channels (C, ..., 2n) and sizes (H, W), ... in front of, between and behind the encoder's layers."""

    channels: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]


def _plan(point: SplitPoint, grid: Grid, config: AutoencoderConfig) -> _Plan:
    width = max(1, grid.channels // 8) if config.width is None else config.width
    where = f"bottleneck at {point.name!r} {('N', *point.shape)}"
    if not 1 <= config.depth <= 8:
        raise SplitPointError(f"{where}: depth: expected 1 to 8 layers, got {config.depth}")
    if config.stride < 1 or config.stride & (config.stride - 1) or config.stride > 2**config.depth:
        raise SplitPointError(
            f"{where}: stride: expected a power of two up to {2**config.depth} for {config.depth} layers, "
            f"got {config.stride}"
        )
    if not 1 <= width <= grid.channels:
        raise SplitPointError(
            f"{where}: width: expected 1 to {grid.channels}, its channels, got {width}"
        )
    if max(grid.height, grid.width) < config.stride:
        raise SplitPointError(
            f"{where}: stride {config.stride} does not fit {grid.height} x {grid.width} positions",
            shape=list(point.shape),
        )
    channels = (grid.channels, *[width] * (config.depth - 1), 2 * width)
    sizes = [(grid.height, grid.width)]
    for stride in config.strides():
        height, length = sizes[-1]
        sizes.append(((height + stride - 1) // stride, (length + stride - 1) // stride))
    (height, length), positions = sizes[-1], grid.height * grid.width
    if channels[-1] * (height * length + grid.prefix) >= grid.channels * (positions + grid.prefix):
        raise SplitPointError(
            f"{where}: a code of {channels[-1]} x {height} x {length} values is no smaller than the activation"
        )
    return _Plan(channels, tuple(sizes), config.strides())


def _norm_relu(channels: int) -> Sequence[nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU()


class Encoder(nn.Module):
    """Activation (N, ...) -> code: (N, 2n, h, w) for maps, (N, 2n, prefix + h w) for tokens. Never negative."""

    def __init__(self, grid: Grid, plan: _Plan) -> None:
        super().__init__()
        self._grid = grid
        layers: list[nn.Module] = []
        for i, stride in enumerate(plan.strides):
            layers.append(nn.Conv2d(plan.channels[i], plan.channels[i + 1], 3, stride, 1))
            layers += _norm_relu(plan.channels[i + 1])
        self.layers = nn.Sequential(*layers)
        self.prefix = nn.Linear(grid.channels, plan.channels[-1]) if grid.prefix else None

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        maps, prefix = self._grid.split(activation)
        code: torch.Tensor = self.layers(maps)
        if not self._grid.tokens:
            return code
        code = code.flatten(2)
        if self.prefix is not None and prefix is not None:
            code = torch.cat([torch.relu(self.prefix(prefix)).transpose(1, 2), code], dim=2)
        return code


class Decoder(nn.Module):
    """Code -> activation (N, ...), of exactly the split point's shape."""

    def __init__(self, grid: Grid, plan: _Plan) -> None:
        super().__init__()
        self._grid = grid
        self._size = plan.sizes[-1]
        layers: list[nn.Module] = []
        for i in reversed(range(len(plan.strides))):
            stride, (height, width), (low, short) = (
                plan.strides[i],
                plan.sizes[i],
                plan.sizes[i + 1],
            )
            # A transposed convolution of kernel 3 and padding 1 gives (size - 1) stride + 1; the rest is 0 or 1.
            extra = (height - (low - 1) * stride - 1, width - (short - 1) * stride - 1)
            layers.append(
                nn.ConvTranspose2d(plan.channels[i + 1], plan.channels[i], 3, stride, 1, extra)
            )
            if i:
                layers += _norm_relu(plan.channels[i])
        self.layers = nn.Sequential(*layers)
        self.prefix = nn.Linear(plan.channels[-1], grid.channels) if grid.prefix else None

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        prefix = None
        if self._grid.tokens:
            if self.prefix is not None:
                prefix = self.prefix(code[:, :, : self._grid.prefix].transpose(1, 2))
            code = code[:, :, self._grid.prefix :].reshape(code.shape[0], -1, *self._size)
        return self._grid.join(self.layers(code), prefix)


class Autoencoder(nn.Module):
    """Encoder and decoder at one split point; ``forward`` is both, activation (N, ...) -> its approximation.

    ``code_shape``: the shape of the code without batch, what travels. ``macs``: multiply-accumulates of the encoder for
    one item, and of the decoder. Raises SplitPointError for a bottleneck that
    does not fit the split point: no positions, a stride above its size, more channels than it has, nothing saved.
    """

    encoder: Encoder
    decoder: Decoder

    def __init__(self, point: SplitPoint, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or AutoencoderConfig()
        self.split_point = point.name
        self.shape = point.shape
        grid = Grid.of(point)
        plan = _plan(point, grid, self.config)
        self.encoder, self.decoder = Encoder(grid, plan), Decoder(grid, plan)
        height, width = plan.sizes[-1]
        channels = plan.channels[-1]
        self.width = plan.channels[-1] // 2
        # A layer and its mirror image cost the same: 9 multiply-accumulates for each pair of channels at each place of
        # the smaller map.
        self.macs = (
            sum(
                9
                * plan.channels[i]
                * plan.channels[i + 1]
                * plan.sizes[i + 1][0]
                * plan.sizes[i + 1][1]
                for i in range(len(plan.strides))
            )
            + grid.prefix * grid.channels * channels
        )
        self.code_shape: tuple[int, ...] = (
            (channels, grid.prefix + height * width) if grid.tokens else (channels, height, width)
        )

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        restored: torch.Tensor = self.decoder(self.encoder(activation))
        return restored
