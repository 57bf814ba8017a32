"""The whole answer: what wins, why the others lost, and that the same question always gets the same
answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import advice as toys
from toys.live_views import outcome, views

from isplit_plugin.advice import (
    ClassCounts,
    Constraints,
    ImportanceRows,
    LiveView,
    Query,
    recommend,
)
from isplit_plugin.errors import IsplitError, ProfileError, QueryError, UnknownClassError
from isplit_plugin.schema import ON_DEVICE, Cut, RatedCut, Recommendation

NONE = LiveView.empty()
JPEG = Cut("input", "jpeg", 90)
B_FP32, B_UINT8 = Cut("b", "fp32"), Cut("b", "uint8")
D_FP32, D_UINT8 = Cut("d", "fp32"), Cut("d", "uint8")
NEAR: dict[str, Any] = {"bandwidth_mbps": 8, "rtt_ms": 5}


def ask(
    live: LiveView = NONE, classes: tuple[int, ...] | None = None, **limits: Any
) -> Recommendation:
    query = Query(classes=classes, constraints=Constraints(**{**NEAR, **limits}))
    return recommend(toys.manifest(), toys.profile(), live, query)


def verdicts(answer: Recommendation) -> dict[Cut, str]:
    return {row.cut: row.verdict for row in answer.cuts}


def rating(answer: Recommendation, cut: Cut) -> RatedCut:
    (row,) = (row for row in answer.cuts if row.cut == cut)
    return row


def text(answer: Recommendation) -> str:
    return json.dumps(answer.to_json(), allow_nan=False)


def test_fastest_accurate_cut_wins_and_every_loser_has_its_reason() -> None:
    answer = ask()
    # output 10; d:uint8 15.85; d:fp32 16.15; input 16.05; b:fp32 17.75; b:uint8 agrees on 279 of
    # 300 alone.
    assert answer.cut == ON_DEVICE
    assert answer.use.latency_ms == pytest.approx(10)
    assert verdicts(answer) == {
        ON_DEVICE: "picked",
        D_UINT8: "slower",
        JPEG: "slower",
        D_FP32: "slower",
        B_FP32: "slower",
        B_UINT8: "inaccurate",
    }
    assert rating(answer, D_UINT8).reason == "5.85 ms slower than output:none"
    assert "0.93 of 300 images, below the 0.99" in rating(answer, B_UINT8).reason
    assert answer.cuts[0] == answer.use
    assert answer.reason.startswith(
        "profile only: no traffic yet; use output:none: the fastest cut within"
    )
    assert answer.confidence == pytest.approx(300 / (300 + 1.959963984540054**2))


def test_slow_device_sends_the_image_or_little() -> None:
    assert ask(device_slowdown=10).cut == JPEG
    assert ask(device_slowdown=1.7, rtt_ms=0.1).cut == JPEG
    assert ask(max_head_macs=500).cut == D_UINT8


def test_smallest_where_bytes_are_the_objective() -> None:
    assert ask(objective="bytes").cut == ON_DEVICE
    answer = ask(objective="bytes", max_head_macs=999)
    assert answer.cut == D_UINT8
    assert rating(answer, D_FP32).verdict == "larger"
    first_fp32 = next(row for row in answer.cuts if row.codec == "fp32")
    assert "300 bytes more than d:uint8" in first_fp32.reason


def test_classes_decide_what_is_accurate() -> None:
    limits: dict[str, Any] = {
        "max_head_macs": 200,
        "objective": "bytes",
        "max_bytes": 600,
        "bandwidth_mbps": 0.1,
    }
    rows = [rating(ask(classes=(c,), **limits), B_UINT8) for c in range(3)]
    assert [row.agreement for row in rows] == [1.0, pytest.approx(0.99), pytest.approx(0.8)]
    assert rows[2].verdict == "inaccurate"
    assert rows[0].verdict != "inaccurate"


def test_limits_that_nothing_meets_are_flagged_with_the_least_violation() -> None:
    answer = ask(max_latency_ms=5, max_head_macs=500)
    # input: 16.05/5; d:uint8: 15.85/5; output: 10/5 and 1000/500, (2 - 1) + (2 - 1) = 2: less than
    # 2.17
    assert answer.cut == ON_DEVICE
    assert "no accurate cut meets the constraints" in answer.use.reason
    assert answer.use.violations == (
        "max_latency_ms: 10, limit 5",
        "max_head_macs: 1000, limit 500",
    )
    assert rating(answer, D_UINT8).verdict == "violates"
    assert "no accurate cut meets the constraints" in answer.reason


def test_the_least_violation_goes_before_the_fastest() -> None:
    # d:uint8 exceeds 90 bytes by a ninth; output, faster by 6 ms, needs twice the allowed MACs.
    answer = ask(max_bytes=90, max_head_macs=500)
    assert answer.cut == D_UINT8
    assert answer.use.violations == ("max_bytes: 100, limit 90",)


def test_zero_limits_are_answered() -> None:
    answer = ask(max_bytes=0, max_head_macs=0)
    assert answer.use.violations
    assert ask(max_bytes=0).cut == ON_DEVICE


def test_without_an_accurate_cut_the_most_accurate_is_flagged() -> None:
    worse = tuple(replace(m, agreeing=m.agreeing * 8 // 10) for m in toys.MEASUREMENTS)
    answer = recommend(
        toys.manifest(),
        toys.profile(measurements=worse),
        NONE,
        Query(constraints=Constraints(**NEAR)),
    )
    assert "no cut is within the accuracy tolerance" in answer.use.reason
    assert answer.use.agreement == pytest.approx(0.8)
    assert answer.cut == ON_DEVICE


def test_unmeasured_cuts_cannot_win() -> None:
    measurements = tuple(m for m in toys.MEASUREMENTS if m.split_point == "b")
    answer = recommend(
        toys.manifest(),
        toys.profile(measurements=measurements),
        NONE,
        Query(constraints=Constraints(**NEAR)),
    )
    assert answer.cut == B_FP32
    output = rating(answer, ON_DEVICE)
    assert output.verdict == "unmeasured"
    assert (output.agreement, output.agreement_low, output.agreement_source) == (None, None, "none")


def test_where_nothing_is_measured_the_fastest_wins_and_it_is_said() -> None:
    answer = recommend(
        toys.manifest(), toys.profile(measurements=()), NONE, Query(constraints=Constraints(**NEAR))
    )
    assert answer.cut == ON_DEVICE
    assert "accuracy was never measured for any cut" in answer.use.reason
    assert answer.confidence == 0.0


def test_order_of_deployment_codecs_and_measurements_changes_nothing() -> None:
    query = Query(constraints=Constraints(**NEAR))
    one = recommend(toys.manifest(), toys.profile(), NONE, query)
    in_order = toys.MEASUREMENTS
    for measurements in (in_order[::-1], in_order[2:] + in_order[:2]):
        other = recommend(
            toys.manifest(deployed=("d.alias", "b"), codecs=("uint8", "fp32")),
            toys.profile(measurements=measurements),
            NONE,
            query,
        )
        assert other == one


def test_image_codecs_are_used_at_the_input_alone() -> None:
    answer = recommend(toys.manifest(codecs=("fp32", "jpeg", "file")), toys.profile(), NONE)
    assert set(verdicts(answer)) == {JPEG, B_FP32, D_FP32, ON_DEVICE}
    measurements = (
        *toys.MEASUREMENTS,
        toys.measure("input", "uint8", 192, (100, 100, 100), (100, 100, 100)),
    )
    answer = recommend(toys.manifest(), toys.profile(measurements=measurements), NONE)
    assert Cut("input", "uint8") in verdicts(answer)


def class_counts(counts: tuple[float, ...]) -> ClassCounts:
    n = np.asarray(counts, float)
    return ClassCounts(np.arange(len(n)), n, n)


def test_live_mix_needs_ten_requests() -> None:
    few = recommend(
        toys.manifest(),
        toys.profile(),
        LiveView(class_counts=class_counts((0, 0, 9)), observations=9),
    )
    assert few.mix == "profile"
    assert "9 live requests are too few for a live mix" in few.reason
    many = recommend(
        toys.manifest(),
        toys.profile(),
        LiveView(class_counts=class_counts((5, 0, 15)), observations=20),
    )
    assert (many.mix, many.source) == ("live", "mixed")
    assert [(c.label, c.weight) for c in many.classes] == [("owl", 0.75), ("cat", 0.25)]
    # 0.75 of owls: b:uint8 agrees on 0.75 * 0.8 + 0.25 * 1
    assert rating(many, B_UINT8).agreement == pytest.approx(0.85)


def test_mix_of_asked_classes() -> None:
    live = LiveView(class_counts=class_counts((5, 60, 15)), observations=80)
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


def test_labels_take_a_cut_out_of_the_race() -> None:
    rows = (
        outcome(JPEG, 2000, 1800),
        outcome(D_UINT8, 2000, 1000),
    )
    assert ask(max_head_macs=500, classes=(0,)).cut.split_point == "d"
    answer = ask(LiveView(outcomes=rows, observations=4000), max_head_macs=500, classes=(0,))
    assert answer.cut != D_UINT8
    loser = rating(answer, D_UINT8)
    assert (loser.verdict, loser.agreement_source) == ("inaccurate", "live labels")
    assert loser.reason.startswith(
        "live labels: 0.6 of the full network's accuracy on 2000 requests"
    )


def test_a_bad_photo_does_not_stand_for_the_full_network_in_labels() -> None:
    """What the whole network says to a photo of low quality is not what it says to the photo."""
    bad = toys.measure("input", "webp@60", 20, (60, 60, 60), (100, 100, 100))
    profile = toys.profile(measurements=(*toys.MEASUREMENTS, bad))
    manifest = toys.manifest(photos=("jpeg@90", "webp@60"))
    rows = (
        outcome(bad.cut, 4000, 1000),
        outcome(JPEG, 2000, 1800),
        outcome(D_UINT8, 2000, 1000),
    )
    query = Query(classes=(0,), constraints=Constraints(max_head_macs=500))
    live = LiveView(outcomes=rows, observations=8000)
    loser = rating(recommend(manifest, profile, live, query), D_UINT8)
    assert (loser.verdict, loser.agreement_source) == ("inaccurate", "live labels")


def test_steps_at_a_cut_are_read_from_whole_live_curves() -> None:
    # The profile has b above c. Live inputs of class 1 fall from a to b instead, and requests cut
    # at c, of far higher
    # importance, must not hide that: with them the order of a, b and c stays that of the whole
    # curves.
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
    assert [c.verdict for c in answer.cuts].count("picked") == 1
    assert 0 <= answer.confidence <= 1
    assert all(c.reason for c in answer.cuts)
    # Among the accurate cuts within the limits, none is better by the objective.
    if not answer.use.violations and "no cut is within" not in answer.use.reason:
        for c in answer.cuts:
            if c.verdict in ("slower", "larger") and query.constraints.objective == "bytes":
                assert c.nbytes >= answer.use.nbytes
            elif c.verdict in ("slower", "larger"):
                assert not c.latency_ms < answer.use.latency_ms


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(view=views(), query=_QUERIES, random=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing_and_the_revision_only_itself(
    view: LiveView, query: Query, random: Any
) -> None:
    def shuffled(rows: Sequence[Any]) -> tuple[Any, ...]:
        shuffled_rows = list(rows)
        random.shuffle(shuffled_rows)
        return tuple(shuffled_rows)

    # Rows of one key are merged in the store; here they must differ in their key for the order to
    # be no matter.
    view = replace(
        view,
        importance=tuple({(r.source, r.target): r for r in view.importance}.values()),
        served=tuple({(r.cut, r.group): r for r in view.served}.values()),
        outcomes=tuple({(r.cut, r.class_id): r for r in view.outcomes}.values()),
    )
    reordered = replace(
        view,
        importance=shuffled(view.importance),
        served=shuffled(view.served),
        outcomes=shuffled(view.outcomes),
    )
    later = replace(reordered, revision="5e.3")
    answer, same, other = (
        recommend(toys.manifest(), toys.profile(), v, query) for v in (view, reordered, later)
    )
    assert text(same) == text(answer)
    assert other.revision != answer.revision
    assert text(replace(other, revision=answer.revision)) == text(answer)


def revision(live: LiveView = NONE, version: str = "1.0", **question: Any) -> str:
    manifest = toys.manifest(version=version)
    return recommend(manifest, toys.profile(), live, Query(**question)).revision


def test_equal_questions_have_one_revision_and_other_questions_another() -> None:
    different = [
        revision(),
        revision(classes=(0,)),
        revision(classes=(0, 1)),
        revision(constraints=Constraints(rtt_ms=1)),
        revision(rule="global-maximum"),
        revision(candidate_set="all"),
        revision(group="phones"),
        revision(mix="profile"),
        revision(version="2"),
    ]
    assert len(set(different)) == len(different)
    assert revision() == revision(mix="live")
    assert revision(classes=(1, 0, 1)) == revision(classes=(0, 1))
    one = Constraints(rtt_ms=1)
    assert revision(constraints=Constraints(rtt_ms=1.0)) == revision(constraints=one)


def test_the_revision_is_that_of_the_store_and_of_the_question() -> None:
    question = revision()
    assert re.fullmatch("[0-9a-f]{16}", question)
    before, after = LiveView(revision="5e.1"), LiveView(revision="5e.2")
    assert revision(before) == f"5e.1-{question}"
    assert revision(after) == f"5e.2-{question}"
    assert revision(before, classes=(0,)) == f"5e.1-{revision(classes=(0,))}"


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


def test_bad_rows_raise_errors_of_the_package() -> None:
    with pytest.raises(IsplitError):
        LiveView(
            importance=(
                ImportanceRows("tail", "predicted", np.zeros(2, np.int64), *[np.zeros((3, 5))] * 5),
            )
        )
    with pytest.raises(IsplitError):
        ClassCounts(np.zeros(2, np.int64), np.zeros(3), np.zeros(2))


def test_a_photo_of_sixty_does_not_rule_the_photo_out() -> None:
    """The cheaper of two forms that the calibration set cannot tell apart is taken, and named so."""
    images = (20, 20, 20)
    measurements = (
        toys.measure("input", "webp@90", 300, images, images),
        toys.measure("input", "webp@75", 200, (20, 20, 19), images),
        toys.measure("input", "webp@60", 100, (20, 19, 18), images),
    )
    manifest = toys.manifest(photos=("webp@60", "webp@75", "webp@90"))
    query = Query(constraints=Constraints(bandwidth_mbps=0.01, max_head_macs=0))
    answer = recommend(manifest, toys.profile(measurements=measurements), NONE, query)
    assert str(answer.cut) == "input:webp@75"
    assert (answer.use.undecided, answer.use.photos_needed) == (True, 300)
    assert "differs on 1 of 60 photos, too few to tell; about 300 would" in answer.reason
    rows = {str(row.cut): row for row in answer.cuts}
    assert rows["input:webp@90"].verdict == "slower"
    assert not rows["input:webp@90"].undecided
    assert rows["input:webp@60"].verdict == "inaccurate"
    assert rows["input:webp@60"].photos_needed is None


def test_a_doubt_of_a_weighted_mix_is_a_share() -> None:
    """Photos count by the weight of their class: one miss of sixty is then no whole photo."""
    images = (10, 20, 30)
    measurements = (toys.measure("input", "webp@75", 200, (10, 20, 29), images),)
    limits = Constraints(bandwidth_mbps=0.01, max_head_macs=0)
    query = Query(classes=(0, 1, 2), constraints=limits)
    profile = toys.profile(measurements=measurements)
    answer = recommend(toys.manifest(photos=("webp@75",)), profile, NONE, query)
    (row,) = (row for row in answer.cuts if str(row.cut) == "input:webp@75")
    assert "differs on about 1.2% of photos that weigh as much as 49, too few to tell" in row.reason


def test_few_photos_of_a_class_do_not_hide_what_the_others_show() -> None:
    images = (3, 500, 500)
    measurements = (
        toys.measure("input", "jpeg@90", 300, images, images),
        toys.measure("d", "uint8", 10, (3, 480, 480), images),
    )
    query = Query(classes=(0,), constraints=Constraints(bandwidth_mbps=0.01))
    answer = recommend(toys.manifest(), toys.profile(measurements=measurements), NONE, query)
    rows = {str(row.cut): row for row in answer.cuts}
    assert rows["d:uint8"].verdict == "inaccurate"


def test_an_agreement_of_mostly_other_classes_does_not_claim_their_images() -> None:
    """One image of class 0, none of class 1: the share is that of class 2, which nobody asked for."""
    images = (1, 0, 40)
    measurements = (
        toys.measure("input", "webp@90", 300, images, images),
        toys.measure("input", "webp@75", 200, (1, 0, 20), images),
    )
    query = Query(classes=(0, 1))
    profile = toys.profile(measurements=measurements)
    answer = recommend(toys.manifest(photos=("webp@75", "webp@90")), profile, NONE, query)
    (row,) = (row for row in answer.cuts if str(row.cut) == "input:webp@75")
    assert row.verdict == "inaccurate"
    assert "of images, few of them of these classes (they count as 1), below" in row.reason
