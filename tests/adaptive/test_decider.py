"""The decider: failures, probes and tries over time, with a clock of the test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.adaptive import SERVER_DOWN, Decider, FixedLink, LinkFilter, Option
from isplit_plugin.schema import ON_DEVICE, Cut

PHOTO = Option(Cut("input", "jpeg"), 15_000, 5, 40, agreement=0.995)
SPLIT = Option(Cut("layer2", "dct", 3), 5_000, 90, 25, agreement=0.99)
LOCAL = Option(ON_DEVICE, 0, 300, 0, agreement=1.0)
OPTIONS = (PHOTO, SPLIT, LOCAL)


def test_after_a_failure_the_server_is_left_alone_for_longer_and_longer() -> None:
    decider = Decider()
    assert decider.plan(OPTIONS, 0.0).option.cut == PHOTO.cut
    pauses = [decider.failed(0.0) for _ in range(8)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    plan = decider.plan(OPTIONS, 29.0)
    assert plan.option.cut == ON_DEVICE
    assert {row.cut: row.reason for row in plan.decision.options}[PHOTO.cut] == SERVER_DOWN
    assert decider.down_s(29.0) == 1.0
    assert decider.plan(OPTIONS, 30.0).option.cut != ON_DEVICE
    decider.answered(5_000, 40.0, 100.0, 30.0)
    assert decider.failed(31.0) == 0.5


def test_a_device_without_the_whole_network_has_to_ask() -> None:
    decider = Decider()
    decider.failed(0.0)
    assert decider.plan((PHOTO, SPLIT), 0.1).option.cut == PHOTO.cut


def test_probes_come_less_and_less_often_while_the_link_stays_slow() -> None:
    decider = Decider(LinkFilter(0.02, 2000.0))
    probed_at = [
        float(second)
        for second in range(200)
        if decider.plan(OPTIONS, float(second)).link_probe is not None
    ]
    # 2 s, then twice as long, at most 30.
    assert probed_at[:6] == [0, 4, 12, 28, 58, 88]


@pytest.mark.parametrize(("objective", "cut"), [("latency", PHOTO.cut), ("bytes", SPLIT.cut)])
def test_a_link_probe_takes_what_a_good_link_answers_first(objective: str, cut: Cut) -> None:
    decider = Decider(LinkFilter(0.02, 2000.0), objective=objective)
    plan = decider.plan(OPTIONS, 0.0)
    assert plan.option.cut == ON_DEVICE
    assert plan.link_probe is not None
    assert plan.link_probe.cut == cut


def test_a_wrong_guess_of_the_own_time_is_found_out() -> None:
    """The split is advised to take 65 ms here. It takes 10."""
    advised = (PHOTO, Option(SPLIT.cut, 5_000, 65, 25))
    decider = Decider(LinkFilter(20.0, 30.0))
    link = FixedLink(20.0, 30.0)
    for second in range(-10, 0):  # the link is known
        decider.answered(15_000, 36.0, 81.0, float(second))
        decider.answered(5_000, 32.0, 80.0, float(second))
    draws = [((7 * k) % 100) / 100 for k in range(200)]
    cuts = []
    for second, draw in enumerate(draws):
        option = decider.plan(advised, float(second), draw=draw).option
        cuts.append(option.cut)
        own_ms = 10.0 if option.cut == SPLIT.cut else 5.0
        decider.ran(option.cut, 0.0, own_ms, float(second))
        network_ms = float(link.expected_ms(np.array([option.nbytes]))[0])
        decider.answered(option.nbytes, network_ms, network_ms, float(second))
    assert cuts[1] == PHOTO.cut
    assert set(cuts[-50:]) == {SPLIT.cut}
    assert 0 < decider.tries < 10


def test_the_fewest_bytes_need_no_tries() -> None:
    decider = Decider(objective="bytes", exploration=0.5)
    plans = [decider.plan(OPTIONS, float(k), draw=0.0) for k in range(5)]
    assert {plan.decision.propensity for plan in plans} == {1.0}
    assert decider.tries == 0


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.floats(0, 1, exclude_max=True))
def test_a_clock_that_jumps_gets_a_plan(first_s: float, then_s: float, draw: float) -> None:
    decider = Decider()
    decider.plan(OPTIONS, first_s, draw=draw)
    decider.failed(first_s)
    decider.ran(PHOTO.cut, 1.0, 2.0, first_s)
    decider.answered(5_000, 40.0, 100.0, then_s)
    decider.late(5_000, 4000.0, first_s)
    plan = decider.plan(OPTIONS, then_s, draw=draw, deadline_ms=500.0)
    assert not plan.option.refused
