"""Bounds that may be looked at after every observation, for ever.

A 95 % interval is made for one look. Looked at after every one of 10,000 observations, it excludes
the truth at some time in 66 % of runs. These bounds hold at all times at once: the chance that they
*ever* fail is below ``alpha``.

**Means.** With forward decay an observation's weight w_i is fixed when it arrives, so S = sum w_i (x_i - mu) is a
martingale with variance V = sigma^2 sum w_i^2, and Robbins' normal mixture (Annals of Mathematical Statistics 1970)
holds for it at every time, whatever the weights::

    |S| <= sqrt((V + nu) (log(1 + V / nu) + 2 log(1 / alpha)))

with sigma^2 estimated, as in Waudby-Smith et al., "Time-uniform central limit theory and asymptotic confidence
sequences" (Annals of Statistics 2024). ``nu`` says at which size the bound is tightest. Decay would carry V away from
any fixed nu, so there is one nu for each half-life since the beginning, and the k-th spends 6 / (pi^2 k^2) of alpha.

**Medians.** The share of observations below the true median is a mean of zeros and ones: the same bound, with variance
1/4, says between which ranks the median lies (distribution-free; Howard and Ramdas, Bernoulli 2022).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from .live_view import F64

TIGHTEST: Final = 100.0
"""Observations at which the bound of a mean is tightest; with fewer, skewed values have no normal mean yet."""
MEDIAN_TIGHTEST: Final = 30.0
"""The same for the bound of a median, which is exact at any size."""
MEDIAN_ALPHA: Final = 5e-4
"""Error of one median: 5 % over a hundred quantities."""


def factor(
    weight2: npt.ArrayLike, alpha: float, *, half_lives: float = 0.0, tightest: float = TIGHTEST
) -> F64:
    """By what to multiply a standard error so that the bound holds at all times; infinite without observations.

    ``weight2``: the sum of squared weights, where the newest observation weighs 1 (without decay: their number).
    ``half_lives``: how many have passed since the beginning, at which no bound was looked at yet.
    """
    v = np.asarray(weight2, np.float64)
    k = 1 + math.floor(max(0.0, half_lives))
    # nu belongs to the weight at the beginning of this half-life, which is told here relative to the newest.
    nu = tightest * 4.0 ** -(max(0.0, half_lives) - (k - 1))
    spent = alpha * 6 / (math.pi * k) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.sqrt((1 + nu / v) * (np.log1p(v / nu) - 2 * math.log(spent)))
    return np.where(v > 0, found, np.inf)


def median_ranks(count: float, alpha: float = MEDIAN_ALPHA) -> tuple[float, float]:
    """The ranks, as shares of ``count`` observations, between which the true median lies at all times."""
    if not count > 0:
        return 0.0, 1.0
    reach = float(factor(count, alpha, tightest=MEDIAN_TIGHTEST)) * 0.5 / math.sqrt(count)
    return max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)
