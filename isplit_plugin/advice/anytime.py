"""Bounds that hold at all times at once, however often they are looked at.

A 95 % interval is made for one look. Looked at after every one of 10,000 observations, it excludes
the truth at some time in 66 % of runs. For the bounds here, the chance that they *ever* fail is
below ``alpha``.

**Means.** With forward decay, the weight w_i of an observation is fixed when it arrives. So
S = sum w_i (x_i - mu) is a martingale with variance V = sigma^2 sum w_i^2, and Robbins' normal
mixture (Annals of Mathematical Statistics 1970) bounds it at every time, whatever the weights::

    |S| <= sqrt((V + nu) (log(1 + V / nu) + 2 log(1 / alpha)))

with sigma^2 estimated, as in Waudby-Smith et al., "Time-uniform central limit theory and asymptotic
confidence sequences" (Annals of Statistics 2024). ``nu`` sets the size at which the bound is
tightest. Decay would carry V away from any fixed nu. So there is one nu for each half-life since
the beginning, and the k-th spends 6 / (pi^2 k^2) of alpha.

**Medians.** The share of observations below the true median is a mean of zeros and ones. The same
bound, with variance 1/4, says between which ranks the median lies. It needs no assumption about the
distribution (Howard and Ramdas, Bernoulli 2022).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from .live_view import F64

TIGHTEST: Final = 100.0
"""Observations at which the bound of a mean is tightest. With fewer, the mean of skewed values is
not normally distributed."""
MEDIAN_TIGHTEST: Final = 30.0
"""The same for the bound of a median, which holds exactly at any size."""
MEDIAN_ALPHA: Final = 5e-4
"""Error of one median: 5 % over a hundred quantities."""


def bound_factor(
    weight2: npt.ArrayLike, alpha: float, *, half_lives: float = 0.0, tightest: float = TIGHTEST
) -> F64:
    """The multiple of a standard error that bounds a mean at all times.

    It is infinite without observations.

    Parameters:
        weight2: the sum of squared weights, relative to the newest weight; without decay, the
            number of observations.
        alpha: the chance that the bound ever fails.
        half_lives: how many half-lives have passed since the bound was first used.
        tightest: the ``weight2`` at which the bound is tightest.
    """
    v = np.asarray(weight2, np.float64)
    k = 1 + math.floor(max(0.0, half_lives))
    # nu refers to the weights at the beginning of this half-life; v is relative to the newest.
    nu = tightest * 4.0 ** -(max(0.0, half_lives) - (k - 1))
    spent = alpha * 6 / (math.pi * k) ** 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        multiple = np.sqrt((1 + nu / v) * (np.log1p(v / nu) - 2 * math.log(spent)))
    return np.where(v > 0, multiple, np.inf)


def median_ranks(count: float, alpha: float = MEDIAN_ALPHA) -> tuple[float, float]:
    """Ranks, as shares of ``count``, between which the true median lies at all times."""
    if not count > 0:
        return 0.0, 1.0
    reach = float(bound_factor(count, alpha, tightest=MEDIAN_TIGHTEST)) * 0.5 / math.sqrt(count)
    return max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)
