"""Picks in force: they stay under noise, they follow proven changes, and settling twice changes nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from toys import advice as toys
from toys.live_views import views

from isplit_plugin.advice import (
    Change,
    ClassCounts,
    Constraints,
    ImportanceRows,
    LiveView,
    OutcomeRow,
    Policy,
    Query,
    ServedRow,
    Settlement,
    Standing,
    Times,
    is_held,
    recommend,
    settle,
)
from isplit_plugin.advice.anytime import factor, median_ranks
from isplit_plugin.advice.evidence import ALPHA, Importance
from isplit_plugin.advice.mix import Mix
from isplit_plugin.advice.placement import local_maxima
from isplit_plugin.advice.standing import prove_place
from isplit_plugin.errors import StoreError
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Recommendation

AT = 1e9
HALF_LIFE = 7 * 86_400.0
POINTS = 5
MEASURES = (
    toys.measure("input", "jpeg", 100_000, (1000, 1000, 1000), (1000, 1000, 1000)),
    toys.measure("b", "uint8", 5_000, (1000, 1000, 980), (1000, 1000, 1000)),
    toys.measure("d", "fp32", 50_000, (1000, 1000, 1000), (1000, 1000, 1000)),
)
NO_PAIRS = (np.zeros((POINTS, POINTS)), np.zeros((POINTS, POINTS)))


def profile(**changes: Any) -> Profile:
    """b as uint8 takes 32.75 ms and agrees on 98 % of class 2; d as fp32 takes 50.75 ms and always agrees."""
    slow = {"head_ms": {**toys.HEAD_MS, "output": 1e4}, "tail_ms": {**toys.TAIL_MS, "input": 1e4}}
    return toys.profile(**{"measures": MEASURES, **slow, **changes})


def view(*, mix: tuple[float, float, float] = (100.0, 0.0, 0.0), **changes: Any) -> LiveView:
    weight = np.asarray(mix, np.float64)
    seen = ClassCounts(np.arange(3, dtype=np.int64), weight, weight)
    values: dict[str, Any] = {"class_counts": seen, "as_of": AT, "observations": int(weight.sum())}
    return LiveView(**{**values, **changes})


def held(
    live: LiveView, standing: Standing | None, *, pairs: Any = NO_PAIRS, **changes: Any
) -> Settlement:
    told = changes.pop("profile", None) or profile()
    policy = changes.pop("policy", None)
    query = changes.pop("query", Query())
    manifest = toys.manifest(**changes)
    return settle(
        manifest, told, live, query, standing, pairs=pairs, half_life_s=HALF_LIFE, policy=policy
    )


# ------------------------------------------------------------------------------------------------------ the rules


def test_without_traffic_nothing_is_put_into_force() -> None:
    found = held(LiveView.empty(), None)
    assert (found.standing, found.changes) == (None, ())
    assert found.recommendation == recommend(toys.manifest(), profile(), LiveView.empty())


def test_the_first_picks_are_the_profiles() -> None:
    found = held(
        view(mix=(0.0, 0.0, 10.0)), None
    )  # ten requests of class 2 do not prove that there are no others
    assert found.standing is not None
    assert found.standing.use == ("b", "uint8")
    assert found.standing.place == "d"
    assert [(c.kind, c.number, c.after) for c in found.changes] == [("start", 1, "b as uint8; d")]


def test_settling_again_on_the_same_contents_changes_nothing() -> None:
    for mix in ((100.0, 0.0, 0.0), (0.0, 0.0, 10.0), (0.0, 0.0, 9000.0)):
        first = held(view(mix=mix), None)
        again = held(view(mix=mix), first.standing)
        assert again.changes == ()
        assert again.standing == first.standing
        assert again.recommendation == first.recommendation


def test_noise_in_the_mix_is_no_reason_to_switch_and_the_answer_says_why() -> None:
    start = held(view(), None).standing
    found = held(
        view(mix=(40.0, 0.0, 60.0), as_of=AT + 60), start
    )  # 0.988 of 100 requests, 0.99 is asked for
    assert found.changes == ()
    answer = found.recommendation
    assert (answer.split_point, answer.codec) == ("b", "uint8")
    assert recommend(toys.manifest(), profile(), view(mix=(40.0, 0.0, 60.0))).split_point == "d"
    rival = next(c for c in answer.choices if (c.split_point, c.codec) == ("d", "fp32"))
    assert rival.verdict == "unproven"
    assert (
        "in force; d as fp32 is estimated to be better, but not proven (that the other one is below"
        in answer.reason
    )
    use = answer.standing[0]
    assert (use.kind, use.pick, use.rival, use.since, use.changes) == (
        "use",
        "b as uint8",
        "d as fp32",
        None,
        1,
    )
    assert Recommendation.from_json(answer.to_json()) == answer


def test_a_proven_change_of_the_mix_switches_once() -> None:
    start = held(view(), None).standing
    found = held(view(mix=(400.0, 0.0, 9600.0), as_of=AT + 60), start)
    assert found.standing is not None
    assert found.standing.use == ("d", "fp32")
    (change,) = found.changes
    assert (change.kind, change.before, change.after, change.at) == (
        "use",
        "b as uint8",
        "d as fp32",
        AT + 60,
    )
    assert "below the accuracy tolerance" in change.evidence
    assert (found.recommendation.split_point, found.recommendation.standing[0].since) == (
        "d",
        AT + 60,
    )


def test_the_dwell_time_is_that_of_the_traffic() -> None:
    start = held(view(), None).standing
    moved = held(view(mix=(0.0, 0.0, 1e4), as_of=AT + 60), start).standing
    back = view(mix=(1e6, 0.0, 0.0), as_of=AT + 60 + 899)
    found = held(back, moved)
    assert found.changes == ()
    assert "less than 900" in found.recommendation.standing[0].reason
    later = held(replace(back, as_of=AT + 60 + 900), moved)
    assert [c.after for c in later.changes] == ["b as uint8"]
    assert held(back, moved, policy=Policy(dwell_s=10.0)).standing == replace(
        later.standing,
        use_since=AT + 959.0,  # type: ignore[type-var]
    )


def served(point: str, codec: str, head: tuple[float, float, float]) -> ServedRow:
    times = Times(1000.0, head[1], head[1], head[0], head[2])
    return ServedRow(point, codec, "all", 1000.0, 0.0, 1000.0 * 5_000, head=times)


@pytest.mark.parametrize(
    ("low", "high", "gain", "proven"),
    [(29.0, 31.0, 0.05, True), (3.0, 31.0, 0.05, False), (29.0, 31.0, 0.6, False)],
)
def test_a_rival_must_be_faster_at_all_ends_of_the_intervals(
    low: float, high: float, gain: float, proven: bool
) -> None:
    # The device needs 30 ms for b's head where the profile says 2; for d it is as the profile says.
    start = held(view(), None).standing
    rows = (served("b", "uint8", (low, 30.0, high)), served("d", "fp32", (4.0, 4.0, 4.0)))
    found = held(view(served=rows, as_of=AT + 60), start, policy=Policy(min_gain=gain))
    assert recommend(toys.manifest(), profile(), view(served=rows)).split_point == "d"
    assert [c.after for c in found.changes] == (["d as fp32"] if proven else [])


def test_times_without_intervals_prove_nothing() -> None:
    start = held(view(), None).standing
    nan = math.nan
    rows = (served("b", "uint8", (nan, 30.0, nan)), served("d", "fp32", (nan, 4.0, nan)))
    assert held(view(served=rows, as_of=AT + 60), start).changes == ()


def test_labels_prove_what_the_profile_could_not_know() -> None:
    start = held(view(mix=(500.0, 0.0, 0.0)), None).standing
    rows = (
        OutcomeRow("b", "uint8", 0, 2000.0, 2000.0, 1600.0),
        OutcomeRow("d", "fp32", 0, 2000.0, 2000.0, 1990.0),
    )
    live = view(mix=(4000.0, 0.0, 0.0), outcomes=rows, as_of=AT + 60)
    found = held(live, start)
    assert [c.after for c in found.changes] == ["d as fp32"]
    loser = next(
        c for c in found.recommendation.choices if (c.split_point, c.codec) == ("b", "uint8")
    )
    assert (loser.verdict, loser.agreement_source) == ("inaccurate", "live labels")
    few = tuple(
        r._replace(labelled=r.labelled / 60, correct=r.correct / 60) for r in rows
    )  # 33 labels each
    assert held(replace(live, outcomes=few), start).changes == ()


def test_what_is_not_deployed_any_more_is_left_at_once() -> None:
    start = held(view(), None).standing
    found = held(view(as_of=AT + 1), start, deployed=("d",))
    assert [c.kind for c in found.changes] == ["start"]
    assert found.standing is not None
    assert found.standing.use == ("d", "fp32")
    assert (found.standing.number, found.standing.origin) == (2, AT)


def test_without_a_profile_the_first_traffic_decides() -> None:
    manifest = toys.manifest()
    found = settle(manifest, None, view(), Query(), None, pairs=NO_PAIRS, half_life_s=HALF_LIFE)
    assert found.standing is not None
    assert "no profile" in found.changes[0].evidence
    assert found.recommendation.split_point == found.standing.use[0]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), True),
        (Query(group="lab"), True),
        (Query(mix="live"), True),
        (Query(mix="profile"), False),
        (Query(classes=(1,)), False),
        (Query(rule="global-maximum"), False),
        (Query(constraints=Constraints(bandwidth_mbps=5)), False),
    ],
)
def test_only_the_plain_question_is_held(query: Query, expected: bool) -> None:
    assert is_held(query) is expected


def test_states_and_changes_survive_json() -> None:
    standing = Standing(("b", "uint8"), None, AT, "basis", 3, AT + 1, None)
    assert Standing.from_json(standing.to_json()) == standing
    change = Change(3, "use", AT, "a", "b", "words", 10)
    assert Change.from_json(change.to_json()) == change
    for raw in ("", "[]", "{}", '{"use": 1}', '{"use": ["a", "b"], "more": 1}'):
        with pytest.raises(StoreError, match="standing"):
            Standing.from_json(raw)
    with pytest.raises(StoreError, match="change"):
        Change.from_json({"more": 1})


_MATRIX = arrays(
    np.float64, (POINTS, POINTS), elements=st.floats(-1e308, 1e308) | st.floats(0, 1e6)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    live=views(),
    within=_MATRIX,
    dof=_MATRIX,
    before=st.sampled_from([None, ("b", "uint8"), ("gone", "x")]),
)
def test_any_view_is_settled(
    live: LiveView, within: np.ndarray, dof: np.ndarray, before: Any
) -> None:
    standing = None if before is None else Standing(before, "b", AT, "", 1)
    for told in (profile(), None):
        found = settle(
            toys.manifest(),
            told,
            live,
            Query(),
            standing,
            pairs=(within, dof),
            half_life_s=HALF_LIFE,
        )
        again = settle(
            toys.manifest(),
            told,
            live,
            Query(),
            found.standing,
            pairs=(within, dof),
            half_life_s=HALF_LIFE,
        )
        assert again == (found.recommendation, found.standing, ())
        assert Recommendation.from_json(
            json.loads(json.dumps(found.recommendation.to_json(), allow_nan=False))
        )


# ------------------------------------------------------------------------------------------------------ A/A runs


def curves(
    rng: np.random.Generator, size: int, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Importance of images: classes (size,) and values (size, P), skewed, neighbours correlated by about 0.87."""
    classes = rng.integers(0, 3, size)
    shared, own = rng.normal(0, 1, (size, 1)), rng.normal(0, 1, (size, POINTS))
    noise = np.exp(0.6 * shared + 0.23 * own)
    return classes, levels * (0.5 + 0.5 * classes[:, None]) * noise / np.exp(
        0.5 * (0.6**2 + 0.23**2)
    )


