"""A transform of the codec ``dct`` at one quality, as a module that can be trained.

Rounding is the product's, dead zone included. Its gradients are those of the mean over a dither of one
step: they pass from where the dither reaches another level (as in Minnen & Singh, "Channel-wise
autoregressive entropy models for learned image compression", *ICIP* 2020, who round and let the
gradients pass). The bits are those of Laplace distributions, one for each component and band, whose
scales follow the mean magnitudes.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from isplit_plugin.network.transforms.closed_form import band_means
from isplit_plugin.wire import CLASSES_PER_OCTAVE, ROUNDING, Transform
from isplit_plugin.wire.transform.grid import dct_matrix

MOMENTUM: Final = 0.9
CODED: Final = 2 ** (-10.5 / CLASSES_PER_OCTAVE)
"""The mean magnitude from which a component and band is coded."""


class TrainedCode(nn.Module):
    """Encoder, decoder and steps of a transform at one quality, with corrections that are trained.

    Corrections are in units in which one and the same learning rate fits all: steps for each
    deviation of a channel, errors of a channel for each step, and logarithms.
    """

    def __init__(self, transform: Transform, quality: int, values: Tensor) -> None:
        super().__init__()
        self.grid = transform.grid
        self._range = (transform.low, transform.high)
        encoder, decoder = (torch.from_numpy(each.copy()) for each in transform.matrices)
        steps = torch.from_numpy(transform.widths.astype(np.float32)) * step_of(transform, quality)
        self._mean = torch.from_numpy(transform.mean.T.copy())
        self._bands = torch.from_numpy(self.grid.bands)
        self._rows = torch.from_numpy(dct_matrix(self.grid.height))
        self._columns = torch.from_numpy(dct_matrix(self.grid.width))
        self._start = (encoder, decoder.T.contiguous(), steps)
        self.encoder = nn.Parameter(torch.zeros_like(self._start[0]))
        self.decoder = nn.Parameter(torch.zeros_like(self._start[1]))
        self.widths = nn.Parameter(torch.zeros_like(steps))
        typical = steps.log().mean(dim=1).exp()
        deviations = (values - self._mean).std(dim=(0, 2)).clamp_min(1e-6)
        self._units = typical[:, None] / deviations, torch.zeros(())
        with torch.no_grad():
            self._magnitudes = self._band_means(self._scaled(values))
            errors = (self(values)[0] - values).square().mean(dim=(0, 2)).sqrt()
        self._units = self._units[0], errors[:, None] / typical

    def current(self) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder (K, C), decoder (C, K) and steps (K, bands)."""
        encoder, decoder, steps = self._start
        return (
            encoder + self._units[0] * self.encoder,
            decoder + self._units[1] * self.decoder,
            steps * self.widths.exp(),
        )

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Decoded activations (N, C, P) and bits (N,) of activations (N, C, P)."""
        _, decoder, steps = self.current()
        scaled = self._scaled(values)
        if torch.is_grad_enabled():
            now = self._band_means(scaled.detach())
            self._magnitudes = MOMENTUM * self._magnitudes + (1 - MOMENTUM) * now
        magnitudes = self._magnitudes[:, self._bands]
        coefficients, bits = rounded(scaled, magnitudes.clamp_min(CODED))
        coefficients, bits = (
            torch.where(magnitudes > CODED, each, torch.zeros(())) for each in (coefficients, bits)
        )
        picture = (coefficients * steps[:, self._bands]).unflatten(2, self._sizes)
        decoded = decoder @ (self._rows.T @ picture @ self._columns).flatten(2) + self._mean
        return decoded.clamp(*self._range), bits.sum(dim=(1, 2))

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.grid.height, self.grid.width

    def _scaled(self, values: Tensor) -> Tensor:
        encoder, _, steps = self.current()
        picture = (encoder @ (values - self._mean)).unflatten(2, self._sizes)
        return (self._rows @ picture @ self._columns.T).flatten(2) / steps[:, self._bands]

    def _band_means(self, scaled: Tensor) -> Tensor:
        means = band_means(scaled.abs().mean(dim=0).numpy(), self.grid)
        return torch.from_numpy(means.astype(np.float32))


def rounded(scaled: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """What comes back of coefficients in steps, and their bits under Laplace distributions.

    The values are exact. A dither of half a step to either side reaches magnitude 1 from
    ``0.5 - ROUNDING`` on, so nothing below has a gradient.
    """
    magnitudes = scaled.abs()
    levels = (magnitudes.detach() + ROUNDING).floor()
    reached = (magnitudes.detach() > 0.5 - ROUNDING).float()
    ratios = 1 / scales
    rests = scales - 1 / torch.expm1(ratios) - ROUNDING
    values = scaled.detach().sign() * (levels + rests * (levels > 0))
    passed = scaled * reached
    further = ratios / math.log(2)
    zero = -torch.log2(-torch.expm1(-(1 - ROUNDING) * ratios))
    first = 1 + (1 - ROUNDING) * further - torch.log2(-torch.expm1(-ratios))
    bits = torch.where(levels == 0, zero, first + (levels - 1) * further)
    slopes = torch.where(magnitudes < 1.5 - ROUNDING, (first - zero) * reached, further)
    linear = magnitudes * slopes.detach()
    return passed + (values - passed).detach(), linear + (bits - linear).detach()


def step_of(transform: Transform, quality: int) -> float:
    """The step of a quality."""
    return transform.step * 2.0 ** (-quality * transform.spacing / CLASSES_PER_OCTAVE)
