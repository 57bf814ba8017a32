"""The type :class:`Profile`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from ..errors import ProfileError, UnknownClassError, UnknownSplitPointError
from ..files import write_atomically
from ..schema import INPUT, OUTPUT, Cut, Preprocessing, Refinement, SplitPoint
from . import profile_file
from .checks import check
from .measurement import Curve, CutMeasurement, Float64Array, Int64Array

TARGETS: Final = ("predicted", "true")
"""Whose score the importance is about: the predicted class's or the true class's."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Profile:
    """What the calibration set says about a network.

    It has P split points in execution order, and K class rows, one for each class with images.
    The importance x is kept as sums about ``mean0``, a shift that live statistics share, so that
    the sums of both add up without cancellation.

    Attributes:
        model: the model's name.
        network_hash: the network that was measured.
        classes: the names of all classes of the network.
        split_points: the P split points.
        preprocessing: of the photos.
        target: one of :data:`TARGETS`.
        class_ids: (K,), the class of each row.
        count: (K,), its images.
        mean0: (P,), the shift.
        sum1: (K, P), the sum of x - mean0 over the images of a class.
        sum2: (K, P), the sum of (x - mean0)**2.
        comoment: (P, P), the sum over the classes of the centred products within each class.
            Divided by ``comoment_dof``, it is the pooled within-class covariance.
        comoment_dof: the number of images minus K.
        head_ms: milliseconds of the head for one image, by split point, with ``input`` and
            ``output``.
        tail_ms: the same for the tail.
        measurements: of cuts.
        accuracy: on the images whose true class is known; ``None`` if it is known for none.
        provenance: versions, machine, and counts of images.
        predictions: predictor -> P values of predicted accuracy of a bottleneck, larger is better,
            NaN where the predictor is not defined.
        correctors: split point -> SHA-256 of the corrector to deploy, where the codec ``dct`` was
            measured with one.
        int8_heads: split point -> SHA-256 of the int8 head to deploy, where codecs were measured with
            one.
        refinements: at most one for each split point, proven or not.

    Raises ProfileError if the parts are inconsistent.
    """

    model: str
    network_hash: str
    classes: tuple[str, ...]
    split_points: tuple[SplitPoint, ...]
    preprocessing: Preprocessing
    target: str
    class_ids: Int64Array
    count: Int64Array
    mean0: Float64Array
    sum1: Float64Array
    sum2: Float64Array
    comoment: Float64Array
    comoment_dof: int
    head_ms: Mapping[str, float]
    tail_ms: Mapping[str, float]
    measurements: tuple[CutMeasurement, ...]
    accuracy: float | None
    provenance: Mapping[str, str]
    predictions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    correctors: Mapping[str, str] = field(default_factory=dict)
    int8_heads: Mapping[str, str] = field(default_factory=dict)
    refinements: tuple[Refinement, ...] = ()

    def __post_init__(self) -> None:
        check(self, TARGETS)

    def point_index(self, name: str) -> int:
        """The index of a split point, by any of its names. Raises UnknownSplitPointError."""
        for index, point in enumerate(self.split_points):
            if name in point.names:
                return index
        raise UnknownSplitPointError.of(name, [point.name for point in self.split_points])

    def class_rows(self, class_ids: Iterable[int] | None = None) -> Int64Array:
        """The rows of these classes, without those that have no images; by default all rows.

        Raises UnknownClassError for a class that the network does not have.
        """
        if class_ids is None:
            return np.arange(len(self.class_ids), dtype=np.int64)
        row_of = {int(class_id): row for row, class_id in enumerate(self.class_ids)}
        unique_ids = list(dict.fromkeys(int(class_id) for class_id in class_ids))
        for class_id in unique_ids:
            if not 0 <= class_id < len(self.classes):
                raise UnknownClassError.of(class_id, self.classes)
        rows = [row_of[class_id] for class_id in unique_ids if class_id in row_of]
        return np.asarray(rows, dtype=np.int64)

    def curve(self, class_ids: Iterable[int] | None = None) -> Curve:
        """The curve of the images of these classes, by default of all.

        Every image has the same weight. Without images all values are NaN; with one image the
        standard error is NaN.

        Raises UnknownClassError.
        """
        rows = self.class_rows(class_ids)
        n = int(self.count[rows].sum())
        unknown = np.full(len(self.split_points), np.nan)
        if n == 0:
            return Curve(unknown, unknown.copy(), 0)
        shift = self.sum1[rows].sum(axis=0) / n
        if n == 1:
            return Curve(self.mean0 + shift, unknown, 1)
        squares = np.maximum(self.sum2[rows].sum(axis=0) - n * shift * shift, 0.0)
        return Curve(self.mean0 + shift, np.sqrt(squares / (n - 1) / n), n)

    def head_time_ms(self, split_point: str) -> float:
        """Milliseconds of the head for one image, NaN where it was not measured.

        At `output` it is the whole network.
        """
        whole_ms = self.tail_ms.get(INPUT, math.nan) if split_point == OUTPUT else math.nan
        return self.head_ms.get(split_point, whole_ms)

    def measurement(self, cut: Cut) -> CutMeasurement | None:
        """The measurement of this cut, ``None`` if it was not measured."""
        return next((m for m in self.measurements if m.cut == cut), None)

    def refinement(self, split_point: str) -> Refinement | None:
        """The refinement of a split point, ``None`` where that was not measured."""
        return next((r for r in self.refinements if r.split_point == split_point), None)

    def round_trips(self, cut: Cut) -> float:
        """How many requests a photo takes on average: 0 at `output`, more than 1 at a refining cut."""
        if cut.split_point == OUTPUT:
            return 0.0
        refinement = self.refinement(cut.split_point) if cut.is_refining else None
        return 1.0 if refinement is None or refinement.missing else 1.0 + refinement.share

    def to_bytes(self) -> bytes:
        """The content of the profile's file. Equal profiles give equal bytes."""
        return profile_file.pack(*profile_file.parts_of(self))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = "profile") -> Profile:
        """The inverse of :meth:`to_bytes`. Raises ProfileError that begins with ``where``."""
        with profile_file.errors_as_profile_errors(where):
            return cls(**profile_file.fields_of(*profile_file.unpack(data)))

    def save(self, path: str | Path) -> str:
        """Write the file atomically, and return the SHA-256 of its content.

        Raises ProfileError if it cannot be written.
        """
        data = self.to_bytes()
        try:
            write_atomically(path, data)
        except OSError as error:
            reason = error.strerror or error
            raise ProfileError(f"{path}: cannot write the profile ({reason})") from error
        return hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile's file. Raises ProfileError if it is missing, damaged or newer."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(profile_file.MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise ProfileError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        return cls.from_bytes(data, where=str(path))
