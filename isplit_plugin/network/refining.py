"""Refinement: the threshold of a split point, and the refining cuts as if they were measured.

The answers of the coarse quality to the calibration photos are sorted by margin, the surest first.
The threshold is the lowest margin that is proven: at every number of photos from the first to this
one, an exact binomial test at 5 % rejects that more than 1 % of the answers above differ from the
full network's. The order of these tests does not depend on the answers, and the first failure ends
them, so no correction for their number is needed (fixed-sequence testing: Angelopoulos et al.,
"Learn then Test", arXiv:2110.01052, 2021). The photos above the n-th largest margin are a sample of
all photos above it, so each test is exact.

The coarse quality is fixed beforehand. So nothing but the threshold is chosen by these photos, and
they prove it at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..schema import COARSE_QUALITY, FINE_QUALITIES, TRANSFORM_CODEC, Cut, Refinement
from .samples import Samples

TOLERANCE: Final = 0.01
"""The largest share of unrefined answers that may differ from the full network's."""
LEVEL: Final = 0.05
"""The chance that a proof is wrong."""
MIN_UNREFINED: Final = math.ceil(math.log(LEVEL) / math.log1p(-TOLERANCE))
"""Fewer photos prove nothing, even where none differs."""
_SECOND_BYTES: Final = 48
"""What a second request says besides: the quality, the class and the bytes of the first."""

F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Proof(NamedTuple):
    """A threshold of the margin; NaN where none is proven.

    Attributes:
        photos: the photos with a larger margin.
        differing: those of them that differ.
        bound: with a confidence of 95 %, at most this share of such photos differs.
    """

    threshold: float
    photos: int
    differing: int
    bound: float


def prove(margins: F64, differs: Flags) -> Proof:
    """The lowest proven threshold, from the margins (N,) of photos and whether answers differ (N,)."""
    count = len(margins)
    first = max(MIN_UNREFINED, count // 2)
    order = np.argsort(-margins, kind="stable")
    ordered, wrong = margins[order], np.cumsum(differs[order])
    proven = 0
    # The photos above the margin of photo ``number`` are those before it.
    for number in range(first, count):
        if ordered[number] == ordered[number - 1]:
            continue
        if _at_most(int(wrong[number - 1]), number, TOLERANCE) > LEVEL:
            break
        proven = number
    if not proven:
        known = min(first, count)
        differing = int(wrong[known - 1]) if known else 0
        return Proof(math.nan, known, differing, _upper(differing, known))
    differing = int(wrong[proven - 1])
    return Proof(float(ordered[proven]), proven, differing, _upper(differing, proven))


def refine(
    split_point: str, samples: Mapping[Cut, Samples]
) -> tuple[Refinement | None, dict[Cut, Samples]]:
    """The refinement of a split point, and the samples of its refining cuts.

    ``samples``: of every measured cut. ``None`` where the coarse quality or all fine ones were not
    measured.
    """
    cuts = {q: Cut(split_point, TRANSFORM_CODEC, q) for q in (COARSE_QUALITY, *FINE_QUALITIES)}
    coarse = samples.get(cuts[COARSE_QUALITY])
    if coarse is None:
        return None, {}
    agrees, margins = np.array(coarse.agrees), np.array(coarse.margins)
    usable = np.isfinite(agrees) & np.isfinite(margins)
    # One that was measured no further, because it misses too many, would look better than it is.
    fine = tuple(
        quality
        for quality in FINE_QUALITIES
        if cuts[quality] in samples and np.isfinite(samples[cuts[quality]].agrees)[usable].all()
    )
    if not fine:
        return None, {}
    proof = prove(margins[usable], agrees[usable] == 0)
    again = margins <= proof.threshold  # none where none is proven
    refinement = Refinement(
        split_point=split_point,
        coarse=COARSE_QUALITY,
        fine=fine,
        threshold=proof.threshold,
        share=math.nan if math.isnan(proof.threshold) else float(again[usable].mean()),
        photos=proof.photos,
        differing=proof.differing,
        bound=proof.bound,
        missing=_missing(proof, int(usable.sum())),
    )
    if not refinement.is_proven:
        return refinement, {}
    return refinement, {
        cut: _combined(coarse, samples[cut.second], again) for cut in refinement.cuts
    }


def _combined(coarse: Samples, fine: Samples, again: Flags) -> Samples:
    """The samples of a refining cut. ``again``: (N,), the photos that are sent again."""

    first, second = coarse.to_array(), fine.to_array()
    second[0] += _SECOND_BYTES
    both = np.where(again, second, first)
    costs = slice(0, 3)
    both[costs] = first[costs] + np.where(again, second[costs], 0.0)
    return Samples.of(both)


def _missing(proof: Proof, photos: int) -> str:
    if not math.isnan(proof.threshold):
        return ""
    if photos <= MIN_UNREFINED:
        return (
            f"a proof takes at least {MIN_UNREFINED} photos whose answers are sure, and more that "
            f"are not; there were {photos}"
        )
    return (
        f"{proof.differing} of the {proof.photos} surest answers differ from the full network's, "
        f"which may be {proof.bound:.1%} of all such answers and not {TOLERANCE:.0%}"
    )


def _at_most(successes: int, trials: int, share: float) -> float:
    """The probability of at most so many successes (binomial), for a share between 0 and 1."""
    log_share, log_rest = math.log(share), math.log1p(-share)
    log_ways = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            log_ways
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * log_share
            + (trials - k) * log_rest
        )
        for k in range(successes + 1)
    )


def _upper(successes: int, trials: int) -> float:
    """The upper end of the one-sided interval of a share (Clopper & Pearson, *Biometrika* 1934)."""
    if successes >= trials:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _at_most(successes, trials, middle) > LEVEL:
            low = middle
        else:
            high = middle
    return high
