"""The smallest codec within a tolerance, by hand."""

from __future__ import annotations

import pytest
from toys import advice as toys

from isplit_plugin.advice import smallest_codec
from isplit_plugin.advice.intervals import wilson
from isplit_plugin.errors import QueryError, UnknownClassError, UnknownSplitPointError


def measured(*measures: object) -> object:
    return toys.profile(measures=tuple(measures))


def test_the_smallest_within_the_tolerance() -> None:
    seen = (100, 100, 100)
    profile = measured(
        toys.measure("b", "fp32", 2000, seen, seen),
        toys.measure("b", "q4", 250, (100, 99, 98), seen),  # 297 of 300: 0.99
        toys.measure("b", "q2", 120, (100, 99, 97), seen),
        toys.measure("d", "q2", 10, seen, seen),
    )
    found = smallest_codec(profile, "b")
    assert found is not None
    assert found.measure.codec == "q4"
    assert (found.agreement, found.images) == (0.99, 300)
    assert found.low == wilson(0.99, 300)[0]
    assert smallest_codec(profile, "b.alias", 0.0).measure.codec == "fp32"
    assert smallest_codec(profile, "b", 0.02).measure.codec == "q2"
    assert smallest_codec(profile, "b", 0.0, class_ids=[0]).measure.codec == "q2"
    assert smallest_codec(profile, "b", 0.005, class_ids=[1]).measure.codec == "fp32"


def test_ties_go_to_the_name() -> None:
    seen = (10, 10, 10)
    profile = measured(
        *(toys.measure("b", codec, 100, seen, seen) for codec in ("q4+zstd", "q3+zstd", "uint8"))
    )
    assert smallest_codec(profile, "b").measure.codec == "q3+zstd"


def test_where_nothing_is_good_enough_or_measured_there_is_none() -> None:
    profile = measured(
        toys.measure("b", "q2", 100, (0, 0, 0), (10, 10, 10)),
        toys.measure("d", "q2", 9, (0, 0, 0), (0, 0, 0)),
    )
    assert smallest_codec(profile, "b") is None
    assert smallest_codec(profile, "d") is None
    assert smallest_codec(profile, "a") is None
    assert smallest_codec(profile, "b", 1.0).measure.codec == "q2"


def test_the_photo_counts_at_input_and_nothing_at_output() -> None:
    profile = toys.profile()
    assert smallest_codec(profile, "input").measure.codec == "jpeg"
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
