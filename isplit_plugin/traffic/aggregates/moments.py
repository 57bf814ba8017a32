"""Mergeable weighted sums of importance values, with forward decay.

Live statistics come from several worker processes and are never recomputed, so everything here
adds: however the observations were spread over workers, flushes and rows, and in whatever order the
parts were merged, the sums equal those of all observations at once, up to rounding (1e-12
relative).

**Forward decay** (Cormode, Shkapenyuk, Srivastava, Xu: "Forward Decay: A Practical Time Decay Model
for Streaming Systems", ICDE 2009). An observation at time t weighs w = 2^(t / half_life - epoch),
fixed at arrival. The landmark lies ``epoch`` half-lives after time zero, always a whole number, so
moving it multiplies every weight by a power of two, which is exact in binary floating point.

**The known part of a curve.** A tail computes the importance at its split point and after it,
never before; ``start`` is the first known point. All observations of one population share their
``start``, so count and weights are scalars and only the sums are vectors over the P points, zero
before ``start``. A view over several starts adds the populations point by point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ...errors import StoreError

F64 = npt.NDArray[np.float64]

DEFAULT_HALF_LIFE_S: Final = 7 * 24 * 3600
HEADER: Final = 3
"""Scalars at the begin of a vector of :class:`Moments`: count, weight, weight of squares."""
_MAX_SHIFT: Final = 1 << 16


def landmark(at: float, half_life_s: float) -> tuple[int, float]:
    """The epoch of time ``at`` (seconds), and the weight relative to it, in [1, 2)."""
    age = at / half_life_s
    epoch = math.floor(age)
    return epoch, 2.0 ** (age - epoch)


def rescale(weight: float, epoch: int, to_epoch: int) -> float:
    """A weight relative to ``to_epoch`` instead of ``epoch``.

    Exact, except for underflow to 0, and overflow to infinity where ``to_epoch`` is far in the past.
    """
    try:
        return math.ldexp(weight, max(-_MAX_SHIFT, min(_MAX_SHIFT, epoch - to_epoch)))
    except OverflowError:
        return math.copysign(math.inf, weight)


def shift_of(epochs: npt.ArrayLike, to_epoch: int) -> npt.NDArray[np.int64]:
    """The powers of two by which weights change when their landmark becomes ``to_epoch``."""
    return np.clip(np.asarray(epochs, np.int64) - to_epoch, -_MAX_SHIFT, _MAX_SHIFT)


def first_known(values: F64) -> int | None:
    """The first known point of a curve (P,): NaN before it, finite from there on.

    ``None`` for values of any other form.
    """
    known = np.isfinite(values)
    start = int(np.argmax(known))
    if not known[start:].all() or not np.isnan(values[:start]).all():
        return None
    return start


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over the observations of one class within one population. Immutable.

    ``vector``: (3 + 2 P,) float64: the count (not decayed), the sum of w, the sum of w^2, then for
    each point the sum of w (x - mean0), and for each point the sum of w (x - mean0)^2.
    """

    epoch: int
    vector: F64

    @classmethod
    def of(cls, deviation: F64, at: float, half_life_s: float) -> Moments:
        """One observation. ``deviation``: (P,) x - mean0, zero before the population's start."""
        epoch, w = landmark(at, half_life_s)
        scaled = w * deviation
        return cls(epoch, np.concatenate(([1.0, w, w * w], scaled, scaled * deviation)))

    @classmethod
    def zero(cls, points: int, epoch: int) -> Moments:
        """No observation yet, of a curve with ``points`` points."""
        return cls(epoch, np.zeros(HEADER + 2 * points))

    @classmethod
    def from_bytes(cls, raw: bytes, epoch: int, points: int) -> Moments:
        """Read what :meth:`to_bytes` wrote. Raises StoreError for a wrong length."""
        expected = 8 * (HEADER + 2 * points)
        if len(raw) != expected:
            raise StoreError(
                f"moments: expected {expected} bytes ({points} points), got {len(raw)}"
            )
        return cls(epoch, np.frombuffer(raw, "<f8").astype(np.float64))

    def to_bytes(self) -> bytes:
        """Little-endian float64."""
        return self.vector.astype("<f8").tobytes()

    @property
    def points(self) -> int:
        return (len(self.vector) - HEADER) // 2

    @property
    def count(self) -> float:
        return float(self.vector[0])

    @property
    def weight(self) -> float:
        return float(self.vector[1])

    @property
    def weight2(self) -> float:
        return float(self.vector[2])

    @property
    def sum1(self) -> F64:
        return self.vector[HEADER : HEADER + self.points]

    @property
    def sum2(self) -> F64:
        return self.vector[HEADER + self.points :]

    def at_epoch(self, epoch: int) -> Moments:
        """The same observations with weights relative to another landmark."""
        if epoch == self.epoch:
            return self
        return Moments(epoch, rescale_rows(self.vector[None], np.array([self.epoch]), epoch)[0])

    def merge(self, other: Moments) -> Moments:
        """The observations of both. Raises StoreError for different numbers of points."""
        if len(self.vector) != len(other.vector):
            raise StoreError(f"moments: cannot merge {other.points} points into {self.points}")
        epoch = max(self.epoch, other.epoch)
        return Moments(epoch, self.at_epoch(epoch).vector + other.at_epoch(epoch).vector)

    def later(self, seconds: float, half_life_s: float) -> Moments:
        """The same observations, as if each had come later by ``seconds``."""
        epochs, factor = landmark(seconds, half_life_s)
        vector = self.vector * factor
        vector[0] = self.vector[0]
        vector[2] = self.vector[2] * factor**2
        return Moments(self.epoch + epochs, vector)

    def shifted(self, by: F64) -> Moments:
        """The same observations about mean0 + ``by`` (P,) instead of mean0; 0 before the start."""
        sum1 = self.sum1 - by * self.weight
        sum2 = self.sum2 - 2 * by * self.sum1 + by * by * self.weight
        return Moments(self.epoch, np.concatenate((self.vector[:HEADER], sum1, sum2)))


def rescale_rows(vectors: F64, epochs: npt.NDArray[np.int64], to_epoch: int) -> F64:
    """Vectors of :class:`Moments` (K, 3 + 2 P), moved from ``epochs`` (K,) to ``to_epoch``.

    What is too large becomes infinite, as in a damaged store with rows that are newer than its
    newest observation; readers leave out what is not finite.
    """
    shift = shift_of(epochs, to_epoch)
    if not shift.any():
        return vectors
    out = rescale_array(vectors, shift[:, None])
    out[:, 0] = vectors[:, 0]
    out[:, 2] = rescale_array(vectors[:, 2], 2 * shift)
    return out


def rescale_array(weights: F64, shift: npt.NDArray[np.int64]) -> F64:
    """Weights times the powers of two ``shift``; infinite where that is too large."""
    with np.errstate(over="ignore"):
        return np.ldexp(weights, shift)


def shift_from(start: int, by: F64) -> F64:
    """A move of the shift (P,) for a population that knows nothing before ``start``."""
    return np.where(np.arange(len(by)) < start, 0.0, by)
