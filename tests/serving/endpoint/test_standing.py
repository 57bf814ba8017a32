"""Picks in force through the store: what several workers see, how traffic that shifts moves them, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toys import advice as toys

from isplit_plugin.advice import Policy, Query, recommend
from isplit_plugin.errors import StoreError
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Observation, Recommendation
from isplit_plugin.serving.endpoint.standing import standing_answer
from isplit_plugin.traffic import Store
from isplit_plugin.traffic.delta import Delta

AT = 1e9
HALF_LIFE = 1000
POLICY = Policy(min_gain=0.05, dwell_s=100.0)
MEASURES = (
    toys.measure("input", "jpeg", 100_000, (1000, 1000, 1000), (1000, 1000, 1000)),
    toys.measure("b", "uint8", 5_000, (1000, 1000, 980), (1000, 1000, 1000)),
    toys.measure("d", "fp32", 50_000, (1000, 1000, 1000), (1000, 1000, 1000)),
)
SHAPES = {0: np.array([1.0, 6.0, 2.0, 4.0, 3.0]), 2: np.array([1.0, 4.0, 2.0, 6.0, 3.0])}
"""Class 0 is worth a bottleneck at b, class 2 at d."""


def profile() -> Profile:
    """b as uint8 is the fastest, and accurate while less than half of the traffic is class 2; else d as fp32."""
    slow = {"head_ms": {**toys.HEAD_MS, "output": 1e4}, "tail_ms": {**toys.TAIL_MS, "input": 1e4}}
    images = {c: np.array([[0.85], [0.95]]) * SHAPES[2 if c == 2 else 0] for c in range(3)}
    return toys.samples(images, measures=MEASURES, **slow)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db", half_life_s=HALF_LIFE) as opened:
        opened.put_network(toys.manifest(), profile())
        yield opened


def send(
    store: Store, classes: np.ndarray, at: float, rng: np.random.Generator, group: str = "all"
) -> None:
    """One request a second, all of them sampled with their whole curves; times are the profile's own."""
    delta = Delta(store.mean0(toys.HASH), store.half_life_s, 3)
    for i, c in enumerate(classes.tolist()):
        delta.add_observation(
            Observation(
                "",
                "b",
                "uint8",
                c,
                0.9,
                5_000,
                0.25,
                8.0,
                at + i,
                head_ms=2.0,
                encode_ms=0.5,
                group=group,
            )
        )
    for c in np.unique(classes).tolist():
        noise = rng.lognormal(0, 0.3, (int((classes == c).sum()), 1))
        when = at + float(np.flatnonzero(classes == c).mean())
        values = SHAPES[c] * noise * rng.lognormal(0, 0.1, (len(noise), 5))
        delta.add_importance(
            [c] * len(noise), values, source="input", target="predicted", group=group, at=when
        )
    store.add(toys.HASH, delta)


def ask(store: Store, group: str = "all") -> Recommendation:
    return standing_answer(store, toys.manifest(), profile(), Query(group=group), POLICY)


def test_the_first_answer_writes_what_is_in_force_and_all_stores_agree(
    store: Store, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    assert ask(store).standing == ()
    assert store.changes(toys.manifest(), "all") == ()
    send(store, np.zeros(50, int), AT, rng)
    first = ask(store)
    revision = store.revision()
    with Store(tmp_path / "store.db") as other:
        assert ask(other) == first
    assert ask(store) == first
    assert store.revision() == revision  # only a change is written
    (change,) = store.changes(toys.manifest(), "all")
    assert (change.kind, change.after, change.at) == ("start", "b as uint8; b", AT + 49)


def test_traffic_that_shifts_fades_and_the_advice_follows(store: Store) -> None:
    rng = np.random.default_rng(1)
    send(store, np.zeros(3000, int), AT, rng)
    assert (ask(store).split_point, ask(store).pick) == ("b", "b")
    old = store.view(toys.HASH).class_counts.weight[0]
    step, followed = 100, {}
    for after in range(step, 4001, step):
        send(store, np.full(step, 2), AT + 3000 + after - step, rng)
        found = ask(store)
        for kind, pick in (("use", found.split_point), ("place", found.pick)):
            if pick == "d":
                followed.setdefault(kind, after)
        # The newest observation is `after` seconds younger than the last one of class 0.
        seen = store.view(toys.HASH).class_counts
        assert seen.weight[seen.class_ids == 0][0] == pytest.approx(
            old * 2 ** -(after / HALF_LIFE), rel=1e-9
        )
    # Half of the weight is class 2's after one half-life (1000 requests); the proof takes some more.
    assert 1000 <= followed["use"] <= 1500
    assert 1000 <= followed["place"] <= 1500
    kinds = [(c.kind, c.before, c.after) for c in store.changes(toys.manifest(), "all")]
    assert sorted(kinds[:2]) == [("place", "b", "d"), ("use", "b as uint8", "d as fp32")]
    assert len(kinds) == 3  # the start, and one change of each


def test_alternating_traffic_does_not_flap(store: Store) -> None:
    rng = np.random.default_rng(2)
    flips, before = 0, None
    for period in range(40):  # 4 half-lives, 100 s of one class after 100 s of the other
        for part in range(4):
            send(store, np.full(25, 2 * (period % 2)), AT + 100 * period + 25 * part, rng)
            found = ask(store)
            plain = recommend(toys.manifest(), profile(), store.view(toys.HASH))
            flips += (plain.split_point, plain.pick) != before
            before = (plain.split_point, plain.pick)
    assert flips >= 20  # what the estimates alone would have done
    assert found.standing[0].changes <= 3  # the start, and at most one change of each


def test_groups_are_in_force_for_themselves(store: Store) -> None:
    rng = np.random.default_rng(3)
    send(store, np.zeros(2000, int), AT, rng, "day")
    send(store, np.full(2000, 2), AT, rng, "night")
    assert (ask(store, "day").split_point, ask(store, "night").split_point) == ("b", "d")
    assert [c.kind for c in store.changes(toys.manifest(), "day")] == ["start"]
    assert {c.kind for c in store.changes(toys.manifest(), "night")} == {"start", "use", "place"}
    assert [(g.name, g.requests) for g in store.groups(toys.HASH)] == [
        ("day", 2000),
        ("night", 2000),
    ]


def test_a_group_that_nobody_is_in_leaves_nothing_behind(store: Store) -> None:
    send(store, np.zeros(50, int), AT, np.random.default_rng(4))
    for name in ("ghost", "other", "x" * 64):
        assert ask(store, name).split_point == "b"
        assert store.changes(toys.manifest(), name) == ()
        assert store.held(toys.manifest(), name).standing is None


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
        found = ask(store)
        assert (found.split_point, found.standing[0].rival) == ("b", "d as fp32")
        assert ask(store) == found
    assert ask(store).split_point == "d"


def test_a_damaged_state_is_an_error_that_names_it(store: Store) -> None:
    send(store, np.zeros(50, int), AT, np.random.default_rng(6))
    ask(store)
    with store._db.write() as (connection, _):
        connection.exec_driver_sql("UPDATE isplit_standing SET state = 'no json'")
    with pytest.raises(StoreError, match="standing"):
        ask(store)
