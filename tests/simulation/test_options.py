"""Options from a profile: the simulator calls accurate what advice calls accurate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import advice as toys

from isplit_plugin.adaptive import Option
from isplit_plugin.advice import Constraints, LiveView, Query, recommend
from isplit_plugin.errors import QueryError
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut
from isplit_plugin.simulation import options_of

SPLIT = Cut("b", "uint8")


def profile(misses: int, photos: int = 60) -> Profile:
    """A photo that always agrees, and a split that misses so many of all photos."""
    split = photos // 3
    agreeing = [split - misses // 3 - (row < misses % 3) for row in range(3)]
    images = [split] * 3
    return toys.profile(
        measurements=(
            toys.measure("input", "jpeg@90", 900, images, images),
            toys.measure("b", "uint8", 100, agreeing, images),
            toys.measure("output", "none", 0, images, images),
        )
    )


def option(profile: Profile, cut: Cut, **keywords: float) -> Option:
    return next(o for o in options_of(profile, **keywords) if o.cut == cut)


@given(st.integers(0, 40), st.sampled_from([60, 300]), st.sampled_from([0.0, 0.01, 0.05, 0.3]))
def test_simulation_and_advice_agree(misses: int, photos: int, tolerance: float) -> None:
    measured = profile(misses, photos)
    answer = recommend(
        toys.manifest(),
        measured,
        LiveView.empty(),
        Query(constraints=Constraints(accuracy_tolerance=tolerance)),
    )
    rated = next(row for row in answer.cuts if row.cut == SPLIT)
    assert bool(option(measured, SPLIT, tolerance=tolerance).refused) == (
        rated.verdict == "inaccurate"
    )


def test_a_cut_that_few_photos_cannot_tell_from_a_faithful_one_takes_part() -> None:
    assert not option(profile(1), SPLIT).refused  # one of sixty
    refused = option(profile(5), SPLIT).refused
    assert refused == "agrees on 0.9167 of the photos, below 0.99"


def test_times_of_the_device_and_the_server() -> None:
    """Head and encoding are slower on the device, preparation is as measured there."""
    usual = option(profile(0), SPLIT)
    slow = option(profile(0), SPLIT, slowdown=4.0, server_slowdown=2.0, prepare_ms=7.0)
    assert slow.device_ms == pytest.approx(7.0 + 4 * usual.device_ms)
    assert slow.server_ms == pytest.approx(2 * usual.server_ms)
    assert option(profile(0), SPLIT, envelope_bytes=400).nbytes == usual.nbytes + 400
    local = option(profile(0), Cut("output", "none"), envelope_bytes=400)
    assert (local.nbytes, local.server_ms) == (0, 0)


@pytest.mark.parametrize(
    "keywords",
    [{"slowdown": 0.0}, {"server_slowdown": -1.0}, {"tolerance": 2.0}, {"prepare_ms": -1.0}],
)
def test_values_out_of_range(keywords: dict[str, float]) -> None:
    (name,) = keywords
    with pytest.raises(QueryError, match=f"{name}: expected"):
        options_of(profile(0), **keywords)
