"""Advice about refining cuts: their latency by hand, and when they are used."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import toys.advice as toys

from isplit_plugin.advice import Constraints, LiveView, Query, recommend, winner_grid
from isplit_plugin.advice.latency import LatencyModel
from isplit_plugin.advice.live_view import ServedRow, Times
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Manifest, Recommendation, Refinement

CUT = Cut("d", "dct", 3, 7)
FINE = Cut("d", "dct", 7)
REFINEMENT = Refinement("d", 3, (7,), 0.2, 0.25, 400, 0, 0.0075)
MANY = (100, 100, 100)


def profile() -> Profile:
    """At ``d``, 1,600 bytes in one request, or 800 in 1.25; head 4, tail 6 ms."""
    measured = (
        toys.measure("input", "jpeg@90", 90_000, MANY, MANY),
        toys.measure("d", "dct@3", 500, (80, 80, 80), MANY),
        toys.measure("d", "dct@7", 1600, MANY, MANY),
        toys.measure("d", "dct@3+7", 800, MANY, MANY),
    )
    return replace(toys.profile(), measurements=measured, refinements=(REFINEMENT,))


def manifest(**changes: Any) -> Manifest:
    codecs = ("fp32", "dct@3", "dct@7")
    return toys.manifest(
        codecs=codecs, transforms=("d",), refinements=(REFINEMENT,), deployed=("d",), **changes
    )


def advice(mbps: float, rtt_ms: float, *, slowdown: float = 1.0) -> Recommendation:
    limits = Constraints(bandwidth_mbps=mbps, rtt_ms=rtt_ms, device_slowdown=slowdown)
    return recommend(manifest(), profile(), LiveView(), Query(constraints=limits))


def test_everything_but_head_and_bytes_counts_for_each_request() -> None:
    model = LatencyModel.of(profile(), LiveView(), Constraints(bandwidth_mbps=8, rtt_ms=5))
    # encode 0.5 and decode 0.25 are those of a photo already.
    expected = 4 + 0.5 + 0.8 + 1.25 * 5 + 0.25 + 1.25 * 6
    assert model.latency(CUT, 800).ms == pytest.approx(expected)
    assert profile().round_trips(CUT) == 1.25
    assert model.latency(FINE, 1600).ms == pytest.approx(4 + 0.5 + 1.6 + 5 + 0.25 + 6)
    terms = model.terms(CUT, 800)
    assert sum(term.factor * term.value for term in terms) == pytest.approx(expected)


def test_live_times_are_those_of_one_request() -> None:
    times = {name: Times(20, 2.0, 2.0) for name in ("head", "encode", "decode", "tail")}
    row = ServedRow(CUT, "all", 30, 0, 24_000, **times)
    limits = Constraints(bandwidth_mbps=8, rtt_ms=5)
    model = LatencyModel.of(profile(), LiveView(served=(row,)), limits)
    assert model.nbytes(CUT) == 800
    assert model.latency(CUT, 800).ms == pytest.approx(2 + 0.8 + 1.25 * (2 + 5 + 2 + 2))


@pytest.mark.parametrize(
    ("mbps", "rtt_ms", "cut"),
    [
        # 800 bytes less are 64 ms at 0.1 Mbit/s, a quarter of a round trip and a tail 9 ms.
        (0.1, 30.0, CUT),
        (0.1, 300.0, FINE),
        (2.0, 30.0, FINE),
    ],
)
def test_refining_pays_on_slow_links_with_short_round_trips(
    mbps: float, rtt_ms: float, cut: Cut
) -> None:
    answer = advice(mbps, rtt_ms, slowdown=60.0)
    assert answer.cut == cut
    rated = {row.cut: row for row in answer.cuts}
    assert rated[CUT].round_trips == 1.25
    assert rated[FINE].round_trips == 1.0
    assert rated[Cut("output", "none")].round_trips == 0.0
    again = Recommendation.from_json(json.loads(json.dumps(answer.to_json())))
    assert again == answer
    raw = next(row for row in answer.to_json()["cuts"] if row["cut"] == "d:dct@3+7")
    assert (raw["round_trips"], raw["nbytes"]) == (1.25, 800)


def test_the_grid_of_winners_counts_every_request() -> None:
    at: dict[str, Any] = {"uplinks": (0.1,), "slowdowns": (60.0,), "tolerance": 0.01}
    for rtt_ms, cut in ((30.0, CUT), (300.0, FINE)):
        [cell] = winner_grid(profile(), rtt_ms=rtt_ms, **at).cells
        assert cell.split is not None
        assert cell.split.cut == cut
    expected = 60 * 4.5 + 64 + 1.25 * (30 + 6) + 0.25
    [cell] = winner_grid(profile(), rtt_ms=30.0, **at).cells
    assert cell.split is not None
    assert cell.split.ms == pytest.approx(expected)


def test_without_a_proof_there_is_no_refining_cut() -> None:
    limits = Constraints(bandwidth_mbps=0.1, rtt_ms=30)
    unproven = replace(manifest(), refinements=())
    answer = recommend(unproven, profile(), LiveView(), Query(constraints=limits))
    assert CUT not in {row.cut for row in answer.cuts}
