"""The closed form: which combinations of channels to send, and with which steps.

With the metric G and the covariance S of the activation, ``G^(1/2) S G^(1/2) = U diag(e) U'``. The
encoder is ``U' G^(1/2)``, the decoder ``G^(-1/2) U`` (Goyal, "Theoretical foundations of transform
coding", *IEEE Signal Processing Magazine* 2001). In these coordinates equal errors do equal harm,
so one step for all is optimal (reverse water-filling, Cover & Thomas, *Elements of Information
Theory*, section 10.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...wire import Grid

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Metric:
    """How errors are weighed.

    Attributes:
        exponent: of the gradient metric; 1 is the metric itself, 0 the plain squared error.
        band_exponent: how far the gradients' power in a band narrows its step; 1 is in full.
    """

    exponent: float
    band_exponent: float


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Encoder (C, C), decoder (C, C), and the variances (C,) of the components, descending."""

    encoder: Float64Array
    decoder: Float64Array
    variances: Float64Array


class BasisFamily:
    """The bases of one split point for any exponent of the metric."""

    def __init__(self, covariance: Tensor, metric: Tensor) -> None:
        self._covariance = covariance
        values, self._vectors = torch.linalg.eigh(metric)
        self._values = values.clamp_min(1e-9 * float(values[-1]))

    def basis(self, exponent: float) -> Basis:
        """The closed form with ``G^exponent``, scaled to trace C."""
        powers = self._values**exponent
        powers *= len(powers) / powers.sum()
        root = self._vectors * powers.sqrt() @ self._vectors.T
        inverse = self._vectors / powers.sqrt() @ self._vectors.T
        variances, turns = torch.linalg.eigh(root @ self._covariance @ root)
        turns = turns.flip(1)
        return Basis(
            (turns.T @ root).numpy(),
            (inverse @ turns).numpy(),
            variances.flip(0).clamp_min(0).numpy(),
        )


def band_means(values: Float32Array, grid: Grid) -> Float64Array:
    """(K, P) -> (K, bands): the mean over the coefficients of each band."""
    counts = np.bincount(grid.bands, minlength=grid.band_count)
    sums = np.stack(
        [np.bincount(grid.bands, weights=row, minlength=grid.band_count) for row in values]
    )
    return np.asarray(sums / counts)


def relative_widths(
    decoder: Float64Array, gradients: Float32Array, grid: Grid, exponent: float
) -> Float64Array:
    """The steps (K, bands) of components and bands relative to each other.

    The gradients' power in a component and band says what an error there costs. The metric has it
    summed over the bands; here each band gets its own.

    Parameters:
        decoder: (C, K). gradients: (N, C, P).
    """
    channels = decoder.shape[1]
    if not len(gradients) or exponent == 0:
        return np.ones((channels, grid.band_count))
    to_components = decoder.T.astype(np.float32)
    power = np.zeros((channels, grid.positions), np.float32)
    for gradient in gradients:
        power += grid.transform(to_components @ gradient) ** 2
    by_band = band_means(power, grid)
    by_band /= max(by_band.mean(), 1e-30)
    widths = np.clip(by_band, 1e-4, 1e4) ** (-exponent / 2)
    return np.asarray(widths / np.exp(np.log(widths).mean()))
