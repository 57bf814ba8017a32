"""What the closed form needs of a split point: mean, covariance and gradient metric.

The covariance S is over photos and positions. The gradient metric is ``G = E[g g']``, g being the
gradient of log p(y) at a position, and y a class drawn from the network's own answer p: the
diagonal block of the Fisher matrix (Amari, "Natural gradient works efficiently in learning", 1998).
A small error d of the activation costs about ``d' F d / 2`` of Kullback-Leibler divergence.

Both are shrunk towards a multiple of the identity (Ledoit & Wolf, "A well-conditioned estimator for
large-dimensional covariance matrices", 2004), each photo being one sample of the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(slots=True)
class MatrixSum:
    """Matrices (C, C), one for each photo, as their sum and the sum of their squared norms."""

    total: Tensor
    squared_norms: float = 0.0
    count: int = 0

    @classmethod
    def zero(cls, channels: int) -> Self:
        return cls(torch.zeros(channels, channels, dtype=torch.float64))

    def add(self, values: Tensor) -> None:
        """Add ``v v' / P`` of each item of values (N, C, P)."""
        products = torch.bmm(values, values.transpose(1, 2)) / values.shape[2]
        self.total += products.sum(dim=0, dtype=torch.float64).cpu()
        self.squared_norms += float(products.square().sum(dtype=torch.float64))
        self.count += len(values)

    def __add__(self, other: MatrixSum) -> MatrixSum:
        return MatrixSum(
            self.total + other.total,
            self.squared_norms + other.squared_norms,
            self.count + other.count,
        )

    def shrunk_mean(self, centre: Tensor | None = None) -> Tensor:
        """The mean, shrunk by the share of its variance in its distance from ``m I``.

        ``centre``: (C,), the mean of the vectors; with it the matrix is about it.
        """
        mean = self.total / self.count
        variance = max(self.squared_norms / self.count - float(mean.square().sum()), 0.0)
        if centre is not None:
            mean = mean - torch.outer(centre, centre)
        channels = len(mean)
        target = torch.eye(channels, dtype=torch.float64) * (mean.trace() / channels)
        distance = float((mean - target).square().sum())
        share = min(variance / self.count / distance, 1.0) if distance > 0 else 1.0
        return share * target + (1 - share) * mean


@dataclass(slots=True)
class PointStatistics:
    """The statistics of one split point over some photos.

    Attributes:
        sums: (1 + prefix, C), of the activation less ``shift`` over the grid, and over each
            position of the prefix; each photo counts once.
        shift: (1 + prefix, C), near the mean, so that sums do not cancel.
        low, high: the range of the activation.
        at_high: the share of values that equal ``high`` in the batch where most do.
    """

    shift: Tensor
    sums: Tensor
    activations: MatrixSum
    gradients: MatrixSum
    low: float = float("inf")
    high: float = float("-inf")
    at_high: float = 0.0

    @classmethod
    def about(cls, shift: Tensor) -> Self:
        channels = shift.shape[1]
        return cls(
            shift,
            torch.zeros_like(shift, dtype=torch.float64),
            MatrixSum.zero(channels),
            MatrixSum.zero(channels),
        )

    def add(self, values: Tensor, gradients: Tensor, prefix: int) -> None:
        """Add activations (N, C, P) and gradients (M, C, P) of log probabilities."""
        high = float(values.max())
        at_high = float((values == high).float().mean())
        self.at_high = _share_at_high((self.high, self.at_high), (high, at_high))
        self.low, self.high = min(self.low, float(values.min())), max(self.high, high)
        centred = values - centres(self.shift.to(values), prefix, values.shape[2])
        self.sums += means(centred, prefix).sum(dim=0, dtype=torch.float64).cpu()
        self.activations.add(centred)
        self.gradients.add(gradients)

    def __add__(self, other: PointStatistics) -> PointStatistics:
        return PointStatistics(
            self.shift,
            self.sums + other.sums,
            self.activations + other.activations,
            self.gradients + other.gradients,
            min(self.low, other.low),
            max(self.high, other.high),
            _share_at_high((self.high, self.at_high), (other.high, other.at_high)),
        )

    @property
    def mean(self) -> Tensor:
        """(1 + prefix, C), float64."""
        return self.shift + self.sums / self.activations.count

    def covariance(self) -> Tensor:
        """(C, C), float64, about the mean and shrunk."""
        return self.activations.shrunk_mean((self.sums / self.activations.count)[0])

    def metric(self) -> Tensor:
        """The gradient metric (C, C), float64, shrunk and with trace C; the identity where there
        are no gradients."""
        channels = self.shift.shape[1]
        identity = torch.eye(channels, dtype=torch.float64)
        if not self.gradients.count or float(self.gradients.total.trace()) <= 0:
            return identity
        mean = self.gradients.shrunk_mean()
        return mean * (channels / mean.trace()) + 1e-3 * identity


def _share_at_high(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Of two pairs of maximum and share at it, the share at the larger maximum."""
    return max(first, second)[1]


def means(values: Tensor, prefix: int) -> Tensor:
    """(N, C, P) -> (N, 1 + prefix, C): over the grid, and each position of the prefix."""
    grid = values[:, :, prefix:].mean(dim=2, keepdim=True)
    return torch.cat([grid, values[:, :, :prefix]], dim=2).transpose(1, 2)


def centres(mean: Tensor, prefix: int, positions: int) -> Tensor:
    """(1 + prefix, C) -> (C, 1) or, with a prefix, (C, P)."""
    if not prefix:
        return mean.T
    grid = mean[:1].expand(positions - prefix, -1)
    return torch.cat([mean[1:], grid]).T
