"""How accurate a cut is for a mix of classes: its measured agreement with the full network.

A split without a codec changes nothing. A codec does, and by class. The profile holds, for every
measured cut, on how many images of each class the top-1 class equals the full network's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ..profile import CutMeasurement
from .curves import K_MAX, K_MIN
from .faithful import NO_PHOTOS, Sample
from .intervals import wilson
from .live_view import F64, I64, positions
from .mix import Mix

PARTLY_OTHER: Final = "profile (partly other classes)"
"""The source of an agreement for classes of which the profile has no image of some."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The share of images whose top-1 class equals the full network's, for a mix of classes.

    Attributes:
        share: the measured share, ``None`` where nothing was measured; ``low`` and ``high`` are
            its 95 % interval.
        count: images of these classes behind it; an effective size for a mix.
        source: "none", "profile", "profile (partly other classes)", "profile (other classes)" or
            "live labels".
        estimate: what is compared with the tolerance. A share of few images leans on that of all
            classes.
        decided: whether labels settled that the cut is (or is not) within the tolerance; ``None``
            where they did not.
        whole: the images of all classes.
    """

    share: float | None = None
    low: float | None = None
    high: float | None = None
    count: float = 0.0
    source: str = "none"
    estimate: float | None = None
    decided: bool | None = None
    whole: Sample = NO_PHOTOS

    @property
    def sample(self) -> Sample:
        """The photos and misses that the estimate stands for."""
        if self.estimate is None:
            return NO_PHOTOS
        if not self.count > 0:
            return self.whole
        return Sample(self.count, self.count * (1 - self.estimate))

    def within(self, tolerance: float) -> bool:
        """Whether the cut is accurate enough, as far as labels or photos can tell."""
        if self.decided is not None:
            return self.decided
        return self.estimate is not None and (
            self.estimate >= 1 - tolerance - 1e-9 or self.undecided(tolerance)
        )

    def undecided(self, tolerance: float) -> bool:
        """Whether the photos cannot tell if a cut below the tolerance is within it.

        Neither those of the mix nor those of all classes: few photos of a class do not hide what
        many of the others show.
        """
        if self.decided is not None or not self.whole.faithful(tolerance):
            return False
        return self.sample.undecided(tolerance)

    def photos_needed(self, tolerance: float) -> int | None:
        """How many photos would decide; ``None`` where they do, or labels did."""
        return self.sample.photos_needed(tolerance) if self.undecided(tolerance) else None


class Share(NamedTuple):
    """A share in a stratified sample.

    ``value`` is over the known classes, ``n`` its effective size, ``weight`` what the known classes
    weigh in the mix.
    """

    value: float
    n: float
    weight: float


def stratified(weights: F64, n: F64, hits: F64) -> Share:
    """The post-stratified share for classes of these ``weights``, from ``hits`` of ``n`` in each.

    All shapes are (M,). The effective size is 1 / sum(w^2 / n_c).
    """
    known = (n > 0) & (weights > 0)
    covered = math.fsum(weights[known])
    if not covered > 0:
        return Share(math.nan, 0.0, 0.0)
    w = weights[known] / covered
    # From the misses, so that the share is exactly 1 where all agree.
    missed = math.fsum(w * (1 - hits[known] / n[known]))
    with np.errstate(over="ignore"):  # labels that decayed to almost nothing have an n of zero
        effective = 1 / math.fsum(w * w / n[known])
    return Share(
        max(0.0, 1 - missed),
        effective,
        1.0 if covered > 1 - 1e-9 else covered,
    )


def prior_strength(n: F64, hits: F64) -> float:
    """How many images of a class the share of all classes is worth, from 1 to 10.

    Moments of the beta-binomial distribution: (1 - rho) / rho, with the intra-class correlation rho
    from the analysis of variance.
    """
    n, hits = n[n > 0], hits[n > 0]
    total, classes = float(n.sum()), len(n)
    if classes < 2 or total <= classes:
        return K_MAX
    mean, grand = hits / n, hits.sum() / total
    between = float((n * (mean - grand) ** 2).sum()) / (classes - 1)
    within = float((hits * (1 - mean)).sum()) / (total - classes)
    size = (total - float((n * n).sum()) / total) / (classes - 1)
    if not between > within:
        return K_MAX
    rho = (between - within) / (between + (size - 1) * within)
    return float(np.clip((1 - rho) / rho, K_MIN, K_MAX))


def measured_agreement(measurement: CutMeasurement, profile_ids: I64, mix: Mix) -> Agreement:
    """The agreement of one measured cut for a mix.

    Classes without images are estimated by all classes. The interval leaves their share open, from
    0 to 1.

    Parameters:
        profile_ids: the classes of the measurement's counts, :attr:`Profile.class_ids`.
    """
    images = measurement.images.astype(np.float64)
    agreeing = measurement.agreeing.astype(np.float64)
    if not images.sum() > 0:
        return Agreement()
    everything = float(agreeing.sum() / images.sum())
    row = positions(profile_ids, mix.class_ids)
    n = np.where(row >= 0, images[row], 0.0)
    hits = np.where(row >= 0, agreeing[row], 0.0)
    part = stratified(mix.weights, n, hits)
    if not part.weight > 0:
        return Agreement(
            everything,
            0.0,
            1.0,
            source="profile (other classes)",
            estimate=everything,
            whole=Sample.of(measurement),
        )
    low, high = wilson(part.value, part.n)
    k = prior_strength(images, agreeing)
    leaning = everything + part.n / (part.n + k) * (part.value - everything)
    rest = 1 - part.weight
    return Agreement(
        share=part.weight * part.value + rest * everything,
        low=part.weight * low,
        high=min(1.0, part.weight * high + rest),
        count=part.n,
        source="profile" if rest < 1e-9 else PARTLY_OTHER,
        estimate=part.weight * leaning + rest * everything,
        whole=Sample.of(measurement),
    )


def class_shares(measurement: CutMeasurement | None, profile_ids: I64, class_ids: I64) -> F64:
    """Measured agreement of each of ``class_ids``, shape (M,).

    A class without images has the agreement of all classes, a cut without a measurement 0.
    """
    if measurement is None or not measurement.images.sum() > 0:
        return np.zeros(len(class_ids))
    images = measurement.images.astype(np.float64)
    agreeing = measurement.agreeing.astype(np.float64)
    row = positions(profile_ids, class_ids)
    n = np.where(row >= 0, images[row], 0.0)
    hits = np.where(row >= 0, agreeing[row], 0.0)
    return np.where(n > 0, hits / np.maximum(n, 1.0), agreeing.sum() / images.sum())
