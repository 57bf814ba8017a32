"""The latency model by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from toys import advice as toys

from isplit_plugin.advice import Constraints, LiveView, ServedRow, Times
from isplit_plugin.advice.latency import LatencyModel, Link, view_at_bounds
from isplit_plugin.schema import ON_DEVICE, Cut

LINK = Constraints(bandwidth_mbps=8, rtt_ms=5)


D_UINT8 = Cut("d", "uint8")
B_UINT8 = Cut("b", "uint8")
JPEG = Cut("input", "jpeg", 90)


def served(
    split_point: str, codec: str = "uint8", requests: float = 20, nbytes: float = 2000, **ms: Any
) -> ServedRow:
    times = {k: v if isinstance(v, Times) else Times(requests, v, v) for k, v in ms.items()}
    return ServedRow(Cut(split_point, codec), "all", requests, 0, nbytes, **times)


def model(*rows: ServedRow, limits: Constraints = LINK) -> LatencyModel:
    return LatencyModel.of(toys.profile(), LiveView(served=rows), limits)


def test_profile_times_add_up() -> None:
    # head 4 + encode 0.5 + 100 bytes over 8 Mbit/s = 1000 bytes/ms: 0.1 + 5 + decode 0.25 + tail 6
    assert model().latency(D_UINT8, 100) == (pytest.approx(15.85), "profile", 4.5, 6.25)
    assert model().latency(JPEG, 300) == (
        pytest.approx(0.5 + 0.3 + 5 + 0.25 + 10),
        "profile",
        0.5,
        10.25,
    )
    assert model().latency(ON_DEVICE, 0) == (10.0, "profile", 10.0, 0.0)


def test_live_medians_outrank_the_profile() -> None:
    rows = [served("d", head=3.0, encode=1.0, decode=0.2, tail=7.0)]
    assert model(*rows).latency(D_UINT8, 100) == (
        pytest.approx(3 + 1 + 0.1 + 5 + 0.2 + 7),
        "live",
        4.0,
        7.2,
    )


def test_the_median_counts_not_the_mean() -> None:
    rows = [served("d", tail=Times(20, 500.0, 7.0))]
    assert model(*rows).latency(D_UINT8, 0).ms == pytest.approx(4 + 0.5 + 5 + 0.25 * 7 / 6 + 7)


def test_a_slow_device_is_slow_everywhere() -> None:
    rows = [served("d", head=12.0)]  # three times the profile's 4
    found = model(*rows)
    assert (found.slowdown, found.slowdown_source) == (pytest.approx(3), "live")
    assert found.latency(ON_DEVICE, 0) == (pytest.approx(30), "profile", pytest.approx(30), 0.0)
    assert found.latency(B_UINT8, 0).ms == pytest.approx(3 * 2 + 3 * 0.5 + 5 + 0.25 + 8)
    assert found.latency(D_UINT8, 0) == (
        pytest.approx(12 + 3 * 0.5 + 5 + 0.25 + 6),
        "mixed",
        pytest.approx(13.5),
        6.25,
    )


def test_a_busy_server_is_busy_for_every_cut() -> None:
    rows = [served("d", tail=12.0)]  # twice the profile's 6
    assert model(*rows).latency(B_UINT8, 0).ms == pytest.approx(2 + 0.5 + 5 + 0.5 + 16)
    assert model(*rows).latency(ON_DEVICE, 0).ms == pytest.approx(10)


def test_who_names_the_device_asks_about_that_device() -> None:
    rows = [served("d", head=12.0, encode=9.0)]
    found = model(*rows, limits=Constraints(bandwidth_mbps=8, rtt_ms=5, device_slowdown=2))
    assert (found.slowdown, found.slowdown_source) == (2, "asked")
    assert found.latency(D_UINT8, 0).ms == pytest.approx(8 + 1 + 5 + 0.25 + 6)


def test_few_or_broken_reports_are_none() -> None:
    for times in (
        Times(9, 12.0, 12.0),
        Times(20, 1.0, math.nan),
        Times(20, 1.0, -5.0),
        Times(math.inf, 1.0, 12.0),
    ):
        assert model(served("d", head=times)).slowdown_source == "assumed"


def test_factor_is_the_weighted_median_over_split_points() -> None:
    rows = [
        served("b", head=Times(10, 2.0, 2.0)),
        served("d", head=Times(30, 8.0, 8.0)),
        served("d", "fp32", head=Times(15, 4000.0, 4000.0)),
    ]
    assert model(*rows).slowdown == pytest.approx(2.0)


def test_head_times_too_short_to_measure_are_no_yardstick() -> None:
    assert model(served("input", "jpeg@90", head=5.0)).slowdown_source == "assumed"


def test_rows_of_groups_are_pooled_by_count() -> None:
    rows = [
        ServedRow(D_UINT8, "phones", 30, 0, 3000, tail=Times(30, 6.0, 6.0)),
        ServedRow(D_UINT8, "cameras", 10, 0, 3000, tail=Times(10, 10.0, 10.0)),
    ]
    found = model(*rows)
    assert found.latency(D_UINT8, 0).ms == pytest.approx(4 + 0.5 + 5 + 0.25 + 7)
    assert found.nbytes(D_UINT8) == pytest.approx(150)
    assert model(*rows[::-1]).latency(D_UINT8, 0) == found.latency(D_UINT8, 0)


def test_link_is_asked_measured_or_assumed() -> None:
    assert model().link == Link(8, 5, "asked", "asked")
    nothing = model(limits=Constraints())
    assert nothing.link == Link(20, 20, "assumed", "assumed")
    assert "20 Mbit/s (assumed)" in nothing.link.words()
    # 20 requests of 100 bytes in 0.4 ms each: 2 Mbit/s
    live = model(served("d", uplink=0.4), limits=Constraints())
    assert tuple(live.link) == (pytest.approx(2), 20, "live", "assumed")
    assert live.link.transfer_ms(250) == pytest.approx(1 + 20)


def test_reported_round_trips_and_queues_outrank_the_assumption() -> None:
    rows = [served("d", uplink=0.4, rtt=Times(20, 50.0, 42.0)), served("b", rtt=48.0, queue=3.0)]
    live = model(*rows, limits=Constraints())
    assert tuple(live.link) == (pytest.approx(2), 45, "live", "live")
    # head 4 + encode 0.5 + 250 bytes over 2 Mbit/s + 45 + queue 3 + decode 0.25 + tail 6
    assert live.latency(D_UINT8, 250).ms == pytest.approx(4 + 0.5 + 1 + 45 + 3 + 0.25 + 6)
    assert live.latency(D_UINT8, 250).server_ms == 6.25
    assert live.latency(ON_DEVICE, 0).ms == 10
    asked = model(*rows, limits=Constraints(rtt_ms=5))
    assert tuple(asked.link) == (pytest.approx(2), 5, "live", "asked")
    for times in (Times(9, 40.0, 40.0), Times(20, 40.0, math.nan), Times(20, 40.0, -1.0)):
        assert model(served("d", rtt=times), limits=Constraints()).link.rtt_source == "assumed"


def test_the_spread_of_a_reported_link_reaches_the_bounds() -> None:
    spread = Times(40, 45.0, 45.0, 40.0, 60.0)
    view = LiveView(served=(served("d", uplink=Times(40, 0.4, 0.4, 0.2, 0.8), rtt=spread),))
    low, high = (
        LatencyModel.of(toys.profile(), view_at_bounds(view, high=end), Constraints())
        for end in (False, True)
    )
    assert (low.link.rtt_ms, high.link.rtt_ms) == (40, 60)
    assert low.link.bandwidth_mbps == pytest.approx(4 * high.link.bandwidth_mbps)


def test_bytes_as_served_need_ten_requests() -> None:
    assert math.isnan(model(served("d", requests=9)).nbytes(D_UINT8))
    assert model(served("d", requests=10)).nbytes(D_UINT8) == 200
    assert math.isnan(model(served("d", nbytes=math.inf)).nbytes(D_UINT8))


def test_unknown_times_make_an_unknown_latency() -> None:
    profile = toys.profile(head_ms={}, tail_ms={})
    unknown = LatencyModel.of(profile, LiveView.empty(), LINK)
    for cut in (D_UINT8, JPEG, ON_DEVICE):
        latency = unknown.latency(cut, 10)
        assert math.isnan(latency.ms)
        assert latency.source == "none"
