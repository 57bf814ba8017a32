"""Cheap lossy channels: what an activation looks like after a bottleneck that nobody trained.

Each takes maps (N, C, H, W) and gives back maps of the same shape. A point whose activation survives such a channel
with the network's answer intact is a point where a trained bottleneck should have an easy time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CHANNELS", "FITTED", "Channel", "LinearCode", "pool", "project", "quantise"]

Channel = Callable[[Tensor], Tensor]
Fit = Callable[[Tensor], Channel]
"""From maps of the calibration photos to the channel; most ignore them."""

_MAX_DIMENSION: Final = 1024


def pool(size: int, maps: Tensor) -> Tensor:
    """Average over ``size`` x ``size`` positions, and back by repetition."""
    height, width = maps.shape[2:]
    small = F.avg_pool2d(maps, size, ceil_mode=True, count_include_pad=False)
    back: Tensor = small.repeat_interleave(size, 2)[:, :, :height].repeat_interleave(size, 3)[
        :, :, :, :width
    ]
    return back


def quantise(bits: int, maps: Tensor) -> Tensor:
    """2^bits levels between the smallest and the largest value of an item."""
    flat = maps.flatten(1)
    low, high = flat.amin(dim=1)[:, None, None, None], flat.amax(dim=1)[:, None, None, None]
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    restored: Tensor = ((maps - low) / step).round() * step + low
    return restored


def project(share: float, calibration: Tensor) -> Channel:
    """Onto the leading principal components of the channels: ``share`` of them, at least one."""
    vectors = calibration.movedim(1, -1).flatten(0, -2)
    mean, basis = _principal(vectors, max(1, round(share * vectors.shape[1])))

    def channel(maps: Tensor) -> Tensor:
        centred = maps - mean[:, None, None]
        return torch.einsum("nchw,ck,dk->ndhw", centred, basis, basis) + mean[:, None, None]

    return channel


@dataclass(frozen=True, slots=True)
class LinearCode:
    """The best linear code of the trained bottleneck's size, in closed form: principal components of patches.

    ``stride`` x ``stride`` patches of all channels become 2 max(1, C / 8) numbers, as the paper's encoder does, and are
    restored by the transposed map. Where a patch has more than 1,024 values the channels are first reduced by their
    own principal components.
    """

    stride: int = 4

    def fit(self, calibration: Tensor) -> Channel:
        channels, height, width = calibration.shape[1:]
        stride = min(self.stride, max(height, width))
        keep = min(channels, max(1, _MAX_DIMENSION // stride**2))
        vectors = calibration.movedim(1, -1).flatten(0, -2)
        mean, basis = _principal(vectors, keep)
        patches = self._patches(self._reduce(calibration, mean, basis), stride)
        size = 2 * max(1, channels // 8)
        centre, code = _principal(patches.flatten(0, 1), min(size, patches.shape[-1]))

        def channel(maps: Tensor) -> Tensor:
            rows = self._patches(self._reduce(maps, mean, basis), stride) - centre
            restored = rows @ code @ code.T + centre
            rows_high, rows_wide = math.ceil(height / stride), math.ceil(width / stride)
            grid = restored.reshape(-1, rows_high, rows_wide, keep, stride, stride)
            small = (
                grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
            )
            return torch.einsum("nkhw,ck->nchw", small, basis) + mean[:, None, None]

        return channel

    @staticmethod
    def _reduce(maps: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
        return torch.einsum("nchw,ck->nkhw", maps - mean[:, None, None], basis)

    @staticmethod
    def _patches(maps: Tensor, stride: int) -> Tensor:
        """(N, K, H, W) -> (N, patches, K stride^2); edges are repeated to fill the last patches."""
        down, right = -maps.shape[2] % stride, -maps.shape[3] % stride
        padded = F.pad(maps, (0, right, 0, down), mode="replicate")
        return F.unfold(padded, stride, stride=stride).transpose(1, 2)


def _principal(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the ``count`` leading principal directions (D, count)."""
    mean = vectors.mean(dim=0)
    centred = (vectors - mean).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)
    return mean, directions[:, -count:].flip(1).to(vectors.dtype)


def _fixed(channel: Channel) -> Fit:
    return lambda _calibration: channel


CHANNELS: Final[dict[str, Fit]] = {
    "pool2": _fixed(partial(pool, 2)),
    "pool4": _fixed(partial(pool, 4)),
    "rank8": partial(project, 1 / 8),
    "rank4": partial(project, 1 / 4),
    "bits1": _fixed(partial(quantise, 1)),
    "bits2": _fixed(partial(quantise, 2)),
    "bits4": _fixed(partial(quantise, 4)),
    "linear": LinearCode().fit,
}
"""Lossy channels by name."""
FITTED: Final = frozenset({"rank8", "rank4", "linear"})
"""Channels that depend on the calibration photos."""
