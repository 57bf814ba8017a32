"""When live labels overrule a measured agreement, and what the labels of one device prove."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.live_views import outcome

from isplit_plugin.advice import OutcomeRow
from isplit_plugin.advice.agreement import Agreement
from isplit_plugin.advice.labels import LabelSums, agreements_with_labels, label_sums
from isplit_plugin.advice.mix import Mix
from isplit_plugin.schema import Cut


def mix(*weights: float) -> Mix:
    w = np.asarray(weights, float)
    return Mix("asked", np.arange(len(w)), w / w.sum())


JPEG = Cut("input", "jpeg", 90)
B_UINT8 = Cut("b", "uint8")
D_UINT8 = Cut("d", "uint8")


PROFILE = Agreement(1.0, 0.96, 1.0, 100, "profile", 1.0)
LOSSY = Agreement(0.9, 0.8, 0.95, 100, "profile", 0.9)
MEASURED = {JPEG: PROFILE, B_UINT8: PROFILE, D_UINT8: LOSSY}


def settle(
    *rows: OutcomeRow, tolerance: float = 0.01, weights: tuple[float, ...] = (1.0,)
) -> dict[Cut, Agreement]:
    class_mix = mix(*weights)
    return agreements_with_labels(
        MEASURED, label_sums(rows, class_mix), class_mix, tolerance, [JPEG]
    )


def test_many_labels_overrule_a_measured_agreement() -> None:
    found = settle(outcome(JPEG, 1000, 900), outcome(B_UINT8, 1000, 700))[B_UINT8]
    assert (found.source, found.decided, found.count) == ("live labels", False, pytest.approx(1000))
    assert found.share == pytest.approx(0.8)
    assert not found.within(0.01)
    assert found.low is not None
    assert found.high is not None
    assert 0.7 < found.low < 0.8 < found.high < 0.9


def test_many_labels_clear_a_cut_that_looked_lossy() -> None:
    found = settle(outcome(JPEG, 20000, 18000), outcome(D_UINT8, 20000, 18100))[D_UINT8]
    assert (found.decided, found.share) == (True, 1.0)
    assert found.within(0.01)


def test_few_labels_leave_the_measurement() -> None:
    for n in (10, 29, 40):
        assert settle(outcome(JPEG, n, n * 0.9), outcome(B_UINT8, n, n * 0.8)) == MEASURED


def test_twenty_nine_labels_never_decide_however_clear_they_are() -> None:
    for n, source in ((29, "profile"), (30, "live labels")):
        found = settle(outcome(JPEG, n, n), outcome(B_UINT8, n, 0))
        assert found[B_UINT8].source == source


def test_labels_on_one_side_leave_the_measurement() -> None:
    assert settle(outcome(B_UINT8, 1000, 100)) == MEASURED
    assert settle(outcome(JPEG, 1000, 900)) == MEASURED


def test_lossless_cut_stands_for_the_full_network_where_nobody_sends_images() -> None:
    found = settle(outcome(B_UINT8, 1000, 900), outcome(D_UINT8, 1000, 500))
    assert found[D_UINT8].decided is False
    assert found[B_UINT8] == PROFILE


def test_only_classes_with_labels_on_both_sides_are_compared() -> None:
    # Class 1 is hard. Had its labels at b been set against class 0's at input, b would look bad.
    rows = (
        outcome(JPEG, 1000, 950, class_id=0),
        outcome(B_UINT8, 1000, 950, class_id=0),
        outcome(B_UINT8, 5000, 1000, class_id=1),
    )
    found = settle(*rows, weights=(0.5, 0.5), tolerance=0.05)[B_UINT8]
    assert (found.decided, found.share) == (True, 1.0)


def test_classes_outside_the_mix_and_nonsense_are_left_out() -> None:
    rows = (
        outcome(B_UINT8, 1000, 0, class_id=7),
        outcome(B_UINT8, math.nan, 5),
        outcome(B_UINT8, -3, 5),
        outcome(B_UINT8, 10, 99),
    )
    (sums,) = label_sums(rows, mix(1.0)).values()
    for n, hits in (sums.one_by_one(), sums.opinions()):
        assert (n.tolist(), hits.tolist()) == ([10.0], [10.0])


def by_devices(
    cut: Cut, labels: float, *devices: tuple[float, float], class_id: int = 0
) -> OutcomeRow:
    """An outcome from the weight and the share of correct labels of each device's hours."""
    weight = sum(w for w, _ in devices)
    right = sum(w * share for w, share in devices)
    squares = sum(w * w for w, _ in devices)
    correct = labels * right / weight
    return OutcomeRow(cut, class_id, labels, labels, correct, weight, right, squares)


def test_the_size_is_the_effective_number_of_opinions_by_hand() -> None:
    # Weights 1, 1/2 and 1/2: (1 + 1/2 + 1/2)^2 / (1 + 1/4 + 1/4) = 8/3, of which 3/4 are right.
    rows = [by_devices(B_UINT8, 900, (1.0, 1.0), (0.5, 0.0), (0.5, 1.0))]
    n, hits = LabelSums.of(rows).opinions()
    assert (n.tolist(), hits.tolist()) == ([pytest.approx(8 / 3)], [pytest.approx(2.0)])
    # Faded labels: a week's old ones weigh half, and no opinion counts more than its labels.
    faded = LabelSums.of([OutcomeRow(B_UINT8, 0, 5.0, 5.0, 4.0, 5.0, 4.0, 2.5)])
    assert faded.opinions()[0].tolist() == [5.0]


def test_thousands_of_labels_of_one_device_prove_nothing() -> None:
    rows = (
        by_devices(JPEG, 24_000, (1.0, 0.95), (0.5, 0.95)),
        by_devices(B_UINT8, 24_000, (1.0, 0.6), (0.5, 0.6)),
    )
    assert settle(*rows) == MEASURED
    assert settle(*(outcome(row.cut, 24_000, row.correct) for row in rows)) != MEASURED


def test_as_many_devices_as_it_takes_prove_it() -> None:
    rows = (
        by_devices(JPEG, 24_000, *[(1.0, 0.95)] * 400),
        by_devices(B_UINT8, 24_000, *[(1.0, 0.6)] * 400),
    )
    found = settle(*rows)[B_UINT8]
    assert (found.source, found.decided, found.count) == ("live labels", False, pytest.approx(400))
    assert found.share == pytest.approx(0.65)


def test_the_threshold_counts_labels_and_not_opinions() -> None:
    """25 devices with two labels each are 50 labels; how much they prove, the interval says."""
    for labels, source in ((29, "profile"), (50, "live labels")):
        rows = (
            by_devices(JPEG, labels, *[(1.0, 1.0)] * 25),
            by_devices(B_UINT8, labels, *[(1.0, 0.0)] * 25),
        )
        assert settle(*rows)[B_UINT8].source == source


@given(st.lists(st.tuples(*(st.floats(0, 1e300) for _ in range(5))), max_size=3))
def test_any_sums_have_a_size_and_a_share(rows: list[tuple[float, ...]]) -> None:
    sums = LabelSums.of([OutcomeRow(B_UINT8, 0, 0.0, *row) for row in rows])
    n, hits = sums.opinions()
    assert (n >= 0).all()
    assert (n <= sums.labelled).all()
    assert ((hits >= 0) & (hits <= n)).all()


def test_labels_without_any_weight_decide_nothing() -> None:
    rows = (outcome(JPEG, 1000, 900), OutcomeRow(B_UINT8, 0, 1000, 1000, 100, 0.0, 0.0, 0.0))
    assert settle(*rows) == MEASURED