class Sums:
    """Undecayed sums of all prefixes of one run that end at ``ends``, as the store would tell them."""

    def __init__(
        self, classes: np.ndarray, values: np.ndarray, mean0: np.ndarray, ends: np.ndarray
    ) -> None:
        self.mean0 = mean0
        onehot = np.eye(3)[classes]
        x = values - mean0
        starts = np.concatenate([[0], ends[:-1]])
        pieces = [slice(a, b) for a, b in zip(starts, ends, strict=True)]
        self.count = np.cumsum([onehot[s].sum(0) for s in pieces], axis=0)
        self.sum1 = np.cumsum([onehot[s].T @ x[s] for s in pieces], axis=0)
        self.sum2 = np.cumsum([onehot[s].T @ (x[s] ** 2) for s in pieces], axis=0)
        self.products = np.cumsum([x[s].T @ x[s] for s in pieces], axis=0)

    def at(self, i: int) -> tuple[LiveView, tuple[np.ndarray, np.ndarray], Mix]:
        count = np.repeat(self.count[i][:, None], POINTS, axis=1)
        ids = np.arange(3, dtype=np.int64)
        rows = ImportanceRows(
            "probe", "predicted", ids, count, count, count, self.sum1[i], self.sum2[i]
        )
        within = self.products[i] - (self.sum1[i] / self.count[i][:, None]).T @ self.sum1[i]
        dof = np.full((POINTS, POINTS), self.count[i].sum() - 3)
        seen = ClassCounts(ids, self.count[i], self.count[i])
        size = int(self.count[i].sum())
        live = LiveView((rows,), class_counts=seen, as_of=AT + size, observations=size)
        return live, (within, dof), Mix("live", ids, self.count[i] / size)


