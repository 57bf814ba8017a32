"""What a calibration set can tell, against scipy and by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from isplit_plugin.advice.faithful import Sample, most_misses


@given(st.integers(1, 400), st.data(), st.floats(0, 1))
def test_the_tests_are_exact(photos: int, data: st.DataObject, tolerance: float) -> None:
    misses = data.draw(st.integers(0, photos))
    sample = Sample(photos, misses)
    within = misses <= tolerance * photos + 1e-9
    assert sample.within(tolerance) == within
    by_chance = min(0.5**misses, float(binom.sf(misses - 1, photos, tolerance)))
    if abs(by_chance - 0.05) > 1e-9:
        assert sample.undecided(tolerance) == (not within and by_chance >= 0.05)
    assert sample.faithful(tolerance) == (sample.within(tolerance) or sample.undecided(tolerance))


@given(st.integers(0, 600), st.floats(0, 0.2))
def test_one_miss_more_than_the_most_is_not_faithful(photos: int, tolerance: float) -> None:
    most = most_misses(photos, tolerance)
    assert photos == 0 or Sample(photos, most).faithful(tolerance)
    assert most == photos or not Sample(photos, most + 1).faithful(tolerance)


def test_the_most_misses_by_hand() -> None:
    # The table of docs/explanation/codecs.md says which number decides against a cut.
    assert [most_misses(n) for n in (20, 60, 100, 200, 300, 400, 500)] == [1, 2, 3, 4, 4, 4, 5]


@pytest.mark.parametrize(
    ("photos", "misses", "verdict", "needed"),
    [
        (60, 0, "within", None),
        (60, 1, "undecided", 300),
        (60, 2, "undecided", 120),
        (60, 3, "beyond", None),
        (20, 1, "undecided", 60),  # 3 of 60 or more is less than 5 % likely
        (20, 2, "beyond", None),
        (300, 3, "within", None),
        (300, 4, "undecided", 375),
        (300, 5, "beyond", None),
        (0, 0, "beyond", None),
        (12.5, 0.2, "undecided", None),
    ],
)
def test_a_percent_of_tolerance(
    photos: float, misses: float, verdict: str, needed: int | None
) -> None:
    sample = Sample(photos, misses)
    assert sample.within(0.01) == (verdict == "within")
    assert sample.undecided(0.01) == (verdict == "undecided")
    if needed is not None:
        assert sample.photos_needed(0.01) == needed
    assert (sample.photos_needed(0.01) is None) == (verdict != "undecided")


@given(st.integers(1, 200), st.floats(0, 5), st.floats(0.001, 0.2))
def test_so_many_photos_do_decide(photos: int, misses: float, tolerance: float) -> None:
    sample = Sample(photos, min(misses, photos))
    needed = sample.photos_needed(tolerance)
    if needed is None:
        assert not sample.undecided(tolerance)
    else:
        assert needed > photos
        misses = math.floor(sample.misses / sample.photos * needed + 1e-6)
        assert not Sample(needed, misses).undecided(tolerance)


def test_without_a_tolerance_every_miss_counts() -> None:
    assert Sample(60, 0).faithful(0.0)
    assert not Sample(60, 1).faithful(0.0)
    assert Sample(60, 60).faithful(1.0)
