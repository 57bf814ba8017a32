"""Frequency tables of the classes, from what the classes held on calibration photos.

The prior is a Laplace distribution whose scale is the class's. It counts as much as
:data:`PRIOR_COUNT` coefficients, so classes that photos filled have their own distribution, whose
tails are heavier than Laplace's.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ...wire import ALPHABET, CLASSES_PER_OCTAVE, PRECISION, ROUNDING, bucket_bounds

TABLES: Final = 72
"""The number of classes: class 1 is for a mean magnitude of 0.18 steps, the last for 33,000.

A coefficient with a smaller mean magnitude costs about as many bits as its error is worth. Leaving
it out saves time besides.
"""
PRIOR_COUNT: Final = 64.0

_FIRST: Final = 11
"""The class of a mean magnitude of one step."""

Float64Array = npt.NDArray[np.float64]


def classes_of(mean_magnitudes: Float64Array, step: float) -> npt.NDArray[np.int8]:
    """The class of coefficients with these mean magnitudes at quality 0."""
    ratio = np.maximum(mean_magnitudes / step, 1e-12)
    classes = np.rint(CLASSES_PER_OCTAVE * np.log2(ratio)) + _FIRST
    return np.asarray(np.clip(classes, -127, 127).astype(np.int8))


def fitted_tables(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
    """Frequencies (T, A) from the counts (T, A) of each symbol in each class.

    Each is at least 1, so any coefficient can be coded, and each row adds up to 2**PRECISION.
    """
    weights = counts + PRIOR_COUNT * laplace_prior(len(counts))
    weights /= weights.sum(axis=1, keepdims=True)
    spare = (1 << PRECISION) - ALPHABET
    frequencies = 1 + np.floor(weights * spare).astype(np.int64)
    rows = np.arange(len(frequencies))
    frequencies[rows, frequencies.argmax(axis=1)] += (1 << PRECISION) - frequencies.sum(axis=1)
    return frequencies.astype(np.uint16)


def laplace_prior(tables: int) -> Float64Array:
    """The probabilities (T, A) of the symbols in each class for a Laplace distribution."""
    scale = 2.0 ** ((np.arange(tables) - _FIRST) / CLASSES_PER_OCTAVE)[:, None]
    # Magnitude m takes [m - ROUNDING, m + 1 - ROUNDING); the last symbol takes the rest.
    edges = np.maximum(bucket_bounds() - ROUNDING, 0)[None, :]
    survival = np.exp(-np.minimum(edges / scale, 700))
    survival[:, -1] = 0
    probabilities = survival[:, :-1] - survival[:, 1:]
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))
