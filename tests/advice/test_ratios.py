"""Bytes sent, by work left to the server."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import advice as toys

from isplit_plugin.advice import LiveView, recommend, yardstick
from isplit_plugin.advice.ratios import tail_share
from isplit_plugin.schema import Recommendation


def test_shares_are_of_the_time_on_the_device() -> None:
    profile = toys.profile()
    shares = [tail_share(profile, name) for name in ("input", "a", "d", "e", "output", "nowhere")]
    assert shares[:-1] == pytest.approx([1.0, 0.9, 0.6, 0.1, 0.0])
    assert math.isnan(shares[-1])
    assert math.isnan(tail_share(toys.profile(head_ms={}, tail_ms={}), "b"))


@given(
    h=st.floats(0.01, 0.99),
    ratio=st.floats(0.01, 3),
    bandwidth=st.floats(1e-3, 1e3),
    whole_ms=st.floats(0.1, 1e4),
)
def test_no_link_lets_a_split_beat_both_beyond_the_yardstick(
    h: float, ratio: float, bandwidth: float, whole_ms: float
) -> None:
    profile = toys.profile(head_ms={"b": h * whole_ms, "output": whole_ms})
    stick = yardstick(profile, "b", ratio * 1000, 1000)
    split_ms = h * whole_ms + ratio * 1000 / bandwidth
    beats_both = split_ms < min(1000 / bandwidth, whole_ms) * (1 - 1e-9)
    assert stick.can_win or not beats_both


def test_every_rated_cut_has_its_yardstick() -> None:
    answer = recommend(toys.manifest(), toys.profile(), LiveView.empty())
    sticks = {str(row.cut): (row.byte_ratio, row.tail_share) for row in answer.cuts}
    assert sticks == {
        "input:jpeg@90": (1.0, 1.0),
        "b:fp32": pytest.approx((2000 / 300, 0.8)),
        "b:uint8": pytest.approx((500 / 300, 0.8)),
        "d:fp32": pytest.approx((400 / 300, 0.6)),
        "d:uint8": pytest.approx((100 / 300, 0.6)),
        "output:none": (0.0, 0.0),
    }
    assert Recommendation.from_json(answer.to_json()) == answer


def test_without_a_faithful_photo_there_is_no_ratio() -> None:
    measurements = toys.MEASUREMENTS[1:]
    answer = recommend(toys.manifest(), toys.profile(measurements=measurements), LiveView.empty())
    assert all(math.isnan(row.byte_ratio) for row in answer.cuts)
    assert all(raw["byte_ratio"] is None for raw in answer.to_json()["cuts"])
