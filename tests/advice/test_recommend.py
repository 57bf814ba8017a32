"""The whole answer: what wins, why the others lost, and that the same question always gets the same answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import advice as toys
from toys.live_views import views

from isplit_plugin.advice import (
    ClassCounts,
    Constraints,
    ImportanceRows,
    LiveView,
    OutcomeRow,
    Query,
    ServedRow,
    recommend,
)
from isplit_plugin.errors import IsplitError, ProfileError, QueryError, UnknownClassError
from isplit_plugin.schema import Recommendation

NONE = LiveView.empty()
NEAR: dict[str, Any] = {"bandwidth_mbps": 8, "rtt_ms": 5}


def ask(
    live: LiveView = NONE, classes: tuple[int, ...] | None = None, **limits: Any
) -> Recommendation:
    query = Query(classes=classes, constraints=Constraints(**{**NEAR, **limits}))
    return recommend(toys.manifest(), toys.profile(), live, query)


def verdicts(answer: Recommendation) -> dict[tuple[str, str], str]:
    return {(c.split_point, c.codec): c.verdict for c in answer.choices}


def text(answer: Recommendation) -> str:
    return json.dumps(answer.to_json(), allow_nan=False)


def test_fastest_accurate_choice_wins_and_every_loser_has_its_reason() -> None:
    answer = ask()
    # output 10; d/uint8 15.85; d/fp32 16.15; input 16.05; b/fp32 17.75; b/uint8 agrees on 279 of 300 alone.
    assert (answer.split_point, answer.codec, answer.use.latency_ms) == (
        "output",
        "none",
        pytest.approx(10),
    )
    assert verdicts(answer) == {
        ("output", "none"): "picked",
        ("d", "uint8"): "slower",
        ("input", "jpeg"): "slower",
        ("d", "fp32"): "slower",
        ("b", "fp32"): "slower",
        ("b", "uint8"): "inaccurate",
    }
    reasons = {(c.split_point, c.codec): c.reason for c in answer.choices}
    assert reasons["d", "uint8"] == "5.85 ms slower than output as none"
    assert "0.93 of 300 images, below the 0.99" in reasons["b", "uint8"]
    assert answer.choices[0] == answer.use
    assert answer.reason.startswith(
        "profile only: no traffic yet; use output as none: the fastest choice"
    )
    assert answer.confidence == pytest.approx(300 / (300 + 1.959963984540054**2))


def test_slow_device_sends_the_image_or_little() -> None:
    assert ask(device_slowdown=10).split_point == "input"
    assert ask(device_slowdown=1.7, rtt_ms=0.1).split_point == "input"
    assert (ask(max_head_macs=500).split_point, ask(max_head_macs=500).codec) == ("d", "uint8")


def test_smallest_where_bytes_are_the_objective() -> None:
    assert ask(objective="bytes").split_point == "output"
    answer = ask(objective="bytes", max_head_macs=999)
    assert (answer.split_point, answer.codec) == ("d", "uint8")
    assert verdicts(answer)["d", "fp32"] == "larger"
    assert "300 bytes more than d as uint8" in next(
        c.reason for c in answer.choices if c.codec == "fp32"
    )


def test_classes_decide_what_is_accurate() -> None:
    limits: dict[str, Any] = {
        "max_head_macs": 200,
        "objective": "bytes",
        "max_bytes": 600,
        "bandwidth_mbps": 0.1,
    }
    b = {
        c: next(
            x
            for x in ask(classes=(c,), **limits).choices
            if (x.split_point, x.codec) == ("b", "uint8")
        )
        for c in range(3)
    }
    assert [b[c].agreement for c in range(3)] == [1.0, pytest.approx(0.99), pytest.approx(0.8)]
    assert b[2].verdict == "inaccurate"
    assert b[0].verdict != "inaccurate"


def test_limits_that_nothing_meets_are_flagged_with_the_least_violation() -> None:
    answer = ask(max_latency_ms=5, max_head_macs=500)
    # input: 16.05/5; d/uint8: 15.85/5; output: 10/5 and 1000/500, (2 - 1) + (2 - 1) = 2: less than 2.17
    assert answer.split_point == "output"
    assert "no accurate choice meets the constraints" in answer.use.reason
    assert answer.use.violations == (
        "max_latency_ms: 10, limit 5",
        "max_head_macs: 1000, limit 500",
    )
    assert verdicts(answer)["d", "uint8"] == "violates"
    assert "no accurate choice meets the constraints" in answer.reason


def test_the_least_violation_goes_before_the_fastest() -> None:
    # d as uint8 exceeds 90 bytes by a ninth; output, faster by 6 ms, needs twice the allowed MACs.
    answer = ask(max_bytes=90, max_head_macs=500)
    assert (answer.split_point, answer.codec, answer.use.violations) == (
        "d",
        "uint8",
        ("max_bytes: 100, limit 90",),
    )


def test_zero_limits_are_answered() -> None:
    answer = ask(max_bytes=0, max_head_macs=0)
    assert answer.use.violations
    assert ask(max_bytes=0).split_point == "output"


def test_without_an_accurate_choice_the_most_accurate_is_flagged() -> None:
    worse = tuple(replace(m, agree=m.agree * 8 // 10) for m in toys.MEASURES)
    answer = recommend(
        toys.manifest(), toys.profile(measures=worse), NONE, Query(constraints=Constraints(**NEAR))
    )
    assert "no choice is within the accuracy tolerance" in answer.use.reason
    assert answer.use.agreement == pytest.approx(0.8)
    assert answer.split_point == "output"


def test_unmeasured_choices_cannot_win() -> None:
    measures = tuple(m for m in toys.MEASURES if m.split_point == "b")
    answer = recommend(
        toys.manifest(),
        toys.profile(measures=measures),
        NONE,
        Query(constraints=Constraints(**NEAR)),
    )
    assert (answer.split_point, answer.codec) == ("b", "fp32")
    assert verdicts(answer)["output", "none"] == "unmeasured"
    output = next(c for c in answer.choices if c.split_point == "output")
    assert (output.agreement, output.agreement_low, output.agreement_source) == (None, None, "none")


def test_where_nothing_is_measured_the_fastest_wins_and_it_is_said() -> None:
    answer = recommend(
        toys.manifest(), toys.profile(measures=()), NONE, Query(constraints=Constraints(**NEAR))
    )
    assert answer.split_point == "output"
    assert "accuracy was never measured for any choice" in answer.use.reason
    assert answer.confidence == 0.0


def test_order_of_deployment_codecs_and_measures_changes_nothing() -> None:
    query = Query(constraints=Constraints(**NEAR))
    one = recommend(toys.manifest(), toys.profile(), NONE, query)
    for measures in (toys.MEASURES[::-1], toys.MEASURES[2:] + toys.MEASURES[:2]):
        other = recommend(
            toys.manifest(deployed=("d.alias", "b"), codecs=("uint8", "fp32")),
            toys.profile(measures=measures),
            NONE,
            query,
        )
        assert replace(other, revision=one.revision) == one


def test_image_codecs_are_choices_of_the_input_alone() -> None:
    answer = recommend(toys.manifest(codecs=("fp32", "jpeg", "file")), toys.profile(), NONE)
    assert {(c.split_point, c.codec) for c in answer.choices} == {
        ("input", "jpeg"),
        ("b", "fp32"),
        ("d", "fp32"),
        ("output", "none"),
    }
    measured = (
        *toys.MEASURES,
        toys.measure("input", "uint8", 192, (100, 100, 100), (100, 100, 100)),
    )
    answer = recommend(toys.manifest(), toys.profile(measures=measured), NONE)
    assert ("input", "uint8") in verdicts(answer)


def seen(counts: tuple[float, ...]) -> ClassCounts:
    n = np.asarray(counts, float)
    return ClassCounts(np.arange(len(n)), n, n)


def test_live_mix_needs_ten_requests() -> None:
    few = recommend(
        toys.manifest(), toys.profile(), LiveView(class_counts=seen((0, 0, 9)), observations=9)
    )
    assert few.mix == "profile"
    assert "9 live requests are too few for a live mix" in few.reason
    many = recommend(
        toys.manifest(), toys.profile(), LiveView(class_counts=seen((5, 0, 15)), observations=20)
    )
    assert (many.mix, many.source) == ("live", "mixed")
    assert [(c.label, c.weight) for c in many.classes] == [("owl", 0.75), ("cat", 0.25)]
    # 0.75 of owls: b as uint8 agrees on 0.75 * 0.8 + 0.25 * 1
    b = next(c for c in many.choices if (c.split_point, c.codec) == ("b", "uint8"))
    assert b.agreement == pytest.approx(0.85)


def test_mix_of_asked_classes() -> None:
    live = LiveView(class_counts=seen((5, 60, 15)), observations=80)
    shares = {}
    for mix in ("asked", "live", "profile", None):
        answer = recommend(toys.manifest(), toys.profile(), live, Query(classes=(2, 0), mix=mix))
        shares[mix] = {c.class_id: c.weight for c in answer.classes}
    assert shares["asked"] == shares[None] == shares["profile"] == {0: 0.5, 2: 0.5}
    assert shares["live"] == {0: 0.25, 2: 0.75}


def test_as_of_is_the_newest_observation() -> None:
    assert ask().as_of is None
    assert ask(LiveView(as_of=123.5, observations=3)).as_of == 123.5
    assert ask(LiveView(as_of=math.nan)).as_of is None


def test_labels_take_a_choice_out_of_the_race() -> None:
    rows = (
        OutcomeRow("input", "jpeg", 0, 2000, 2000, 1800),
        OutcomeRow("d", "uint8", 0, 2000, 2000, 1000),
    )
    assert ask(max_head_macs=500, classes=(0,)).split_point == "d"
    answer = ask(LiveView(outcomes=rows, observations=4000), max_head_macs=500, classes=(0,))
    assert answer.split_point != "d" or answer.codec == "fp32"
    d = next(c for c in answer.choices if (c.split_point, c.codec) == ("d", "uint8"))
    assert (d.verdict, d.agreement_source) == ("inaccurate", "live labels")
    assert d.reason.startswith("live labels: 0.6 of the full network's accuracy on 2000 requests")


def test_steps_at_a_cut_are_read_from_whole_live_curves() -> None:
    # The profile has b above c. Live inputs of class 1 fall from a to b instead, and requests cut at c, of far higher
    # importance, must not hide that: with them the order of a, b and c stays that of the whole curves.
    mean0 = toys.profile().mean0
    whole = np.tile([9.0, 1.0, 2.0, 6.0, 5.0], (400, 1))
    cut = np.tile([np.nan, np.nan, 50.0, 150.0, 125.0], (400, 1))
    rows = (toys.rows({1: whole}, mean0, "input"), toys.rows({1: cut}, mean0, "tail"))
    query = Query(classes=(1,), constraints=Constraints(**NEAR))
    with_inputs = recommend(
        toys.manifest(), toys.profile(), LiveView(importance=rows, observations=800), query
    )
    assert [c.split_point for c in with_inputs.candidates if c.is_candidate] == ["d"]
    values = {c.split_point: c.predictor_value for c in with_inputs.candidates}
    assert values["b"] / values["c"] == pytest.approx(0.5, rel=0.05)
    assert values["a"] / values["b"] == pytest.approx(9, rel=0.2)
    cut_alone = recommend(
        toys.manifest(), toys.profile(), LiveView(importance=rows[1:], observations=400), query
    )
    assert [c.split_point for c in cut_alone.candidates if c.is_candidate] == ["d", "b"]


def test_unknown_class_lists_the_known_ids() -> None:
    with pytest.raises(UnknownClassError, match="unknown class '3'; known: 0, 1, 2"):
        ask(classes=(0, 3))


def test_profile_of_another_network_is_refused() -> None:
    with pytest.raises(ProfileError, match="sha256:other"):
        recommend(toys.manifest(), toys.profile(network_hash="sha256:other"), NONE)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: Constraints(bandwidth_mbps=0), "constraints.bandwidth_mbps"),
        (lambda: Constraints(rtt_ms=-1), "constraints.rtt_ms"),
        (lambda: Constraints(max_bytes=math.inf), "constraints.max_bytes"),
        (lambda: Constraints(max_latency_ms=True), "constraints.max_latency_ms"),
        (lambda: Constraints(accuracy_tolerance=1.5), "constraints.accuracy_tolerance"),
        (lambda: Constraints(objective="speed"), "constraints.objective"),
        (lambda: Constraints(device_slowdown=math.nan), "constraints.device_slowdown"),
        (lambda: Query(classes=()), "classes"),
        (lambda: Query(classes=tuple(range(1001))), "classes"),
        (lambda: Query(classes=(True,)), "classes"),
        (lambda: Query(group=""), "group"),
        (lambda: Query(group="x" * 65), "group"),
        (lambda: Query(rule="best"), "rule"),
        (lambda: Query(candidate_set="some"), "candidate_set"),
        (lambda: Query(mix="mine"), "mix"),
        (lambda: Query(mix="asked"), "mix"),
    ],
)
def test_bad_questions_name_their_field(build: Any, field: str) -> None:
    with pytest.raises(QueryError, match="expected") as caught:
        build()
    assert caught.value.details["field"] == field


# -- any view


_QUERIES = st.builds(
    Query,
    classes=st.none() | st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple),
    rule=st.sampled_from(["local-maxima", "global-maximum"]),
    candidate_set=st.sampled_from(["blocks", "all"]),
    mix=st.sampled_from([None, "live", "profile"]),
    constraints=st.builds(
        Constraints,
        bandwidth_mbps=st.none() | st.floats(1e-3, 1e4),
        rtt_ms=st.none() | st.floats(0, 1e4),
        max_latency_ms=st.none() | st.floats(1e-3, 1e4),
        max_bytes=st.none() | st.floats(0, 1e6),
        max_head_macs=st.none() | st.floats(0, 1e6),
        accuracy_tolerance=st.floats(0, 1),
        objective=st.sampled_from(["latency", "bytes"]),
        device_slowdown=st.none() | st.floats(1e-3, 1e3),
    ),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(view=views(), query=_QUERIES)
def test_any_view_is_answered_in_json(view: LiveView, query: Query) -> None:
    answer = recommend(toys.manifest(), toys.profile(), view, query)
    body = text(answer)
    assert Recommendation.from_json(json.loads(body)) == answer
    assert text(recommend(toys.manifest(), toys.profile(), view, query)) == body
    assert sum(c.weight for c in answer.classes) == pytest.approx(1)
    assert [c.verdict for c in answer.choices].count("picked") == 1
    assert 0 <= answer.confidence <= 1
    assert all(c.reason for c in answer.choices)
    # Among the accurate choices within the limits, none is better by the objective.
    if not answer.use.violations and "no choice" not in answer.use.reason:
        for c in answer.choices:
            if c.verdict in ("slower", "larger") and query.constraints.objective == "bytes":
                assert c.nbytes >= answer.use.nbytes
            elif c.verdict in ("slower", "larger"):
                assert not c.latency_ms < answer.use.latency_ms


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(view=views(), query=_QUERIES, random=st.randoms(use_true_random=False))
def test_the_order_of_rows_and_the_revision_number_change_nothing(
    view: LiveView, query: Query, random: Any
) -> None:
    def shuffled(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        found = list(rows)
        random.shuffle(found)
        return tuple(found)

    # Rows of one key are merged in the store; here they must differ in their key for the order to be no matter.
    view = replace(
        view,
        importance=tuple({(r.source, r.target): r for r in view.importance}.values()),
        served=tuple({(r.split_point, r.codec, r.group): r for r in view.served}.values()),
        outcomes=tuple({(r.split_point, r.codec, r.class_id): r for r in view.outcomes}.values()),
    )
    other = replace(
        view,
        importance=shuffled(view.importance),
        served=shuffled(view.served),
        outcomes=shuffled(view.outcomes),
        revision=view.revision + 1,
    )
    one, two = (recommend(toys.manifest(), toys.profile(), v, query) for v in (view, other))
    assert text(one) == text(two)


def test_revision_follows_contents_and_question() -> None:
    def revision(live: LiveView = NONE, **changes: Any) -> str:
        return recommend(toys.manifest(), toys.profile(), live, Query(**changes)).revision

    rows = toys.rows({0: np.ones((2, 5))}, toys.profile().mean0)
    different = [
        revision(),
        revision(classes=(0,)),
        revision(classes=(0, 1)),
        revision(constraints=Constraints(rtt_ms=1)),
        revision(rule="global-maximum"),
        revision(LiveView(as_of=1.0)),
        revision(LiveView(observations=1)),
        revision(LiveView(importance=(rows,))),
        revision(LiveView(importance=(replace(rows, source="probe"),))),
        revision(LiveView(served=(ServedRow("b", "uint8", "all", 1, 0, 1),))),
        revision(LiveView(outcomes=(OutcomeRow("b", "uint8", 0, 1, 1, 1),))),
        revision(LiveView(class_counts=seen((1.0,)))),
        recommend(toys.manifest(version="2"), toys.profile(), NONE).revision,
        recommend(toys.manifest(), toys.profile(measures=toys.MEASURES[:3]), NONE).revision,
    ]
    assert len(set(different)) == len(different)
    assert revision(classes=(1, 0, 1)) == revision(classes=(0, 1))
    assert revision(constraints=Constraints(rtt_ms=1.0)) == revision(
        constraints=Constraints(rtt_ms=1)
    )
    assert revision(LiveView(revision=5)) == revision()


def test_unknown_values_survive_json() -> None:
    answer = recommend(toys.manifest(), None, NONE)
    assert math.isnan(answer.curve[0].cui)
    assert Recommendation.from_json(json.loads(text(answer))) == answer


def test_values_that_no_network_has_are_left_out() -> None:
    one = np.ones((1, 5))
    broken = ImportanceRows(
        "tail", "predicted", np.zeros(1, np.int64), 46 * one, 7 * one, one, 1e307 * one, 0 * one
    )
    assert ask(LiveView(importance=(broken,))).curve == ask().curve


def test_thousand_classes_are_answered() -> None:
    rng = np.random.default_rng(0)
    images = {c: toys.LEVEL * rng.gamma(2.0, 0.5, (1, 5)) for c in range(1000)}
    profile = toys.samples(images, classes=tuple(f"class {c}" for c in range(1000)))
    manifest = toys.manifest(classes=profile.classes)
    answer = recommend(manifest, profile, NONE, Query(classes=tuple(range(1000))))
    assert len(answer.classes) == 1000
    assert sum(c.weight for c in answer.classes) == pytest.approx(1)
    # One image of each class and equal weights: the mean over all images.
    assert [p.cui for p in answer.curve] == pytest.approx(list(profile.curve().mean), rel=1e-2)


def test_only_errors_of_ours_leave() -> None:
    with pytest.raises(IsplitError):
        LiveView(
            importance=(
                ImportanceRows("tail", "predicted", np.zeros(2, np.int64), *[np.zeros((3, 5))] * 5),
            )
        )
    with pytest.raises(IsplitError):
        ClassCounts(np.zeros(2, np.int64), np.zeros(3), np.zeros(2))
