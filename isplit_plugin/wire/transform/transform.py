"""The transform of one split point: what the codec ``dct`` knows of it, shared by both sides.

An item's activation becomes components, ``encoder @ (activation - mean)``, and each component's
values become frequencies (:mod:`.grid`). A frequency belongs to a band. The coefficient is the
frequency in steps of ``step * widths``, rounded towards zero at first: with the offset
:data:`ROUNDING` instead of one half (a dead zone).

A coefficient's class says how large it is expected to be, in quarters of an octave relative to the
step; each class has a frequency table. A quality q has a step that is ``2 ** (-q * spacing / 4)``
as wide, so its classes are ``q * spacing`` higher. Coefficients below class 1 are not coded: they
are 0. So one transform serves all qualities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from ...errors import WireError
from ...schema import FloatArray
from ..reader import Reader
from . import coefficients
from .coefficients import MAX_MAGNITUDE, Coefficients
from .grid import Grid, channels_back, channels_first
from .rans import Rows, Tables

QUALITIES: Final = tuple(range(8))
"""The qualities of the codec ``dct``."""
ROUNDING: Final = 0.35
"""Added before rounding down: less than one half makes more zeros, which cost little."""
CLASSES_PER_OCTAVE: Final = 4
"""Classes of coefficients whose sizes differ by a factor of two."""

Float16Array = npt.NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class Transform:
    """A fitted transform, with K components of an activation with C channels and P positions.

    Attributes:
        network_hash: the network that it was fitted for.
        split_point: the name of the split point.
        shape: of the activation, without the batch.
        channel_axis: counted with the batch.
        encoder: (K, C), from channels to components, those that matter most first.
        decoder: (C, K), from components to channels.
        mean: (1 + prefix, C), of the grid and of each position of the prefix.
        widths: (K, bands), the step of each component and band relative to ``step``.
        classes: (K, bands), at quality 0.
        tables: (T, :data:`.coefficients.ALPHABET`), the frequency table of each class.
        centroids: (T, 3), the mean of what is coded as magnitude 1, 2, and 3 or more, less the
            magnitude.
        gains: (8,), what each quality multiplies the decoded activation's deviation from its mean
            with. It makes up for coefficients that are not coded.
        step: at quality 0.
        spacing: classes between two qualities.
        low, high: the range of the activation. What is decoded is clipped to it.

    ``Transform`` objects are made by :func:`.artefact.unpack`, which checks all of this, and by
    :mod:`isplit_plugin.network`.
    """

    network_hash: str
    split_point: str
    shape: tuple[int, ...]
    channel_axis: int
    encoder: Float16Array
    decoder: Float16Array
    mean: FloatArray
    widths: Float16Array
    classes: npt.NDArray[np.int8]
    tables: npt.NDArray[np.uint16]
    centroids: Float16Array
    gains: FloatArray
    step: float
    spacing: int
    low: float
    high: float

    @cached_property
    def grid(self) -> Grid:
        """The positions."""
        return Grid.of(self.shape, self.channel_axis)

    def encode(self, item: FloatArray, quality: int) -> bytes:
        """Write one item (*shape). Raises WireError where a value is too large to be coded."""
        plan = self.plan(quality)
        return coefficients.encode(plan.quantise(item), plan.rows, self.frequency_tables)

    def decode(self, reader: Reader, quality: int) -> FloatArray:
        """Read one item (*shape). Raises WireError for bytes that :meth:`encode` did not write."""
        plan = self.plan(quality)
        return plan.reconstruct(coefficients.decode(reader, plan.rows, self.frequency_tables))

    def components(self, quality: int) -> int:
        """The number of components that are computed at this quality."""
        return len(self.plan(quality).encoder)

    def plan(self, quality: int) -> Plan:
        """What coding at this quality needs."""
        if quality not in self._plans:
            self._plans[quality] = Plan(self, quality)
        return self._plans[quality]

    @cached_property
    def _plans(self) -> dict[int, Plan]:
        return {}

    @cached_property
    def matrices(self) -> tuple[FloatArray, FloatArray]:
        """Encoder and transposed decoder in single precision, both (K, C)."""
        decoder = np.ascontiguousarray(self.decoder.T, np.float32)
        return self.encoder.astype(np.float32), decoder

    @cached_property
    def frequency_tables(self) -> Tables:
        """The tables, ready for coding."""
        return Tables(self.tables)


def ideal_bits(transform: Transform, item: FloatArray, quality: int) -> float:
    """The bits of one item (*shape) in an ideal entropy coder of the transform's tables."""
    plan = transform.plan(quality)
    magnitudes = np.abs(plan.quantise(item)).astype(np.int64)
    return coefficients.ideal_bits(magnitudes, plan.rows, transform.frequency_tables)


