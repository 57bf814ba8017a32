"""The undercomplete autoencoder of I-SPLIT for one split point.

The encoder runs on the device, after the head. The decoder runs on the server, before the tail.
The layers are those of Cunico et al., "I-SPLIT: Deep Network Interpretability for Split Computing"
(ICPR 2022), with n = C / 8::

    encoder   Conv(C -> n, 3, s2)   BN ReLU   Conv(n -> 2n, 3, s2)  BN ReLU
    decoder   ConvT(2n -> n, 3, s2) BN ReLU   ConvT(n -> C, 3, s2)

The code has 64 times fewer values than the activation if 4 divides height and width, and 49 times
fewer for 14 x 14 and 7 x 7 maps. The defaults of :class:`AutoencoderConfig` are the paper's. The
paper does not publish how the autoencoder is trained.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..errors import SplitPointError
from ..schema import SplitPoint
from .grid import Grid

__all__ = ["Autoencoder", "AutoencoderConfig", "Decoder", "Encoder"]


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """The size of an autoencoder.

    Attributes:
        width: n, the channels of the inner layers; the code has 2n channels. ``None`` means C / 8
            as in the paper, but at least 1.
        stride: total subsampling on each axis, a power of two and at most 2^depth.
        depth: number of layers on each side, 1 to 8.
    """

    width: int | None = None
    stride: int = 4
    depth: int = 2

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def strides(self) -> tuple[int, ...]:
        """The stride of each encoder layer: 2 until the total is reached, then 1."""
        halvings = self.stride.bit_length() - 1
        return (2,) * halvings + (1,) * (self.depth - halvings)


class Autoencoder(nn.Module):
    """The encoder and decoder for one split point.

    ``forward`` runs both: activation (N, ...) -> reconstructed activation of the same shape.

    Attributes:
        encoder: activation (N, ...) -> code (N, *code_shape).
        decoder: code (N, *code_shape) -> activation (N, ...).
        config: the configuration that it was made with.
        split_point: name of the split point.
        shape: shape of the activation without batch.
        code_shape: shape of the code without batch.
        width: channels of the inner layers.
        macs: multiply-accumulates of the encoder for one image; the decoder has the same number.

    Raises:
        SplitPointError: the autoencoder does not fit the split point. The activation has no
            positions, the stride exceeds the size of the map, the width exceeds the number of
            channels, or the code is not smaller than the activation.
    """

    encoder: Encoder
    decoder: Decoder

    def __init__(self, point: SplitPoint, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or AutoencoderConfig()
        self.split_point = point.name
        self.shape = point.shape
        grid = Grid.of(point)
        geometry = _geometry(point, grid, self.config)
        self.encoder = Encoder(grid, geometry)
        self.decoder = Decoder(grid, geometry)
        self.width = geometry.code_channels // 2
        self.macs = geometry.convolution_macs() + grid.prefix * grid.channels * 2 * self.width
        height, width = geometry.sizes[-1]
        self.code_shape: tuple[int, ...] = (geometry.code_channels, height, width)
        if grid.tokens:
            self.code_shape = (geometry.code_channels, grid.prefix + height * width)

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        reconstruction: torch.Tensor = self.decoder(self.encoder(activation))
        return reconstruction


class Encoder(nn.Module):
    """Activation (N, ...) -> code: (N, 2n, h, w) for maps, (N, 2n, prefix + h w) for tokens.

    The values of a code are at least 0.
    """

    def __init__(self, grid: Grid, geometry: _Geometry) -> None:
        super().__init__()
        self._grid = grid
        channels = geometry.channels
        layers: list[nn.Module] = []
        for i, stride in enumerate(geometry.strides):
            layers.append(nn.Conv2d(channels[i], channels[i + 1], 3, stride, padding=1))
            layers += [nn.BatchNorm2d(channels[i + 1]), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.prefix = nn.Linear(grid.channels, geometry.code_channels) if grid.prefix else None

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        maps, prefix = self._grid.split(activation)
        code: torch.Tensor = self.layers(maps)
        if not self._grid.tokens:
            return code
        code = code.flatten(2)
        if self.prefix is not None and prefix is not None:
            prefix_code = torch.relu(self.prefix(prefix)).transpose(1, 2)
            code = torch.cat([prefix_code, code], dim=2)
        return code


class Decoder(nn.Module):
    """Code -> activation (N, ...), with exactly the shape of the split point."""

    def __init__(self, grid: Grid, geometry: _Geometry) -> None:
        super().__init__()
        self._grid = grid
        self._code_size = geometry.sizes[-1]
        channels = geometry.channels
        layers: list[nn.Module] = []
        for i in reversed(range(len(geometry.strides))):
            layers.append(
                nn.ConvTranspose2d(
                    channels[i + 1],
                    channels[i],
                    3,
                    geometry.strides[i],
                    padding=1,
                    output_padding=geometry.output_padding(i),
                )
            )
            if i > 0:
                layers += [nn.BatchNorm2d(channels[i]), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.prefix = nn.Linear(geometry.code_channels, grid.channels) if grid.prefix else None

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        prefix = None
        if self._grid.tokens:
            count = self._grid.prefix
            if self.prefix is not None:
                prefix = self.prefix(code[:, :, :count].transpose(1, 2))
            code = code[:, :, count:].reshape(code.shape[0], -1, *self._code_size)
        return self._grid.join(self.layers(code), prefix)


@dataclass(frozen=True, slots=True)
class _Geometry:
    """The layers of an encoder; the decoder mirrors them.

    ``channels`` (C, n, ..., 2n) and ``sizes`` (height, width) before the first layer and after
    each; ``strides`` of each layer.
    """

    channels: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]

    @property
    def code_channels(self) -> int:
        return self.channels[-1]

    def convolution_macs(self) -> int:
        """Multiply-accumulates of the encoder's convolutions for one image.

        A mirrored layer of the decoder costs the same: 9 multiply-accumulates for each pair of
        channels and each position of the smaller map.
        """
        return sum(
            9 * channels_in * channels_out * height * width
            for channels_in, channels_out, (height, width) in zip(
                self.channels[:-1], self.channels[1:], self.sizes[1:], strict=True
            )
        )

    def output_padding(self, layer: int) -> tuple[int, int]:
        """What a mirrored layer must add to its output's height and width, 0 or 1 each.

        A transposed convolution with kernel 3 and padding 1 gives (size - 1) stride + 1 positions.
        """
        stride = self.strides[layer]
        (height, width), (code_height, code_width) = self.sizes[layer], self.sizes[layer + 1]
        return height - (code_height - 1) * stride - 1, width - (code_width - 1) * stride - 1


def _geometry(point: SplitPoint, grid: Grid, config: AutoencoderConfig) -> _Geometry:
    where = f"bottleneck at {point.name!r} {('N', *point.shape)}"
    width = max(1, grid.channels // 8) if config.width is None else config.width
    _check_fit(where, point, grid, config, width)
    channels = (grid.channels, *[width] * (config.depth - 1), 2 * width)
    sizes = [(grid.height, grid.width)]
    for stride in config.strides():
        rows, columns = sizes[-1]
        sizes.append(((rows + stride - 1) // stride, (columns + stride - 1) // stride))
    rows, columns = sizes[-1]
    code_values = channels[-1] * (rows * columns + grid.prefix)
    if code_values >= grid.channels * (grid.height * grid.width + grid.prefix):
        raise SplitPointError(
            f"{where}: a code of {channels[-1]} x {rows} x {columns} values "
            "is no smaller than the activation"
        )
    return _Geometry(channels, tuple(sizes), config.strides())


def _check_fit(
    where: str, point: SplitPoint, grid: Grid, config: AutoencoderConfig, width: int
) -> None:
    if not 1 <= config.depth <= 8:
        raise SplitPointError(f"{where}: depth: expected 1 to 8 layers, got {config.depth}")
    power_of_two = config.stride >= 1 and config.stride & (config.stride - 1) == 0
    if not power_of_two or config.stride > 2**config.depth:
        raise SplitPointError(
            f"{where}: stride: expected a power of two up to {2**config.depth} "
            f"for {config.depth} layers, got {config.stride}"
        )
    if not 1 <= width <= grid.channels:
        raise SplitPointError(
            f"{where}: width: expected 1 to {grid.channels}, the number of channels, got {width}"
        )
    if max(grid.height, grid.width) < config.stride:
        raise SplitPointError(
            f"{where}: stride {config.stride} does not fit {grid.height} x {grid.width} positions",
            shape=list(point.shape),
        )
