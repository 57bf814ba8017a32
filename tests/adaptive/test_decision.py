"""The decision: answers computed by hand, and properties that hold for every input."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.adaptive import (
    SURE,
    FixedLink,
    LinkFilter,
    Option,
    OptionExit,
    decide,
    patience_ms,
)
from isplit_plugin.schema import Cut

LOCAL = Option(Cut("output", "none"), 0, 300, 0, agreement=1.0)
PHOTO = Option(Cut("input", "jpeg"), 15_000, 5, 40, agreement=0.995)
SPLIT = Option(Cut("layer2", "dct", 3), 5_000, 90, 25, agreement=0.99)
OPTIONS = (LOCAL, PHOTO, SPLIT)


@pytest.mark.parametrize(
    ("mbps", "cut", "expected_ms"),
    [
        # 15,000 bytes take 6 ms at 20 Mbit/s: 5 + 20 + 6 + 40 beside 90 + 20 + 2 + 25 and 300.
        (20.0, PHOTO.cut, 71.0),
        # At 1 Mbit/s 120 ms: 185 beside 90 + 20 + 40 + 25.
        (1.0, SPLIT.cut, 175.0),
        # At 0.1 Mbit/s 1,200 ms and 400 ms.
        (0.1, LOCAL.cut, 300.0),
    ],
)
def test_the_fastest_cut_by_hand(mbps: float, cut: Cut, expected_ms: float) -> None:
    decision = decide(OPTIONS, FixedLink(mbps, 20.0))
    assert decision.cut == cut
    assert decision.taken.expected_ms == pytest.approx(expected_ms)
    assert decision.taken.reason == "fastest"
    assert math.isnan(decision.taken.in_time)


def test_with_a_deadline_the_cheapest_of_the_sure_ones() -> None:
    link = FixedLink(20.0, 20.0)
    fastest = decide(OPTIONS, link, deadline_ms=150)
    assert fastest.cut == PHOTO.cut
    assert [row.in_time for row in fastest.options] == [0.0, 1.0, 1.0]
    smallest = decide(OPTIONS, link, deadline_ms=150, objective="bytes")
    assert smallest.cut == SPLIT.cut
    by_cut = {row.cut: row.reason for row in smallest.options}
    assert by_cut[LOCAL.cut] == "meets the deadline with probability 0.00"
    assert by_cut[PHOTO.cut] == "10000 bytes more than layer2:dct@3"
    assert decide(OPTIONS, link, deadline_ms=301, objective="bytes").cut == LOCAL.cut


def test_a_deadline_that_nothing_meets() -> None:
    decision = decide(OPTIONS, FixedLink(20.0, 20.0), deadline_ms=10)
    assert decision.cut == PHOTO.cut
    assert decision.hopeless
    assert decision.taken.reason == "no cut can meet the deadline; this one is fastest"


def test_the_fewest_bytes() -> None:
    remote = (PHOTO, SPLIT)
    assert decide(remote, FixedLink(20.0, 20.0), objective="bytes").cut == SPLIT.cut
    assert decide(OPTIONS, FixedLink(20.0, 20.0), objective="bytes").cut == LOCAL.cut


def test_refused_options_are_only_a_last_resort() -> None:
    refused = [
        Option(o.cut, o.nbytes, o.device_ms, o.server_ms, o.agreement, "inaccurate")
        for o in OPTIONS
    ]
    mixed = [refused[0], refused[1], SPLIT]
    assert decide(mixed, FixedLink(20.0, 20.0)).cut == SPLIT.cut
    last = decide(refused, FixedLink(20.0, 20.0))
    assert last.cut == LOCAL.cut
    assert last.taken.reason == "no cut is accurate enough; this one agrees best"


def test_patience_is_what_the_local_answer_costs() -> None:
    fast = decide(OPTIONS, FixedLink(20.0, 20.0))
    assert patience_ms(fast, None) == 300
    assert patience_ms(fast, 500) == pytest.approx(500 - 1.2 * 300)
    assert patience_ms(fast, 360) == pytest.approx(0)
    doubtful = decide((replace(LOCAL, doubt=2.0), PHOTO), FixedLink(20.0, 20.0))
    assert patience_ms(doubtful, 1000) == pytest.approx(1000 - 1.2 * 600)
    assert patience_ms(doubtful, 500) == 0  # no time to lose
    assert patience_ms(doubtful, 200) == 100  # the local answer may be in time
    assert patience_ms(doubtful, 100) == 300  # it would be late anyway
    assert patience_ms(fast, 100) == 300
    assert patience_ms(decide(OPTIONS, FixedLink(0.1, 20.0)), None) is None
    assert patience_ms(decide((PHOTO, SPLIT), FixedLink(0.1, 20.0)), 100) is None


def test_unknown_times_come_last() -> None:
    unknown = Option(Cut("layer1", "uint8"), 10, math.nan, 1)
    decision = decide([unknown, PHOTO], FixedLink(20.0, 20.0))
    assert decision.cut == PHOTO.cut
    assert decision.options[0].reason == "its time is not known"
    assert decide([unknown, PHOTO], FixedLink(20.0, 20.0), deadline_ms=100).cut == PHOTO.cut


@pytest.mark.parametrize(
    ("options", "keywords", "message"),
    [
        ((), {}, "at least one option"),
        (OPTIONS, {"objective": "luck"}, "expected latency or bytes, got 'luck'"),
        (OPTIONS, {"deadline_ms": math.nan}, "expected a number, got NaN"),
    ],
)
def test_bad_questions(options: tuple[Option, ...], keywords: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decide(options, FixedLink(1.0, 1.0), **keywords)  # type: ignore[arg-type]


finite = st.floats(0, 1e6)
option_lists = st.lists(
    st.builds(
        Option,
        cut=st.builds(Cut, st.sampled_from(["input", "a", "b", "c"]), st.sampled_from(["x", "y"])),
        nbytes=st.floats(0, 1e7),
        device_ms=finite,
        server_ms=finite,
        agreement=st.floats(0, 1) | st.just(math.nan),
        refused=st.sampled_from(["", "", "inaccurate"]),
        exit=st.none()
        | st.builds(
            OptionExit,
            version=st.just("f"),
            classes=st.just((1,)),
            share=st.floats(0, 1),
            tolerance=st.floats(0.001, 0.1),
            audit_share=st.floats(0, 1),
            refused=st.sampled_from(["", "beyond the tolerance"]),
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(option_lists, st.floats(0.01, 1e3), st.floats(0.5, 1e3), st.none() | st.floats(1, 1e5))
def test_a_refused_option_is_never_taken_if_another_is_allowed(
    options: list[Option], mbps: float, rtt_ms: float, deadline_ms: float | None
) -> None:
    link = FixedLink(mbps, rtt_ms)
    decision = decide(options, link, deadline_ms=deadline_ms)
    if any(not option.refused for option in options):
        assert not decision.taken.option.refused
    assert decision == decide(options, link, deadline_ms=deadline_ms) or math.isnan(
        decision.taken.in_time
    )


@given(option_lists, st.floats(0.01, 1e3), st.floats(1.01, 100), st.floats(0.5, 1e3))
def test_more_bandwidth_never_means_fewer_bytes(
    options: list[Option], mbps: float, factor: float, rtt_ms: float
) -> None:
    allowed = [option for option in options if not option.refused]
    if not allowed:
        return
    slow = decide(allowed, FixedLink(mbps, rtt_ms)).taken
    fast = decide(allowed, FixedLink(mbps * factor, rtt_ms)).taken
    # Equal latencies are a tie, which rounding may break either way. Bytes of photos that an exit
    # answers take no time.
    on_link = [(1 - row.option.exit_share) * row.option.nbytes for row in (fast, slow)]
    assert on_link[0] >= on_link[1] * (1 - 1e-9) or fast.expected_ms == pytest.approx(
        slow.expected_ms
    )
    assert fast.expected_ms <= slow.expected_ms * (1 + 1e-9)


@given(option_lists, st.floats(1, 1e5))
def test_the_likeliest_is_taken_where_none_is_sure(
    options: list[Option], deadline_ms: float
) -> None:
    decision = decide(options, LinkFilter(1.0, 50.0), deadline_ms=deadline_ms)
    allowed = [row for row in decision.options if not row.option.refused]
    if not allowed:
        return
    sure = [row for row in allowed if row.in_time >= SURE]
    if sure:
        assert decision.taken.expected_ms == min(row.expected_ms for row in sure)
    else:
        assert decision.taken.in_time == max(row.in_time for row in allowed)


REFINED = Option(Cut("layer2", "dct", 3, 7), 3_000, 90, 27, agreement=0.99, round_trips=1.2)


@pytest.mark.parametrize(
    ("mbps", "rtt_ms", "cut", "expected_ms"),
    [
        # 2,000 bytes less are 16 ms at 1 Mbit/s; a fifth of a round trip is 4 ms, and 20.
        (1.0, 20.0, REFINED.cut, 90 + 24 + 24 + 27),
        (1.0, 100.0, SPLIT.cut, 90 + 100 + 40 + 25),
    ],
)
def test_a_refining_cut_counts_its_round_trips(
    mbps: float, rtt_ms: float, cut: Cut, expected_ms: float
) -> None:
    decision = decide((LOCAL, SPLIT, REFINED), FixedLink(mbps, rtt_ms))
    assert decision.cut == cut
    assert decision.taken.expected_ms == pytest.approx(expected_ms)


def test_a_deadline_leaves_time_for_the_second_request() -> None:
    link = FixedLink(1.0, 20.0)
    # 90 + 20 + 24 + 27 in one request, and 20 for the second.
    late, early = (
        decide((REFINED,), link, deadline_ms=left_ms).options[0] for left_ms in (180.0, 182.0)
    )
    assert (late.in_time, early.in_time) == (0.0, 1.0)
