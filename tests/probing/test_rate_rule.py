"""Probe rates: against numpy on raw observations, and at the ends."""

from __future__ import annotations

import numpy as np

from isplit_plugin.advice import ImportanceRows, LiveView, Source, Target
from isplit_plugin.probing.rate_rule import ENOUGH, MUCH, rate, relative_errors

MEAN0 = np.array([1.0, 2.0, 0.0])


def _rows(
    curves: dict[int, np.ndarray], source: Source = "probe", target: Target = "predicted"
) -> ImportanceRows:
    ids = np.array(sorted(curves), np.int64)
    count = np.array([[float(len(curves[i]))] * 3 for i in ids])
    sum1 = np.array([(curves[i] - MEAN0).sum(axis=0) for i in ids])
    sum2 = np.array([((curves[i] - MEAN0) ** 2).sum(axis=0) for i in ids])
    return ImportanceRows(source, target, ids, count, count, count, sum1, sum2)


def _view(*rows: ImportanceRows) -> LiveView:
    empty = LiveView.empty("all", "1")
    return LiveView(
        importance=rows, served=(), outcomes=(), class_counts=empty.class_counts,
        revision="1", as_of=1.0, observations=0, group="all",
    )  # fmt: skip


def test_errors_are_those_of_the_observations() -> None:
    random = np.random.default_rng(0)
    many, few = random.lognormal(size=(50, 3)), random.lognormal(size=(4, 3))
    ids, found = relative_errors(_view(_rows({3: many, 7: few})), MEAN0)
    expected = [
        np.median(x.std(axis=0, ddof=1) / np.sqrt(len(x)) / x.mean(axis=0)) for x in (many, few)
    ]
    assert ids.tolist() == [3, 7]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_whole_curves_of_all_sources_together_and_nothing_else() -> None:
    x = np.random.default_rng(1).lognormal(size=(20, 3))
    apart = _view(
        _rows({0: x[:8]}),
        _rows({0: x[8:]}, "input"),
        _rows({0: 9 * x}, "tail"),
        _rows({0: 9 * x}, target="true"),
    )
    np.testing.assert_allclose(
        relative_errors(apart, MEAN0)[1], relative_errors(_view(_rows({0: x})), MEAN0)[1], rtol=1e-9
    )
    assert len(relative_errors(_view(_rows({0: x}, "tail")), MEAN0)[0]) == 0
    assert len(relative_errors(LiveView.empty("all", "1"), MEAN0)[0]) == 0


def test_the_ends() -> None:
    one, zeros = np.ones((1, 3)), np.zeros((5, 3))
    ids, found = relative_errors(_view(_rows({0: one, 1: zeros, 2: np.ones((9, 3))})), MEAN0)
    assert dict(zip(ids.tolist(), found.tolist(), strict=True)) == {0: np.inf, 1: 0.0, 2: 0.0}
    middle = (ENOUGH + MUCH) / 2
    np.testing.assert_allclose(
        rate([0.0, ENOUGH, middle, MUCH, np.inf], 0.2), [0.0, 0.0, 0.1, 0.2, 0.2]
    )
