"""Distortions: lossy operations on an activation that stand in for a trained bottleneck.

Each takes maps (N, C, H, W) and returns maps of the same shape. If the network's answer survives a
distortion of the activation at a split point, a trained bottleneck should do well there.
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

__all__ = ["DISTORTIONS", "FITTED", "Distortion", "PatchProjection", "pool", "project", "quantise"]

Distortion = Callable[[Tensor], Tensor]
Factory = Callable[[Tensor], Distortion]
"""Makes a distortion from the maps of calibration photos; most distortions ignore them."""

_MAX_PATCH_VALUES: Final = 1024


def pool(size: int, maps: Tensor) -> Tensor:
    """Average over ``size`` x ``size`` positions, then repeat the average."""
    height, width = maps.shape[2:]
    means = F.avg_pool2d(maps, size, ceil_mode=True, count_include_pad=False)
    repeated = means.repeat_interleave(size, 2).repeat_interleave(size, 3)
    distorted: Tensor = repeated[:, :, :height, :width]
    return distorted


def quantise(bits: int, maps: Tensor) -> Tensor:
    """Round to 2^bits levels between the smallest and the largest value of each item."""
    values = maps.flatten(1)
    low = values.amin(dim=1)[:, None, None, None]
    high = values.amax(dim=1)[:, None, None, None]
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    distorted: Tensor = ((maps - low) / step).round() * step + low
    return distorted


def project(share: float, calibration: Tensor) -> Distortion:
    """Project the channels onto their leading principal components.

    ``share`` of the components are kept, at least one.
    """
    vectors = calibration.movedim(1, -1).flatten(0, -2)
    mean, basis = _principal_components(vectors, max(1, round(share * vectors.shape[1])))

    def distort(maps: Tensor) -> Tensor:
        centred = maps - mean[:, None, None]
        return torch.einsum("nchw,ck,dk->ndhw", centred, basis, basis) + mean[:, None, None]

    return distort


@dataclass(frozen=True, slots=True)
class PatchProjection:
    """The best linear code with the size of the paper's bottleneck, in closed form.

    A patch of ``stride`` x ``stride`` positions and all channels is projected onto 2 max(1, C / 8)
    principal components. If a patch has more than 1,024 values, the channels are first projected
    onto their own principal components.
    """

    stride: int = 4

    def fit(self, calibration: Tensor) -> Distortion:
        """The projection that is best for these maps."""
        channels, height, width = calibration.shape[1:]
        stride = min(self.stride, max(height, width))
        kept_channels = min(channels, max(1, _MAX_PATCH_VALUES // stride**2))
        vectors = calibration.movedim(1, -1).flatten(0, -2)
        mean, basis = _principal_components(vectors, kept_channels)
        patches = _patches(_reduce_channels(calibration, mean, basis), stride)
        size = min(2 * max(1, channels // 8), patches.shape[-1])
        patch_mean, patch_basis = _principal_components(patches.flatten(0, 1), size)

        def distort(maps: Tensor) -> Tensor:
            centred = _patches(_reduce_channels(maps, mean, basis), stride) - patch_mean
            projected = centred @ patch_basis @ patch_basis.T + patch_mean
            rows, columns = math.ceil(height / stride), math.ceil(width / stride)
            grid = projected.reshape(-1, rows, columns, kept_channels, stride, stride)
            padded = grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
            reduced = padded[:, :, :height, :width]
            return torch.einsum("nkhw,ck->nchw", reduced, basis) + mean[:, None, None]

        return distort


def _reduce_channels(maps: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    return torch.einsum("nchw,ck->nkhw", maps - mean[:, None, None], basis)


def _patches(maps: Tensor, stride: int) -> Tensor:
    """(N, K, H, W) -> (N, patches, K stride^2); the edges are repeated to fill the last patches."""
    down, right = -maps.shape[2] % stride, -maps.shape[3] % stride
    padded = F.pad(maps, (0, right, 0, down), mode="replicate")
    return F.unfold(padded, stride, stride=stride).transpose(1, 2)


def _principal_components(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the ``count`` leading principal directions (D, count)."""
    mean = vectors.mean(dim=0)
    centred = (vectors - mean).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)
    return mean, directions[:, -count:].flip(1).to(vectors.dtype)


def _fixed(distortion: Distortion) -> Factory:
    return lambda _calibration: distortion


DISTORTIONS: Final[dict[str, Factory]] = {
    "pool2": _fixed(partial(pool, 2)),
    "pool4": _fixed(partial(pool, 4)),
    "rank8": partial(project, 1 / 8),
    "rank4": partial(project, 1 / 4),
    "bits1": _fixed(partial(quantise, 1)),
    "bits2": _fixed(partial(quantise, 2)),
    "bits4": _fixed(partial(quantise, 4)),
    "linear": PatchProjection().fit,
}
"""Distortions by name."""
FITTED: Final = frozenset({"rank8", "rank4", "linear"})
"""Names of the distortions that depend on the calibration photos."""
