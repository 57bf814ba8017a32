"""Sums from which an exit is fitted. They add up, whoever counted what, and in whichever order.

Labelled by the full network's own answers, with forward decay: weights are relative to a landmark
``epoch`` half-lives after time zero, so moving it multiplies them by a power of two, exactly (as
the moments of importance in :mod:`isplit_plugin.traffic`).

For features x = clip(z) - shift and weights w the sums are, for each class, the count, sum w,
sum w^2 and sum w x, and one matrix for all classes, sum w x x'. The pooled scatter within the
classes follows: sum w x x' - sum_c (sum w x)_c (sum w x)_c' / w_c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..hashed_arrays import pack_arrays, reading, unpack_arrays
from ..schema import Cut
from .arrays import malformed, require_array
from .features import F32, F64, I64, MAX_FEATURES, Pooling, check_pooling

MAX_CLASSES: Final = 4096
"""The most classes that sums and exits have."""
MAX_SUMS_BYTES: Final = 1 << 27
"""The most bytes of sums."""

_KIND: Final = "isplit_exit_sums"
_FORMAT: Final = 1
_HEADER: Final = 3  # count, sum w, sum w^2
_MAX_SHIFT: Final = 1 << 16


@dataclass(slots=True, eq=False)
class ExitSums:
    """Sums over the pooled activations of one cut of one network.

    Made by :meth:`empty` or :meth:`from_bytes`. :meth:`add` changes it; everything else makes new
    sums.

    Attributes:
        network_hash: of the network whose answers are the labels.
        cut: split point and codec: features come from the decoded activation.
        pooling: how positions are pooled.
        low, high: (F,) float32, to which features are clipped: what one request can do is bounded.
        epoch: the landmark of the weights.
        class_ids: (K,) ascending.
        rows: (K, 3 + F): count (not decayed), sum w, sum w^2, sum w x.
        products: (F, F): sum w x x' over all classes.
    """

    network_hash: str
    cut: Cut
    pooling: Pooling
    low: F32
    high: F32
    epoch: int
    class_ids: I64
    rows: F64
    products: F64

    @classmethod
    def empty(
        cls,
        network_hash: str,
        cut: Cut,
        low: npt.ArrayLike,
        high: npt.ArrayLike,
        *,
        pooling: Pooling = "mean",
        epoch: int = 0,
    ) -> ExitSums:
        """Sums of nothing. Raises DataError for bounds that are none, or too many features."""
        bounds = np.asarray(low, np.float32), np.asarray(high, np.float32)
        features = bounds[0].size
        if bounds[0].shape != (features,) or bounds[1].shape != (features,):
            raise DataError(
                f"bounds of features: expected two vectors of one length, got shapes "
                f"{bounds[0].shape} and {bounds[1].shape}"
            )
        if not 0 < features <= MAX_FEATURES:
            raise DataError(f"features: expected 1 to {MAX_FEATURES}, got {features}")
        if not (np.isfinite(bounds[0]) & np.isfinite(bounds[1]) & (bounds[0] <= bounds[1])).all():
            raise DataError("bounds of features: expected finite numbers, low <= high")
        return cls(
            network_hash,
            cut,
            check_pooling(pooling),
            *bounds,
            epoch,
            np.zeros(0, np.int64),
            np.zeros((0, _HEADER + features)),
            np.zeros((features, features)),
        )

    @property
    def features(self) -> int:
        """F, the number of features."""
        return len(self.low)

    @property
    def shift(self) -> F64:
        """(F,): what is subtracted from the features, the middle of their bounds."""
        return (self.low.astype(np.float64) + self.high) / 2

    @property
    def counts(self) -> F64:
        """(K,): the photos of each class, not decayed."""
        return self.rows[:, 0]

    @property
    def weights(self) -> F64:
        """(K,): the decayed weight of each class."""
        return self.rows[:, 1]

    @property
    def effective(self) -> F64:
        """(K,): the effective sample size of each class."""
        with np.errstate(divide="ignore", invalid="ignore"):
            n = self.rows[:, 1] ** 2 / self.rows[:, 2]
        return np.where(self.rows[:, 2] > 0, np.minimum(n, self.counts), 0.0)

    def add(self, z: npt.ArrayLike, class_id: npt.ArrayLike, weight: npt.ArrayLike = 1.0) -> None:
        """Add one photo or several, clipped to the bounds.

        Parameters:
            z: features (F,), or (N, F).
            class_id: the full network's answer, or (N,) of them; at least 0.
            weight: relative to ``epoch``, above 0; or (N,) of them.

        Raises:
            DataError: a wrong shape, values that are not finite, or too many classes. Nothing was
                added.
        """
        values = np.atleast_2d(np.asarray(z, np.float64))
        ids = np.atleast_1d(np.asarray(class_id))
        if values.shape[1:] != (self.features,) or ids.shape != values.shape[:1]:
            raise DataError(
                f"features: expected {self.features} for each class id, got shapes "
                f"{values.shape} and {ids.shape}"
            )
        w = np.broadcast_to(np.asarray(weight, np.float64), ids.shape)
        if not np.isfinite(values).all() or not (np.isfinite(w) & (w > 0)).all():
            raise DataError("features and weights: expected finite numbers, weights above 0")
        if not np.issubdtype(ids.dtype, np.integer) or (ids < 0).any():
            raise DataError("class ids: expected integers from 0 on")
        class_ids, at = np.unique(ids.astype(np.int64), return_inverse=True)
        x = np.clip(values, self.low, self.high) - self.shift
        scaled = w[:, None] * x
        rows = np.zeros((len(class_ids), self.rows.shape[1]))
        np.add.at(rows, at, np.column_stack((np.ones_like(w), w, w * w, scaled)))
        self._add_rows(class_ids, rows)
        self.products += scaled.T @ x

    def merge(self, other: ExitSums) -> ExitSums:
        """The photos of both, relative to the newer landmark.

        Raises DataError for sums of another network, cut, pooling or other bounds, or where there
        would be too many classes.
        """
        if not self.fits(other):
            raise DataError(
                f"sums of {self.cut}: expected others of the same network, cut, pooling and "
                f"bounds, got {other.cut}"
            )
        epoch = max(self.epoch, other.epoch)
        merged, more = self.at_epoch(epoch), other.at_epoch(epoch)
        merged._add_rows(more.class_ids, more.rows)
        merged.products += more.products
        return merged

    def fits(self, other: ExitSums) -> bool:
        """Whether both can be merged."""
        mine = self.network_hash, self.cut, self.pooling
        return (
            mine == (other.network_hash, other.cut, other.pooling)
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
        )

    def at_epoch(self, epoch: int) -> ExitSums:
        """The same photos with weights relative to another landmark; a copy."""
        return self._scaled(epoch, _power_of_two(self.epoch - epoch))

    def later(self, epochs: int, factor: float) -> ExitSums:
        """The same photos, as if each had come later: ``factor`` times 2^``epochs`` in weight."""
        return self._scaled(self.epoch + epochs, factor)

    def without(self, class_ids: npt.ArrayLike) -> ExitSums:
        """Without the rows of these classes. What they add to the scatter within classes stays."""
        dropped = np.isin(self.class_ids, np.asarray(class_ids, np.int64))
        products = self.products - _between(self.rows[dropped])
        return self._with(self.epoch, self.class_ids[~dropped], self.rows[~dropped], products)

    def within(self) -> F64:
        """(F, F): the pooled scatter within the classes, sum_c sum w (x - mean_c)(x - mean_c)'."""
        return self.products - _between(self.rows)

    def means(self) -> F64:
        """(K, F): the mean features of each class; NaN for one whose weight decayed to nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.rows[:, _HEADER:] / self.rows[:, 1:2] + self.shift

    def to_bytes(self) -> bytes:
        """As safetensors; of the symmetric matrix one half."""
        header = {
            "format": _FORMAT,
            "network_hash": self.network_hash,
            "cut": str(self.cut),
            "pooling": self.pooling,
            "epoch": self.epoch,
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            "low": self.low,
            "high": self.high,
            "class_ids": self.class_ids,
            "rows": self.rows,
            "products": self.products[np.triu_indices(self.features)],
        }
        return pack_arrays(_KIND, header, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> ExitSums:
        """Read what :meth:`to_bytes` wrote.

        Raises ExitError for anything else, and for values that no sums have.
        """
        with reading("exit sums", "the sums of an exit", malformed):
            return cls._read(data)

    @classmethod
    def _read(cls, data: bytes) -> ExitSums:
        header, arrays = unpack_arrays(data, _KIND, newest=_FORMAT, max_bytes=MAX_SUMS_BYTES)
        features, classes = len(arrays["low"]), len(arrays["class_ids"])
        if classes > MAX_CLASSES:
            raise ValueError(f"expected at most {MAX_CLASSES} classes, got {classes}")
        low = require_array(arrays, "low", np.float32, (features,))
        high = require_array(arrays, "high", np.float32, (features,))
        sums = cls.empty(
            str(header["network_hash"]),
            Cut.parse(str(header["cut"])),
            low,
            high,
            pooling=check_pooling(header["pooling"]),
            epoch=int(header["epoch"]),
        )
        ids = require_array(arrays, "class_ids", np.int64, (classes,))
        rows = require_array(arrays, "rows", np.float64, (classes, 3 + features))
        half = features * (features + 1) // 2
        triangle = require_array(arrays, "products", np.float64, (half,))
        if classes and (ids[0] < 0 or (np.diff(ids) <= 0).any() or (rows[:, :_HEADER] < 0).any()):
            raise ValueError("expected ascending class ids from 0 on, and weights from 0 on")
        upper = np.triu_indices(features)
        sums.products[upper] = triangle
        sums.products.T[upper] = triangle
        sums.class_ids, sums.rows = ids, rows
        return sums

    def _add_rows(self, class_ids: I64, rows: F64) -> None:
        union = np.union1d(self.class_ids, class_ids)
        if len(union) > MAX_CLASSES:
            raise DataError(f"classes: expected at most {MAX_CLASSES}, got {len(union)}")
        summed = np.zeros((len(union), self.rows.shape[1]))
        summed[np.searchsorted(union, self.class_ids)] = self.rows
        summed[np.searchsorted(union, class_ids)] += rows
        self.class_ids, self.rows = union, summed

    def _scaled(self, epoch: int, factor: float) -> ExitSums:
        # What is too large becomes infinite, as in a damaged store; no exit is fitted from it.
        with np.errstate(over="ignore", invalid="ignore"):
            rows = self.rows * factor
            rows[:, 0] = self.rows[:, 0]
            rows[:, 2] *= factor
            return self._with(epoch, self.class_ids, rows, self.products * factor)

    def _with(self, epoch: int, class_ids: I64, rows: F64, products: F64) -> ExitSums:
        kept = self.network_hash, self.cut, self.pooling, self.low, self.high
        return ExitSums(*kept, epoch, class_ids.copy(), rows, products)


def _between(rows: F64) -> F64:
    """sum_c (sum w x)_c (sum w x)_c' / w_c, shape (F, F)."""
    rows = rows[rows[:, 1] > 0]
    scaled = rows[:, _HEADER:] / np.sqrt(rows[:, 1:2])
    return np.asarray(scaled.T @ scaled)


def _power_of_two(exponent: int) -> float:
    with np.errstate(over="ignore"):
        return float(np.ldexp(1.0, max(-_MAX_SHIFT, min(_MAX_SHIFT, exponent))))