class Plan:
    """What coding at one quality needs, made once. It takes 9 bytes for each coefficient.

    Attributes:
        encoder: (K', C), of the components that are computed.
        gain: of this quality.
    """

    def __init__(self, transform: Transform, quality: int) -> None:
        self._transform = transform
        grid = transform.grid
        classes = transform.classes.astype(np.int64) + quality * transform.spacing
        classes = np.minimum(classes, len(transform.tables) - 1)
        (coded,) = np.nonzero((classes > 0).any(axis=1))
        count = int(coded[-1]) + 1 if len(coded) else 0
        by_position = classes[:count, grid.bands].ravel()
        self._index = np.flatnonzero(by_position > 0).astype(np.int32)
        self._classes = by_position[self._index].astype(np.uint8)
        step = transform.step * 2.0 ** (-quality * transform.spacing / CLASSES_PER_OCTAVE)
        widths = transform.widths[:count, grid.bands].astype(np.float32).ravel()
        self._steps = widths[self._index] * np.float32(step)
        self._centroids = transform.centroids.astype(np.float32)
        self.gain = np.float32(transform.gains[quality])
        encoder, decoder = transform.matrices
        self.encoder = encoder[:count]
        self._decoder = decoder[:count].T
        self._means = _by_position(transform.mean, grid)
        self._centres = self.encoder @ self._means

    @property
    def rows(self) -> Rows:
        """(n,), the classes of the n coefficients that are coded, component by component."""
        return self._classes.astype(np.intp)

    def quantise(self, item: FloatArray) -> Coefficients:
        """The coefficients (n,) of one item (*shape). Raises WireError: not finite."""
        return self.rounded(self.scaled(channels_first(item, self._transform.channel_axis)))

    def scaled(self, values: FloatArray) -> FloatArray:
        """The coefficients (n,) of one item (C, P) before they are rounded."""
        with np.errstate(over="ignore", invalid="ignore"):
            components = self.encoder @ values
            components -= self._centres
            scaled = self._transform.grid.transform(components).ravel()[self._index]
            scaled /= self._steps
        return scaled

    def rounded(self, scaled: FloatArray) -> Coefficients:
        """The coefficients (n,), rounded. Raises WireError where one is not a number."""
        magnitudes = np.abs(scaled)
        magnitudes += np.float32(ROUNDING)
        np.minimum(magnitudes, MAX_MAGNITUDE, out=magnitudes)
        if np.isnan(magnitudes).any():
            raise WireError("the activation is too large, or not finite")
        return np.copysign(magnitudes, scaled).astype(np.int32)

    def reconstruct(self, coded: Coefficients) -> FloatArray:
        """The activation (*shape) of coefficients (n,)."""
        transform = self._transform
        activation = self.activation(self.gain * self.deviation(coded))
        return np.ascontiguousarray(
            channels_back(activation, transform.shape, transform.channel_axis)
        )

    def deviation(self, coded: Coefficients) -> FloatArray:
        """The activation (C, P) of coefficients (n,) less its mean, without the gain."""
        grid = self._transform.grid
        values = np.zeros((len(self.encoder), grid.positions), np.float32)
        (present,) = np.nonzero(coded)
        signed = coded[present]
        kind = np.minimum(np.abs(signed), 3) - 1
        offsets = np.copysign(self._centroids[self._classes[present], kind], signed)
        values.ravel()[self._index[present]] = (signed + offsets) * self._steps[present]
        deviation: FloatArray = self._decoder @ grid.inverse(values)
        return deviation

    def activation(self, deviations: FloatArray) -> FloatArray:
        """Activations (..., C, P) from their deviations from the mean, within the range."""
        transform = self._transform
        activations: FloatArray = deviations + self._means
        np.clip(activations, transform.low, transform.high, out=activations)
        return activations


def _by_position(mean: FloatArray, grid: Grid) -> FloatArray:
    """The means (C, 1), or (C, P) where positions have means of their own."""
    if not grid.prefix:
        return np.ascontiguousarray(mean.T)
    pixels = np.repeat(mean[:1], grid.height * grid.width, axis=0)
    return np.ascontiguousarray(np.concatenate([mean[1:], pixels]).T)
