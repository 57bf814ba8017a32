"""Shrinkage by hand, and against samples whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import advice as toys

from isplit_plugin.advice import ImportanceRows, LiveView, Source
from isplit_plugin.advice.curves import class_curves, components, mix_curve
from isplit_plugin.errors import StoreError

NONE = LiveView.empty()


def ids(*class_ids: int) -> np.ndarray:
    return np.asarray(class_ids, np.int64)


def test_variance_components_by_hand() -> None:
    # One point. Class 0: 1, 3 (mean 2); class 1: 7, 9 (mean 8). Within: (1+1+1+1)/(4-2) = 2.
    # Between: MSB = 4*9/1 = 36,
    # n0 = (4 - 8/4)/1 = 2, so (36 - 2)/2 = 17, and 2/17 observations are raised to 1.
    profile = toys.samples({0: np.asarray([[1.0], [3.0]]), 1: np.asarray([[7.0], [9.0]])})
    parts = components(profile)
    assert parts.grand == pytest.approx([5.0])
    assert parts.within == pytest.approx([2.0])
    assert parts.k.tolist() == [1.0]


def test_prior_weight_between_one_and_ten_by_hand() -> None:
    # Class 0: 0, 4 (mean 2); class 1: 5, 9 (mean 7). Within: 16/2 = 8. MSB = 4*6.25 = 25, between
    # (25 - 8)/2 = 8.5.
    profile = toys.samples({0: np.asarray([[0.0], [4.0]]), 1: np.asarray([[5.0], [9.0]])})
    assert components(profile).k == pytest.approx([1.0])  # 8/8.5, raised to 1
    # Class means nearer, 2 and 5: MSB = 4*2.25 = 9, between (9 - 8)/2 = 0.5: 16 observations, cut
    # to 10.
    profile = toys.samples({0: np.asarray([[0.0], [4.0]]), 1: np.asarray([[3.0], [7.0]])})
    assert components(profile).k == pytest.approx([10.0])
    # 2 and 6: MSB = 16, between 4: 2 observations.
    profile = toys.samples({0: np.asarray([[0.0], [4.0]]), 1: np.asarray([[4.0], [8.0]])})
    assert components(profile).k == pytest.approx([2.0])


def test_live_mean_is_shrunk_to_the_profile_by_hand() -> None:
    # Three points at which each class has the same values as above: k = 2, within = 8, grand mean
    # 4, class 1 mean 6.
    # Level of class 0: 0.5, of class 1: 1.5 (they average to 1). n = 2 images each.
    # Profile level: effect_1 = (2*1.5 + 2)/(2 + 2) = 1.25 of grand 4 is 5; (2*6 + 2*5)/4 = 5.5.
    profile = toys.samples({c: np.repeat([[4.0 * c], [4.0 * c + 4]], 3, axis=1) for c in (0, 1)})
    prior = mix_curve(profile, NONE, ids(1), np.ones(1))
    assert prior.value == pytest.approx([5.5] * 3)
    assert prior.standard_error == pytest.approx([np.sqrt(8 / 4)] * 3)
    assert [prior.source(i) for i in range(3)] == ["profile"] * 3
    # Six live values with mean 12 at the last two points. Both together know class 1 with 8
    # observations: mean
    # (2*6 + 6*12)/8 = 10.5 at two points of three, level median(1.5, 2.625, 2.625) = 2.625; effect
    # (8*2.625 + 2)/10 =
    # 2.3 of grand 4 is 9.2; prior (2*6 + 2*9.2)/4 = 7.6; value (6*12 + 2*7.6)/8 = 10.9.
    values = np.asarray([[np.nan, x, x] for x in (10.0, 14.0, 11.0, 13.0, 12.0, 12.0)])
    live = replace(NONE, importance=(toys.rows({1: values}, profile.mean0),), observations=6)
    curve = mix_curve(profile, live, ids(1), np.ones(1))
    assert curve.prior == pytest.approx([7.6] * 3)
    assert curve.value == pytest.approx([7.6, 10.9, 10.9])
    assert curve.live_share == pytest.approx([0, 0.75, 0.75])
    assert curve.live_count.tolist() == [0, 6, 6]
    assert curve.profile_count.tolist() == [2, 2, 2]
    assert [curve.source(i) for i in range(3)] == ["profile", "mixed", "mixed"]
    # Spread of the live values: own variance 10/5 = 2 with 5 degrees of freedom, within 8 with 10:
    # (10 + 80)/15 = 6.
    assert curve.standard_error[2] == pytest.approx(np.sqrt(0.75**2 * 6 / 6 + 0.25**2 * 8 / 4))


def test_class_without_images_leans_on_all_classes() -> None:
    curve = mix_curve(
        toys.samples({0: np.ones((3, 5)), 1: 3 * np.ones((3, 5))}), NONE, ids(2), np.ones(1)
    )
    assert curve.value == pytest.approx([2.0] * 5)
    assert curve.profile_count.tolist() == [0] * 5


def test_live_effect_of_an_unknown_class_reaches_the_points_before_the_cut() -> None:
    rng = np.random.default_rng(0)
    images = {c: toys.LEVEL * rng.normal(1.0, 0.1, (20, 1)) for c in (0, 1)}
    profile = toys.samples(images)
    values = np.tile(3 * toys.LEVEL, (200, 1))
    values[:, :3] = np.nan
    live = replace(NONE, importance=(toys.rows({2: values}, profile.mean0),))
    curve = mix_curve(profile, live, ids(2), np.ones(1))
    assert curve.value == pytest.approx(3 * toys.LEVEL, rel=0.08)
    assert [curve.source(i) for i in range(5)] == ["profile"] * 3 + ["live"] * 2


def test_profile_mix_without_traffic_is_the_profile_mean() -> None:
    profile = toys.profile()
    curve = mix_curve(profile, NONE, profile.class_ids, profile.count / profile.count.sum())
    assert curve.value == pytest.approx(profile.curve().mean)


def test_profile_mix_of_skewed_classes_is_the_profile_mean_too() -> None:
    # The median of skewed ratios lies below their mean: without centring, leaning on it would pull
    # the mix down.
    rng = np.random.default_rng(0)
    level = rng.lognormal(0, 0.8, (60, 5))
    profile = toys.samples({c: level[c] * rng.lognormal(0, 0.5, (2, 5)) for c in range(60)})
    curve = mix_curve(profile, NONE, profile.class_ids, np.full(60, 1 / 60))
    assert curve.value == pytest.approx(profile.curve().mean, rel=1e-9)


def test_set_of_classes_is_the_weighted_mean_and_its_error() -> None:
    profile = toys.profile()
    one, two = class_curves(profile, NONE, ids(0, 2))
    both = mix_curve(profile, NONE, ids(0, 2), np.asarray([0.25, 0.75]))
    assert both.value == pytest.approx(0.25 * one.value + 0.75 * two.value)
    assert both.standard_error**2 == pytest.approx(
        0.0625 * one.standard_error**2 + 0.5625 * two.standard_error**2
    )
    assert both.profile_count.tolist() == [4] * 5


def test_much_traffic_outweighs_the_profile() -> None:
    profile = toys.profile()
    values = np.tile(7 * toys.LEVEL, (5000, 1))
    curve = mix_curve(
        profile,
        replace(NONE, importance=(toys.rows({0: values}, profile.mean0),)),
        ids(0),
        np.ones(1),
    )
    assert curve.value == pytest.approx(7 * toys.LEVEL, rel=2e-3)
    assert [curve.source(i) for i in range(5)] == ["live"] * 5


def test_decay_and_landmark_change_the_effective_size_alone() -> None:
    profile = toys.profile()
    values = np.asarray([[2.0], [6.0]]) * np.ones(5)
    old, new = toys.rows({0: values[:1]}, profile.mean0), toys.rows({0: values[1:]}, profile.mean0)

    def weighed(row: ImportanceRows, w: float) -> ImportanceRows:
        return replace(
            row,
            weight=w * row.weight,
            weight2=w * w * row.weight2,
            sum1=w * row.sum1,
            sum2=w * row.sum2,
        )

    def value(w_old: float, w_new: float) -> np.ndarray:
        pair = (weighed(old, w_old), replace(weighed(new, w_new), source="input"))
        return mix_curve(profile, replace(NONE, importance=pair), ids(0), np.ones(1)).value

    assert value(0.25, 1.0) == pytest.approx(value(0.25 * 2**40, 2.0**40))
    assert (value(0.25, 1.0) > value(1.0, 1.0)).all()
    assert np.isfinite(value(1e160, 1e160)).all()


def test_huge_counts_do_not_overflow() -> None:
    # A product of count and level is beyond the largest float here, their weighted mean is not.
    ones = np.ones((1, 5))
    tiny = np.asarray([[1.0, 1.0, 1e-287, 1.0, 1.0]])
    rows = ImportanceRows("tail", "predicted", ids(0), 1e250 * ones, ones, tiny, 1e70 * ones, ones)
    curve = mix_curve(toys.profile(), replace(NONE, importance=(rows,)), ids(0), np.ones(1))
    assert (curve.value > 0).all()


def test_targets_are_not_mixed() -> None:
    profile = toys.profile()
    rows = toys.rows({0: np.full((50, 5), 99.0)}, profile.mean0, target="true")
    live = replace(NONE, importance=(rows,))
    assert mix_curve(profile, live, ids(0), np.ones(1)).live_count.tolist() == [0] * 5
    assert mix_curve(profile, live, ids(0), np.ones(1), "true").live_count.tolist() == [50] * 5


def test_profile_of_one_image_and_of_none() -> None:
    curve = mix_curve(toys.samples({0: np.asarray([toys.LEVEL])}), NONE, ids(0), np.ones(1))
    assert curve.value == pytest.approx(toys.LEVEL)
    assert np.isnan(curve.standard_error).all()
    empty = replace(
        toys.profile(),
        class_ids=ids(),
        count=ids(),
        sum1=np.zeros((0, 5)),
        sum2=np.zeros((0, 5)),
        measurements=(),
        mean0=np.zeros(5),
    )
    assert np.isnan(mix_curve(empty, NONE, ids(0), np.ones(1)).value).all()
    live = replace(NONE, importance=(toys.rows({0: np.tile(toys.LEVEL, (20, 1))}, empty.mean0),))
    curve = mix_curve(empty, live, ids(0), np.ones(1))
    assert curve.value == pytest.approx(toys.LEVEL)
    assert [curve.source(i) for i in range(5)] == ["live"] * 5


def test_rows_of_another_length_are_refused() -> None:
    profile = toys.profile()
    live = replace(NONE, importance=(toys.rows({0: np.ones((2, 4))}, np.zeros(4)),))
    with pytest.raises(StoreError, match="expected 5 points as in the profile, got 4"):
        mix_curve(profile, live, ids(0), np.ones(1))


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["tail", "input", "probe"]),
)
def test_rows_may_be_split_over_sources_in_any_way(
    n: int, m: int, seed: int, source: Source
) -> None:
    profile = toys.profile()
    rng = np.random.default_rng(seed)
    values = {0: rng.gamma(2.0, 1.0, (n + m, 5)), 2: rng.gamma(2.0, 1.0, (n + m, 5))}
    whole = (toys.rows(values, profile.mean0, source),)
    parts = (
        toys.rows({c: v[:n] for c, v in values.items()}, profile.mean0, "input"),
        toys.rows({c: v[n:] for c, v in values.items()}, profile.mean0, "tail"),
    )
    for one, two in zip(
        class_curves(profile, replace(NONE, importance=whole), ids(0, 1, 2)),
        class_curves(profile, replace(NONE, importance=parts[::-1]), ids(0, 1, 2)),
        strict=True,
    ):
        np.testing.assert_allclose(one.value, two.value, rtol=1e-10)
        np.testing.assert_allclose(one.standard_error, two.standard_error, rtol=1e-7)
        np.testing.assert_array_equal(one.live_count, two.live_count)


def errors_of_three_ways(seed: int, n_live: int, *, shift: float) -> np.ndarray:
    """Mean relative error over classes of (shrunk, live alone, profile alone), for
    gamma-distributed importance.

    200 classes with 3 calibration images each; a live class lies off its profile mean by a factor
    exp(N(0, shift)).
    """
    rng = np.random.default_rng(seed)
    classes, points = 200, 5
    level = np.exp(rng.normal(0, 1, points))
    truth = level * np.exp(rng.normal(0, 0.4, (classes, 1)) + rng.normal(0, 0.2, (classes, points)))
    live_truth = truth * np.exp(rng.normal(0, shift, (classes, points)))

    def draw(mean: np.ndarray, n: int) -> np.ndarray:
        image = rng.gamma(2.0, 0.5, (n, 1))  # importance of one image is correlated over points
        return mean * image * rng.gamma(8.0, 1 / 8.0, (n, points))

    profile = toys.samples({c: draw(truth[c], 3) for c in range(classes)})
    live = {c: draw(live_truth[c], n_live) for c in range(classes)}
    view = replace(NONE, importance=(toys.rows(live, profile.mean0),))
    shrunk = np.stack([c.value for c in class_curves(profile, view, np.arange(classes))])
    alone = np.stack([live[c].mean(axis=0) for c in range(classes)])
    prior = profile.mean0 + profile.sum1 / profile.count[:, None]
    return np.asarray([np.mean(np.abs(found / live_truth - 1)) for found in (shrunk, alone, prior)])


@pytest.mark.parametrize("n_live", [1, 3, 10, 40])
@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_shrinkage_beats_live_alone_and_profile_alone(n_live: int, shift: float) -> None:
    shrunk, live_alone, profile_alone = np.mean(
        [errors_of_three_ways(seed, n_live, shift=shift) for seed in range(3)], axis=0
    )
    assert shrunk < live_alone
    assert shrunk < profile_alone


@pytest.mark.parametrize("n_live", [0, 2, 20])
def test_standard_errors_cover_the_truth(n_live: int) -> None:
    # 400 Gaussian classes of 4 images each; class means scatter with variance 4, images with 16: k
    # = 4.
    rng = np.random.default_rng(n_live)
    classes = 400
    truth = rng.normal(100, 2, (classes, 5))
    profile = toys.samples({c: rng.normal(truth[c], 4, (4, 5)) for c in range(classes)})
    assert np.mean(components(profile).k) == pytest.approx(4.0, rel=0.3)
    live = {c: rng.normal(truth[c], 4, (n_live, 5)) for c in range(classes)} if n_live else {}
    view = replace(NONE, importance=(toys.rows(live, profile.mean0),)) if live else NONE
    found = class_curves(profile, view, np.arange(classes))
    z = (np.stack([c.value for c in found]) - truth) / np.stack([c.standard_error for c in found])
    assert 0.93 < np.mean(np.abs(z) < 1.96) < 0.97
    assert np.std(z) == pytest.approx(1.0, abs=0.06)
