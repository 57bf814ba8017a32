"""The smallest codec within a tolerance, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from toys import advice as toys

from isplit_plugin.advice import smallest_codec
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
    images = (100, 100, 100)
    profile = measured(
        toys.measure("b", "fp32", 2000, images, images),
        toys.measure("b", "q4+zstd", 250, (100, 99, 98), images),  # 297 of 300: 0.99
        toys.measure("b", "q2+zstd", 120, (100, 99, 97), images),
        toys.measure("d", "q2+zstd", 10, images, images),
    )
    found = smallest_codec(profile, "b")
    assert found is not None
    assert found.measurement.codec == "q4+zstd"
    assert (found.agreement, found.images) == (0.99, 300)
    assert found.low == wilson(0.99, 300)[0]
    assert smallest(profile, "b.alias", 0.0) == "fp32"
    assert smallest(profile, "b", 0.02) == "q2+zstd"
    assert smallest(profile, "b", 0.0, class_ids=[0]) == "q2+zstd"
    assert smallest(profile, "b", 0.005, class_ids=[1]) == "fp32"


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
