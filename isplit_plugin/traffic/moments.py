"""Mergeable weighted sums of importance values, with forward decay.

Live statistics come from several worker processes and are never recomputed, so everything here adds: whatever way the
observations were spread over workers, flushes and rows, and in whatever order the parts were merged, the sums equal
those of all observations at once up to the rounding of additions (1e-12 relative).

**Forward decay** (Cormode, Shkapenyuk, Srivastava, Xu: "Forward Decay: A Practical Time Decay Model for Streaming
Systems", ICDE 2009). An observation at time t weighs w = 2^(t / half_life - epoch), fixed at arrival. The landmark is
``epoch`` half-lives after time zero, always a whole number, so moving it multiplies every weight by a power of two,
which is exact in binary floating point.

**What is known of a curve.** Split traffic tells the importance at the cut and after it, never before (``start`` is the
first known point). All observations of one population share their ``start``, so the count and the weights are scalars
and only the sums are vectors over the P points, zero before ``start``. A view over several starts is the sum of the
populations, per point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import StoreError

F64 = npt.NDArray[np.float64]

DEFAULT_HALF_LIFE_S: Final = 7 * 24 * 3600
_HEADER: Final = 3
_MAX_SHIFT: Final = 1 << 16


def landmark(at: float, half_life_s: float) -> tuple[int, float]:
    """The epoch of time ``at`` (seconds) and the weight of an observation relative to it, in [1, 2)."""
    age = at / half_life_s
    epoch = math.floor(age)
    return epoch, 2.0 ** (age - epoch)


def rescale(weight: float, epoch: int, to_epoch: int) -> float:
    """``weight`` relative to landmark ``epoch``, told relative to ``to_epoch``. Exact but for underflow to zero."""
    return math.ldexp(weight, max(-_MAX_SHIFT, min(_MAX_SHIFT, epoch - to_epoch)))


def shift_of(epochs: npt.ArrayLike, to_epoch: int) -> npt.NDArray[np.int64]:
    """The powers of two that tell weights relative to landmarks ``epochs`` relative to ``to_epoch``."""
    return np.clip(np.asarray(epochs, np.int64) - to_epoch, -_MAX_SHIFT, _MAX_SHIFT)


def first_known(values: F64) -> int | None:
    """The first known point of one curve (P,): NaN before it, finite from there on. ``None`` where that is not so."""
    known = np.isfinite(values)
    start = int(np.argmax(known))
    if not known[start:].all() or not np.isnan(values[:start]).all():
        return None
    return start


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over the observations of one class within one population.

    ``vector``: (3 + 2 P,) float64: count (not decayed), sum of w, sum of w^2, then per point sum of w (x - mu0) and sum
    of w (x - mu0)^2. Never changed in place.
    """

    epoch: int
    vector: F64

    @classmethod
    def of(cls, deviation: F64, at: float, half_life_s: float) -> Moments:
        """One observation. ``deviation``: (P,) x - mu0, zero before the start of its population."""
        epoch, w = landmark(at, half_life_s)
        scaled = w * deviation
        return cls(epoch, np.concatenate(([1.0, w, w * w], scaled, scaled * deviation)))

    @classmethod
    def zero(cls, points: int, epoch: int) -> Moments:
        """No observation yet, of a curve with ``points`` points."""
        return cls(epoch, np.zeros(_HEADER + 2 * points))

    @classmethod
    def from_bytes(cls, raw: bytes, epoch: int, points: int) -> Moments:
        """Read what :meth:`to_bytes` wrote. Raises StoreError where the length is not that of ``points`` points."""
        if len(raw) != 8 * (_HEADER + 2 * points):
            raise StoreError(
                f"moments: expected {8 * (_HEADER + 2 * points)} bytes ({points} points), got {len(raw)}"
            )
        return cls(epoch, np.frombuffer(raw, "<f8").astype(np.float64))

    def to_bytes(self) -> bytes:
        """Little-endian float64."""
        return self.vector.astype("<f8").tobytes()

    @property
    def points(self) -> int:
        return (len(self.vector) - _HEADER) // 2

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
        return self.vector[_HEADER : _HEADER + self.points]

    @property
    def sum2(self) -> F64:
        return self.vector[_HEADER + self.points :]

    def at_epoch(self, epoch: int) -> Moments:
        """The same observations, weighed relative to another landmark."""
        if epoch == self.epoch:
            return self
        return Moments(epoch, rescale_rows(self.vector[None], np.array([self.epoch]), epoch)[0])

    def merge(self, other: Moments) -> Moments:
        """The observations of both. Raises StoreError where they are of curves with different numbers of points."""
        if len(self.vector) != len(other.vector):
            raise StoreError(f"moments: cannot merge {other.points} points into {self.points}")
        epoch = max(self.epoch, other.epoch)
        return Moments(epoch, self.at_epoch(epoch).vector + other.at_epoch(epoch).vector)

    def shifted(self, by: F64) -> Moments:
        """The same observations about mu0 + ``by`` (P,; zero before the start) instead of mu0."""
        s1, s2 = self.sum1, self.sum2
        moved = np.concatenate(
            (self.vector[:_HEADER], s1 - by * self.weight, s2 - 2 * by * s1 + by * by * self.weight)
        )
        return Moments(self.epoch, moved)


def rescale_rows(vectors: F64, epochs: npt.NDArray[np.int64], to_epoch: int) -> F64:
    """Vectors of :class:`Moments` (K, 3 + 2 P) with landmarks ``epochs`` (K,), told relative to ``to_epoch``."""
    shift = shift_of(epochs, to_epoch)
    if not shift.any():
        return vectors
    out = np.ldexp(vectors, shift[:, None])
    out[:, 0] = vectors[:, 0]
    out[:, 2] = np.ldexp(vectors[:, 2], 2 * shift)
    return out
