"""Discriminants equal scikit-learn's, from sums that several workers collected."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from isplit_plugin.errors import DataError, ExitError
from isplit_plugin.exits import ExitSums, discriminants
from isplit_plugin.schema import Cut

FEATURES = 24
CLASSES = (3, 17, 40, 250)
F64 = npt.NDArray[np.float64]


def traffic(photos: int = 600) -> tuple[F64, npt.NDArray[np.int64]]:
    """Correlated features of unlike size, and classes of unlike share."""
    random = np.random.default_rng(5)
    ids = random.choice(CLASSES, photos, p=(0.5, 0.3, 0.15, 0.05))
    mixing = random.normal(size=(FEATURES, FEATURES)) * np.geomspace(0.01, 10, FEATURES)
    centers = {c: random.normal(size=FEATURES) for c in CLASSES}
    z = random.normal(size=(photos, FEATURES)) + np.stack([centers[int(c)] for c in ids])
    return z @ mixing + 3, ids


def merged(z: F64, ids: npt.NDArray[np.int64], workers: int = 3) -> ExitSums:
    parts = []
    for worker in range(workers):
        part = ExitSums.empty(
            "hash", Cut("layer2", "fp32"), np.full(FEATURES, -900.0), np.full(FEATURES, 900.0)
        )
        part.add(z[worker::workers], ids[worker::workers])
        parts.append(part)
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("standardise", [False, True])
def test_scores_from_merged_sums_equal_scikit_learns(shrinkage: float, standardise: bool) -> None:
    z, ids = traffic()
    fit = discriminants(merged(z, ids), shrinkage, 1, standardise=standardise)
    mine = ((z - fit.center) * fit.scale) @ fit.coef.T + fit.intercept
    scaled = z * fit.scale
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaled, ids)
    theirs = oracle.decision_function(scaled)
    # Scores are the same up to a number that all classes share.
    mine -= mine.mean(axis=1, keepdims=True)
    theirs -= theirs.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)
    if standardise:
        within = z - np.stack([z[ids == c].mean(axis=0) for c in ids])
        np.testing.assert_allclose(fit.scale, 1 / within.std(axis=0))


def test_a_class_without_evidence_leaves_the_others_as_they_are() -> None:
    z, ids = traffic()
    sums = merged(z, ids)
    all_classes = discriminants(sums, 0.5, 1)
    some = discriminants(sums, 0.5, 60)
    assert list(some.class_ids) == [3, 17, 40]
    np.testing.assert_array_equal(some.coef, all_classes.coef[:3])


def test_too_little_evidence_is_said() -> None:
    z, ids = traffic(90)
    with pytest.raises(ExitError, match="at least 2 classes with 1000 photos, got 0") as caught:
        discriminants(merged(z, ids), 0.5, 1000)
    assert caught.value.details == {"reason": "evidence", "classes": 0}
    with pytest.raises(ExitError, match="singular"):
        discriminants(merged(z[:20], ids[:20]), 0.0, 1)
    for shrinkage in (-0.1, 1.1, np.nan):
        with pytest.raises(DataError, match="shrinkage"):
            discriminants(merged(z, ids), shrinkage, 1)


def test_classes_that_decayed_to_nothing_are_left_out() -> None:
    z, ids = traffic()
    old, new = merged(z, ids), merged(z, ids)
    old.class_ids = old.class_ids + 1
    both = old.merge(new.later(3000, 1.0))
    assert len(both.class_ids) == 2 * len(CLASSES)
    assert list(discriminants(both, 0.5, 1).class_ids) == list(CLASSES)


def test_weights_that_no_clock_gives_make_no_exit() -> None:
    sums = merged(*traffic())
    for epoch in (-5000, 5000):  # infinite, or nothing
        with pytest.raises(ExitError):
            discriminants(sums.at_epoch(epoch), 0.5, 1)
