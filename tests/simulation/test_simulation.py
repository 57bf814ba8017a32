"""Simulations: latencies computed by hand, queues against theory, and the policies compared."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from isplit_plugin.adaptive import Option, OptionExit
from isplit_plugin.errors import QueryError, UnknownSplitPointError
from isplit_plugin.schema import Cut
from isplit_plugin.simulation import (
    ADAPTIVE,
    ORACLE,
    Adaptive,
    ConstantUplink,
    Fixed,
    Oracle,
    Scenario,
    TraceUplink,
    arrivals_ms,
    best_fixed,
    compare,
    simulate,
    summary,
    swinging_trace,
    useful,
    with_exits,
)

LOCAL = Option(Cut("output", "none"), 0, 300, 0, agreement=1.0)
PHOTO = Option(Cut("input", "jpeg"), 15_000, 5, 40, agreement=0.995)
SPLIT = Option(Cut("layer2", "dct", 3), 5_000, 90, 25, agreement=0.99)
OPTIONS = (LOCAL, PHOTO, SPLIT)
CALM = Scenario(
    OPTIONS, uplink=ConstantUplink(4.0), rtt_ms=30, rate=0.5, photos=30, noise=0.0, seed=1
)


def test_an_unloaded_system_by_hand() -> None:
    # 90 ms on the device, 10 ms for 5,000 bytes at 4 Mbit/s, 30 ms round trip, 25 ms at the server.
    run = simulate(replace(CALM, rate=0.01), lambda _device: Fixed(SPLIT.cut))
    assert [photo.latency_ms for photo in run.photos] == pytest.approx([155.0] * 30)
    local = simulate(replace(CALM, rate=0.01), lambda _device: Fixed(LOCAL.cut))
    assert [photo.latency_ms for photo in local.photos] == pytest.approx([300.0] * 30)
    assert local.busy_ms == 0


def test_a_refining_cut_asks_a_second_time() -> None:
    """155 ms, and for half of the photos another round trip of 30 ms."""
    twice = replace(SPLIT, round_trips=1.5)
    scenario = replace(CALM, options=(twice, LOCAL), rate=0.01, photos=200)
    run = simulate(scenario, lambda _device: Fixed(SPLIT.cut))
    latencies = [photo.latency_ms for photo in run.photos]
    assert {round(ms, 6) for ms in latencies} == {155.0, 185.0}
    assert latencies.count(max(latencies)) == pytest.approx(100, abs=30)


def test_other_repeats_have_the_same_arrivals_and_other_noise() -> None:
    scenario = replace(CALM, noise=0.2)
    runs = [simulate(scenario, lambda _d: Fixed(SPLIT.cut), repeat=n).photos for n in range(2)]
    first, other = ([photo.arrived_ms for photo in run] for run in runs)
    assert first == other == arrivals_ms(scenario)
    assert runs[0] != runs[1]


def test_a_burst_waits_in_line_on_the_device() -> None:
    scenario = replace(CALM, burst=3, photos=3)
    run = simulate(scenario, lambda _device: Fixed(LOCAL.cut))
    assert [photo.latency_ms for photo in run.photos] == pytest.approx([300.0, 600.0, 900.0])


def test_a_queue_at_the_server_is_that_of_the_theory() -> None:
    """Many devices, each rarely: Poisson arrivals at one worker with a constant time, M/D/1."""
    option = Option(Cut("input", "jpeg"), 1, 0, 50, agreement=1.0)
    scenario = Scenario(
        (option,), ConstantUplink(1e6), rtt_ms=0, rate=0.05, devices=200, photos=100, noise=0.0
    )
    run = simulate(scenario, lambda _device: Fixed(option.cut))
    load = 200 * 0.05 * 0.05
    # Pollaczek and Khinchine: mean waiting time load * time / (2 * (1 - load)).
    waiting_ms = load * 50 / (2 * (1 - load))
    mean_ms = np.mean([photo.latency_ms for photo in run.photos]) - 50
    assert mean_ms == pytest.approx(waiting_ms, rel=0.15)
    assert run.busy_ms == 200 * 100 * 50
    assert summary("jpeg", scenario, run).server_load == run.busy_ms / run.span_ms


def test_equal_scenarios_give_equal_results() -> None:
    scenario = replace(CALM, uplink=swinging_trace(2), noise=0.2, devices=3)
    first, again = (simulate(scenario, lambda _device: Adaptive(OPTIONS)).photos for _ in range(2))
    assert first == again


def test_a_stalled_link_is_answered_by_the_device() -> None:
    """One opportunity to send a packet in 100 s: whoever waits for the server waits for ever."""
    stalled = replace(CALM, uplink=TraceUplink([100_000.0]), photos=20, deadline_ms=700)
    run = simulate(stalled, lambda _device: Adaptive(OPTIONS))
    assert max(photo.latency_ms for photo in run.photos) <= 700
    results = {result.policy: result for result in compare(stalled)}
    assert results[ADAPTIVE].missed == 0
    assert results["input:jpeg"].missed == 1
    patient = replace(stalled, deadline_ms=None)
    run = simulate(patient, lambda _device: Adaptive(OPTIONS))
    # Without a deadline the device waits as long as its own answer takes, then answers itself.
    assert max(photo.latency_ms for photo in run.photos) <= 3 * 300
    assert any(photo.hedged for photo in run.photos)


@pytest.mark.parametrize("slowdown", [1, 4])
@pytest.mark.parametrize("seed", [3, 4])
def test_adapting_pays_on_a_swinging_link(slowdown: int, seed: int) -> None:
    options = tuple(replace(o, device_ms=slowdown * o.device_ms / 2) for o in OPTIONS)
    scenario = Scenario(options, swinging_trace(seed, mean_mbps=1.0), rate=0.5, photos=150)
    results = compare(scenario)
    by_name = {result.policy: result for result in results}
    best = best_fixed(results)
    assert by_name[ADAPTIVE].mean_ms <= 1.15 * best.mean_ms
    # The oracle knows this link's future, but not the noise of the computing times.
    assert by_name[ORACLE].mean_ms <= 1.02 * by_name[ADAPTIVE].mean_ms
    assert by_name[ORACLE].mean_ms <= 1.02 * best.mean_ms


def test_the_oracle_takes_the_fastest() -> None:
    oracle = Oracle(OPTIONS, ConstantUplink(4.0), rtt_ms=30, offset_ms=0.0)
    assert oracle.choose(0.0, None).cut == PHOTO.cut
    slow = Oracle(OPTIONS, ConstantUplink(0.3), rtt_ms=30, offset_ms=0.0)
    assert slow.choose(0.0, None).cut == SPLIT.cut


def test_options_that_no_link_could_prefer_are_left_out() -> None:
    worse = Option(Cut("layer2", "uint8"), 6_000, 90, 25, agreement=1.0)
    twin = replace(SPLIT, cut=Cut("layer2", "dct", 4))
    refused = replace(PHOTO, cut=Cut("input", "avif"), nbytes=1, refused="inaccurate")
    assert useful([*OPTIONS, worse, twin, refused]) == OPTIONS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rtt_ms", -1.0),
        ("rate", 0.0),
        ("rate", math.nan),
        ("noise", math.inf),
        ("deadline_ms", 0.0),
        ("devices", 0),
        ("photos", 0),
        ("photos", 2_000_000),
        ("workers", 0),
        ("burst", 0),
    ],
)
def test_values_out_of_range(field: str, value: float) -> None:
    with pytest.raises(QueryError, match=f"{field}: expected"):
        replace(CALM, **{field: value})  # type: ignore[arg-type]


def test_nothing_to_choose_from() -> None:
    with pytest.raises(QueryError, match="at least one cut"):
        replace(CALM, options=())
    with pytest.raises(QueryError, match="no cut is accurate enough"):
        replace(CALM, options=tuple(replace(o, refused="inaccurate") for o in OPTIONS))


EXITING = replace(
    SPLIT,
    cut=Cut("layer2", "uint8"),
    exit=OptionExit("assumed", (), share=0.6, tolerance=0.01, audit_share=0.1),
)


def test_photos_that_an_exit_answers_take_the_heads_time_alone() -> None:
    scenario = replace(CALM, options=(LOCAL, EXITING), rate=0.01, photos=500)
    run = simulate(scenario, lambda _device: Fixed(EXITING.cut))
    exited = [photo for photo in run.photos if photo.exited]
    assert [photo.latency_ms for photo in exited] == pytest.approx([90.0] * len(exited))
    assert len(exited) == pytest.approx(300, abs=40)
    assert {photo.agreement for photo in exited} == {0.98}
    audited = [photo for photo in exited if photo.nbytes]
    assert len(audited) == pytest.approx(30, abs=20)
    sent = [photo for photo in run.photos if not photo.exited]
    assert [photo.latency_ms for photo in sent] == pytest.approx([155.0] * len(sent))
    assert run.busy_ms == pytest.approx(25.0 * (len(sent) + len(audited)))
    assert summary("exits", scenario, run).exited == len(exited) / 500


def test_the_adaptive_client_and_the_oracle_reckon_with_exits() -> None:
    # 105 ms by photo; 50 + 0.4 * 65 ms by the split with an exit, 115 ms without.
    split = replace(EXITING, device_ms=50)
    without = replace(CALM, options=(PHOTO, replace(split, exit=None)), rate=0.5, photos=100)
    results = {r.policy: r for r in compare(without)}
    assert results[ADAPTIVE].cuts["input:jpeg"] > 0.95
    results = {r.policy: r for r in compare(replace(without, options=(PHOTO, split)))}
    assert results[ADAPTIVE].cuts["layer2:uint8"] > 0.9
    assert results[ADAPTIVE].exited == pytest.approx(0.6, abs=0.2)
    assert results[ORACLE].cuts == {"layer2:uint8": 1.0}
    assert results[ADAPTIVE].mean_ms == pytest.approx(76, abs=15)


def test_an_exit_that_answers_less_than_promised_is_found_out() -> None:
    split = replace(EXITING, device_ms=60)
    assert split.exit is not None
    truth = replace(split, exit=replace(split.exit, share=0.0))
    scenario = replace(CALM, options=(PHOTO, truth), advised=(PHOTO, split), rate=0.01, photos=200)
    result = {r.policy: r for r in compare(scenario)}[ADAPTIVE]
    assert result.cuts["input:jpeg"] > 0.8
    assert result.exited == 0


def test_an_exit_keeps_an_option_that_is_beaten_without_it() -> None:
    worse = replace(SPLIT, cut=Cut("layer2", "uint8"), nbytes=6_000)
    assert useful([*OPTIONS, worse]) == OPTIONS
    with_exit = replace(worse, exit=EXITING.exit)
    assert with_exit in useful([*OPTIONS, with_exit])


def test_exits_are_assumed_where_an_activation_is_sent() -> None:
    options = with_exits([*OPTIONS], {"layer2": 0.5}, tolerance=0.02)
    exits = {str(option.cut): option.exit for option in options}
    assert exits["output:none"] is exits["input:jpeg"] is None
    exit_ = exits["layer2:dct@3"]
    assert exit_ is not None
    assert (exit_.share, exit_.refused) == (0.5, "")
    (strict,) = with_exits([SPLIT], {"layer2:dct@3": 0.5}, tolerance=0.01)
    assert not strict.may_exit
    assert strict.expected_bytes == SPLIT.nbytes


@pytest.mark.parametrize("name", ["input", "output", "layer9", "layer2:uint8"])
def test_there_is_no_exit_where_no_activation_is_sent(name: str) -> None:
    with pytest.raises(UnknownSplitPointError, match="known: layer2, layer2:dct@3"):
        with_exits(OPTIONS, {name: 0.5}, tolerance=0.02)