RUNS, SIZE = 200, 10_000
ENDS = np.unique(np.geomspace(40, SIZE, 40).astype(int))


def places(levels: np.ndarray, seed: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """For each run: after how many observations d replaces b (or the reverse), 0 for never; and how often the plain
    estimate names another place than before."""
    rng = np.random.default_rng(seed)
    told = toys.profile()
    members, names = list(range(POINTS)), list(toys.NAMES)
    first, flips = np.zeros(RUNS), np.zeros(RUNS)
    for run in range(RUNS):
        sums = Sums(*curves(rng, SIZE, levels), told.mean0, ENDS)
        before = "b"
        for i in range(len(ENDS)):
            live, pairs, mix = sums.at(i)
            mean = mix.weights @ (told.mean0 + sums.sum1[i] / sums.count[i][:, None])
            best = np.flatnonzero(local_maxima(mean))
            if not len(best):
                continue
            wanted = names[best[np.argmax(mean[best])]]
            flips[run] += wanted != before
            before = wanted
            if wanted == "b" or first[run]:
                continue
            importance = Importance.of(told, live, mix, pairs, half_lives=0.0)
            if prove_place(importance, members, names, wanted, "b", gain).proven:
                first[run] = ENDS[i]
    return first, flips


def test_places_that_are_equal_are_not_switched_in_200_runs() -> None:
    first, flips = places(np.array([1.0, 5.0, 2.0, 5.0, 1.0]), seed=5, gain=0.0)
    assert (first > 0).mean() < ALPHA
    assert flips.sum() > RUNS  # without evidence the advice would flap


def test_a_better_place_is_found_within_1000_observations() -> None:
    first, _ = places(np.array([1.0, 5.0, 2.0, 6.0, 1.0]), seed=6, gain=0.05)
    assert (first > 0).all()
    assert np.quantile(first, 0.95) < 1000


def times_at(values: np.ndarray) -> Times:
    low, high = median_ranks(len(values))
    return Times(
        float(len(values)),
        float(values.mean()),
        float(np.quantile(values, 0.5, method="inverted_cdf")),
        float(np.quantile(values, low)) if low > 0 else 0.0,
        float(np.quantile(values, high)) if high < 1 else math.inf,
    )


def choosing(faster: float, seed: int, runs: int) -> tuple[int, int]:
    """In how many of ``runs`` runs the choice b is left for d, whose head takes ``faster`` times as long, and how often
    the plain estimate changes its mind."""
    rng = np.random.default_rng(seed)
    even = {"head_ms": {}, "tail_ms": {}}
    same = (
        toys.measure("b", "fp32", 100, (9, 9, 9), (9, 9, 9)),
        toys.measure("d", "fp32", 100, (9, 9, 9), (9, 9, 9)),
    )
    tails = {"tail_ms": dict.fromkeys(toys.HEAD_MS, 5.0)}
    told = profile(measures=same, **{**even, **tails})
    changed = flips = 0
    for _ in range(runs):
        heads = {"b": rng.lognormal(3, 0.5, SIZE), "d": faster * rng.lognormal(3, 0.5, SIZE)}
        standing = Standing(("b", "fp32"), "d", AT, "", 1)
        before = "b"
        for i, end in enumerate((100, 300, 1000, 3000, SIZE)):
            rows = tuple(
                ServedRow(p, "fp32", "all", float(end), 0.0, 100.0 * end, head=times_at(x[:end]))
                for p, x in heads.items()
            )
            live = view(
                mix=(float(end), 0.0, 0.0), served=rows, as_of=AT + 60.0 * i, observations=2 * end
            )
            if i == 0:  # the basis of this deployment
                first = held(live, None, profile=told, codecs=("fp32",)).standing
                assert first is not None
                standing = replace(standing, basis=first.basis)
            found = held(live, standing, profile=told, codecs=("fp32",), policy=Policy(0.0, 0.0))
            plain = recommend(toys.manifest(codecs=("fp32",)), told, live).split_point
            flips += plain != before
            before = plain
            changed += any(c.kind == "use" for c in found.changes)
            if found.changes:
                break
    return changed, flips


def test_choices_that_are_equally_fast_are_not_switched() -> None:
    changed, flips = choosing(1.0, seed=7, runs=RUNS)
    assert changed < ALPHA * RUNS
    assert flips > RUNS / 2


def test_a_faster_choice_is_found() -> None:
    changed, _ = choosing(0.7, seed=8, runs=20)
    assert changed == 20


def test_a_mix_on_the_edge_of_the_tolerance_is_not_switched() -> None:
    # Half of the traffic is class 2: b as uint8 agrees on exactly as many images as the tolerance asks for.
    rng = np.random.default_rng(9)
    changed = flips = 0
    for _ in range(RUNS):
        ones = np.cumsum(rng.random(SIZE) < 0.5)
        standing, before = held(view(), None).standing, "b"
        for i, end in enumerate((30, 100, 300, 1000, 3000, SIZE)):
            share = (float(ones[end - 1]), 0.0, float(end - ones[end - 1]))
            found = held(view(mix=share, as_of=AT + 60.0 * i), standing, policy=Policy(0.0, 0.0))
            plain = "d" if share[2] > share[0] else "b"
            flips += plain != before
            before = plain
            changed += any(c.kind == "use" for c in found.changes)
            if found.changes:
                break
    assert changed < ALPHA * RUNS
    assert flips > RUNS


# ------------------------------------------------------------------------------------------------ evidence by hand


def one_class(
    n: float, p: float, q: float, *, source: str = "input", **changes: Any
) -> ImportanceRows:
    """``n`` observations of class 0, their mean ``p`` at d and ``q`` elsewhere; the shift is the toy's."""
    mean = np.full((1, POINTS), float(q))
    mean[0, 3] = p
    count = np.full((1, POINTS), n)
    sum1 = n * (mean - toys.profile().mean0)
    values = {
        "count": count,
        "weight": count,
        "weight2": count,
        "sum1": sum1,
        "sum2": sum1**2 / n,
        **changes,
    }
    return ImportanceRows(source, "predicted", np.zeros(1, np.int64), **values)  # type: ignore[arg-type]


def above(*rows: ImportanceRows, variance: float = 1.0, correlation: float = 0.0) -> Any:
    dof = np.full((POINTS, POINTS), 999.0)
    within = 999.0 * variance * (correlation + (1 - correlation) * np.eye(POINTS))
    mix = Mix("asked", np.zeros(1, np.int64), np.ones(1))
    importance = Importance.of(toys.profile(), LiveView(rows), mix, (within, dof), 0.0)
    return importance.above(3, 1, 0.0, 0.01)


def test_the_bound_by_hand() -> None:
    n, variance = 1000.0, 1.0
    reach = float(factor(n, 0.01)) * math.sqrt(2 * variance / n)  # two independent points
    proven = above(one_class(n, 5 + reach * 1.001, 5))
    assert proven.proven
    assert (
        proven.words
        == f"{1 + reach / 5:.3g} (1 at least) times as important as b on 1000 observations"
    )
    assert not above(one_class(n, 5 + reach * 0.999, 5)).proven


def test_points_that_move_together_are_told_apart_sooner() -> None:
    rows = one_class(1000.0, 5.1, 5.0)
    assert not above(rows).proven
    assert above(rows, correlation=0.87).proven


def test_there_are_no_more_observations_than_devices() -> None:
    few = np.full((1, POINTS), 40.0)
    assert above(one_class(1000.0, 5.5, 5.0)).proven
    assert not above(one_class(1000.0, 5.5, 5.0, devices=few)).proven


def test_different_requests_are_not_compared() -> None:
    # Split traffic knows d (and everything after it) on requests of its own; 200 whole images know both points.
    cut = np.where(np.arange(POINTS) >= 3, 1000.0, 0.0)[None]
    split = one_class(1000.0, 9.0, 5.0, source="tail", count=cut, weight=cut, weight2=cut)
    whole = one_class(200.0, 5.0, 5.0)
    assert above(split).words == "too few observations that know both points"
    told = above(split, whole)
    assert not told.proven
    assert told.words.startswith("1 (")
    assert told.words.endswith("on 200 observations")


def test_a_hundred_observations_are_the_least() -> None:
    assert above(one_class(99.0, 500.0, 5.0)).words == "99 observations, it takes 100"
    assert above(one_class(100.0, 500.0, 5.0)).proven
