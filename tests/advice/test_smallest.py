"""The smallest codec within a tolerance, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from toys import advice as toys

from isplit_plugin.advice import best_photo, smallest_codec
from isplit_plugin.advice.intervals import wilson
from isplit_plugin.errors import QueryError, UnknownClassError, UnknownSplitPointError
from isplit_plugin.profile import CutMeasurement, Profile


def measured(*measurements: CutMeasurement) -> Profile:
    return toys.profile(measurements=measurements)


def smallest(
    profile: Profile,
    split_point: str,
    tolerance: float = 0.01,
    class_ids: Sequence[int] | None = None,
) -> str:
    """The name of the smallest codec."""
    answer = smallest_codec(profile, split_point, tolerance, class_ids)
    assert answer is not None
    return answer.measurement.codec


def test_the_smallest_within_the_tolerance() -> None:
    images = (1000, 1000, 1000)
    profile = measured(
        toys.measure("b", "fp32", 2000, images, images),
        toys.measure("b", "q4+zstd", 250, (1000, 990, 980), images),  # 2970 of 3000: 0.99
        toys.measure("b", "q2+zstd", 120, (1000, 990, 979), images),
        toys.measure("d", "q2+zstd", 10, images, images),
    )
    found = smallest_codec(profile, "b")
    assert found is not None
    assert found.measurement.codec == "q4+zstd"
    assert (found.agreement, found.images, found.photos_needed) == (0.99, 3000, None)
    assert found.low == wilson(0.99, 3000)[0]
    assert smallest(profile, "b.alias", 0.0) == "fp32"
    assert smallest(profile, "b", 0.02) == "q2+zstd"
    assert smallest(profile, "b", 0.0, class_ids=[0]) == "q2+zstd"
    assert smallest(profile, "b", 0.005, class_ids=[1]) == "fp32"


def test_a_photo_or_two_of_sixty_rule_nothing_out() -> None:
    images = (20, 20, 20)
    profile = measured(
        toys.measure("input", "jpeg@90", 300, images, images),
        toys.measure("input", "jpeg@85", 250, (20, 20, 18), images),
        toys.measure("input", "webp@75", 200, (20, 19, 18), images),
        toys.measure("b", "uint8", 260, images, images),
    )
    found = best_photo(profile)
    assert found is not None
    assert str(found.measurement.cut) == "input:jpeg@85"
    # 4 of 120 would be less than 5 % likely, if 1 % is tolerated.
    assert (found.images, found.photos_needed) == (60, 120)
    assert best_photo(measured(*profile.measurements[2:])) is None


def test_ties_go_to_the_name() -> None:
    images = (10, 10, 10)
    profile = measured(
        *(
            toys.measure("b", codec, 100, images, images)
            for codec in ("q4+zstd", "q3+zstd", "uint8")
        )
    )
    assert smallest(profile, "b") == "q3+zstd"


def test_where_nothing_is_good_enough_or_measured_there_is_none() -> None:
    profile = measured(
        toys.measure("b", "q2+zstd", 100, (0, 0, 0), (10, 10, 10)),
        toys.measure("d", "q2+zstd", 9, (0, 0, 0), (0, 0, 0)),
    )
    assert smallest_codec(profile, "b") is None
    assert smallest_codec(profile, "d") is None
    assert smallest_codec(profile, "a") is None
    assert smallest(profile, "b", 1.0) == "q2+zstd"


def test_the_photo_counts_at_input_and_nothing_at_output() -> None:
    profile = toys.profile()
    assert smallest(profile, "input") == "jpeg"
    with pytest.raises(UnknownSplitPointError, match="nothing is sent"):
        smallest_codec(profile, "output")


def test_bad_questions() -> None:
    profile = toys.profile()
    with pytest.raises(UnknownSplitPointError):
        smallest_codec(profile, "nowhere")
    with pytest.raises(UnknownClassError):
        smallest_codec(profile, "b", class_ids=[99])
    for tolerance in (-0.1, 1.1, float("nan")):
        with pytest.raises(QueryError, match="tolerance"):
            smallest_codec(profile, "b", tolerance)
