"""The standing pick through the store: what several workers see, how traffic that shifts moves
them, and what does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toys import advice as toys

from isplit_plugin.advice import Query, SwitchingPolicy, recommend
from isplit_plugin.errors import StoreError
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Observation, Recommendation, StandingPick
from isplit_plugin.serving.endpoint.standing import standing_answer
from isplit_plugin.traffic import Delta, ImportanceSample, Store

AT = 1e9
HALF_LIFE = 1000
POLICY = SwitchingPolicy(min_gain=0.05, dwell_s=100.0)
B_UINT8 = Cut("b", "uint8")
D_FP32 = Cut("d", "fp32")
MEASUREMENTS = (
    toys.measure("input", "jpeg@90", 100_000, (1000, 1000, 1000), (1000, 1000, 1000)),
    toys.measure("b", "uint8", 5_000, (1000, 1000, 980), (1000, 1000, 1000)),
    toys.measure("d", "fp32", 50_000, (1000, 1000, 1000), (1000, 1000, 1000)),
)
SHAPES = {0: np.array([1.0, 6.0, 2.0, 4.0, 3.0]), 2: np.array([1.0, 4.0, 2.0, 6.0, 3.0])}
"""Class 0 is worth a bottleneck at b, class 2 at d."""


def profile() -> Profile:
    """b:uint8 is the fastest, and accurate while less than half of the traffic is class 2; else
    d:fp32.
    """
    slow = {"head_ms": {**toys.HEAD_MS, "output": 1e4}, "tail_ms": {**toys.TAIL_MS, "input": 1e4}}
    images = {c: np.array([[0.85], [0.95]]) * SHAPES[2 if c == 2 else 0] for c in range(3)}
    return toys.samples(images, measurements=MEASUREMENTS, **slow)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db", half_life_s=HALF_LIFE) as opened:
        opened.put_network(toys.manifest(), profile())
        yield opened


def send(
    store: Store, classes: np.ndarray, at: float, rng: np.random.Generator, group: str = "all"
) -> None:
    """One request a second, all of them sampled with their whole curves; times are the profile's
    own.
    """
    delta = Delta(store.mean0(toys.HASH), store.half_life_s, 3)
    for i, c in enumerate(classes.tolist()):
        observation = Observation(
            request_id="",
            cut=B_UINT8,
            class_id=c,
            confidence=0.9,
            bytes_received=5_000,
            decode_ms=0.25,
            tail_ms=8.0,
            at=at + i,
            head_ms=2.0,
            encode_ms=0.5,
            group=group,
        )
        delta.add_observation(observation)
    for c in np.unique(classes).tolist():
        noise = rng.lognormal(0, 0.3, (int((classes == c).sum()), 1))
        when = at + float(np.flatnonzero(classes == c).mean())
        for curve in SHAPES[c] * noise * rng.lognormal(0, 0.1, (len(noise), 5)):
            delta.add_importance(
                ImportanceSample(class_id=c, curve=curve, source="input", group=group, at=when)
            )
    store.add(toys.HASH, delta)


def ask(store: Store, group: str = "all") -> Recommendation:
    return standing_answer(store, toys.manifest(), profile(), Query(group=group), POLICY)


def standing_pick(recommendation: Recommendation) -> StandingPick:
    assert recommendation.standing is not None
    return recommendation.standing


def test_the_first_answer_writes_what_is_in_force_and_all_stores_agree(
    store: Store, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    assert ask(store).standing is None
    assert store.changes(toys.manifest(), "all") == ()
    send(store, np.zeros(50, int), AT, rng)
    first = ask(store)
    revision = store.revision()
    with Store(tmp_path / "store.db") as other:
        assert ask(other) == first
    assert ask(store) == first
    assert store.revision() == revision  # only a change is written
    (change,) = store.changes(toys.manifest(), "all")
    assert (change.kind, change.after, change.at) == ("start", "b:uint8", AT + 49)


def test_traffic_that_shifts_fades_and_the_advice_follows(store: Store) -> None:
    rng = np.random.default_rng(1)
    send(store, np.zeros(3000, int), AT, rng)
    assert ask(store).cut == B_UINT8
    old = store.view(toys.HASH).class_counts.weight[0]
    step = 100
    followed: int | None = None
    for after in range(step, 4001, step):
        send(store, np.full(step, 2), AT + 3000 + after - step, rng)
        if ask(store).cut == D_FP32 and followed is None:
            followed = after
        # The newest observation is `after` seconds younger than the last one of class 0.
        counts = store.view(toys.HASH).class_counts
        assert counts.weight[counts.class_ids == 0][0] == pytest.approx(
            old * 2 ** -(after / HALF_LIFE), rel=1e-9
        )
    # Half of the weight is class 2's after one half-life (1000 requests); the proof takes some
    # more.
    assert followed is not None
    assert 1000 <= followed <= 1500
    assert ask(store).cut == D_FP32
    # The start, and one change.
    assert [(c.kind, c.before, c.after) for c in store.changes(toys.manifest(), "all")] == [
        ("switch", "b:uint8", "d:fp32"),
        ("start", None, "b:uint8"),
    ]


def test_alternating_traffic_does_not_flap(store: Store) -> None:
    rng = np.random.default_rng(2)
    flips = 0
    before: Cut | None = None
    for period in range(40):  # 4 half-lives, 100 s of one class after 100 s of the other
        for part in range(4):
            send(store, np.full(25, 2 * (period % 2)), AT + 100 * period + 25 * part, rng)
            answer = ask(store)
            estimated = recommend(toys.manifest(), profile(), store.view(toys.HASH)).cut
            flips += estimated != before
            before = estimated
    assert flips >= 20  # what the estimates alone would have done
    assert standing_pick(answer).changes <= 2  # the start, and at most one switch


def test_groups_have_standing_picks_of_their_own(store: Store) -> None:
    rng = np.random.default_rng(3)
    send(store, np.zeros(2000, int), AT, rng, "day")
    send(store, np.full(2000, 2), AT, rng, "night")
    assert (ask(store, "day").cut, ask(store, "night").cut) == (B_UINT8, D_FP32)
    assert [c.kind for c in store.changes(toys.manifest(), "day")] == ["start"]
    assert [c.kind for c in store.changes(toys.manifest(), "night")] == ["switch", "start"]
    assert [(g.name, g.requests) for g in store.groups(toys.HASH)] == [
        ("day", 2000),
        ("night", 2000),
    ]


def test_a_group_that_nobody_is_in_leaves_nothing_behind(store: Store) -> None:
    send(store, np.zeros(50, int), AT, np.random.default_rng(4))
    for name in ("ghost", "other", "x" * 64):
        assert ask(store, name).cut == B_UINT8
        assert store.changes(toys.manifest(), name) == ()
        assert store.standing_snapshot(toys.manifest(), name).state is None


def test_a_store_that_takes_no_writes_keeps_what_is_in_force(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    send(store, np.zeros(200, int), AT, rng)
    ask(store)
    send(store, np.full(4000, 2), AT + 200, rng)

    def full(*_: object) -> bool:
        raise StoreError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_standing", full)
        frozen = ask(store)
        assert (frozen.cut, standing_pick(frozen).rival) == (B_UINT8, D_FP32)
        assert "takes no writes" in standing_pick(frozen).reason
        assert ask(store) == frozen
    assert ask(store).cut == D_FP32


def test_a_damaged_state_is_an_error_that_names_it(store: Store) -> None:
    send(store, np.zeros(50, int), AT, np.random.default_rng(6))
    ask(store)
    with store._db.write() as (connection, _):
        connection.exec_driver_sql("UPDATE isplit_standing SET state = 'no json'")
    with pytest.raises(StoreError, match="standing"):
        ask(store)
