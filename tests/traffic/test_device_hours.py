"""Over days a device weighs about one, however long it talks; the live mix counts devices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from toys.traffic import CLASSES, NETWORK, POINTS, manifest, observation, profile, sample

from isplit_plugin.advice.evidence import live_size
from isplit_plugin.traffic import Delta, Recorder, Store
from isplit_plugin.traffic.aggregates.devices import UNSIGNED
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S
from isplit_plugin.traffic.rows import device_hours, tables
from isplit_plugin.traffic.rows import mix as mix_rows
from isplit_plugin.traffic.rows.device_hours import Damping, HourKey

HALF_LIFE = DEFAULT_HALF_LIFE_S
HOUR = 3600
AT = 1_000_000_800.0  # a full hour
assert AT % HOUR == 0
LOUD, QUIET = 0, 1
"""What the loud device sees, and what all others see."""


def delta() -> Delta:
    return Delta(profile().mean0, HALF_LIFE, CLASSES, by_device=True)


def add(to: Delta, device: str | None, class_id: int, at: float, number: int = 1) -> None:
    for i in range(number):
        to.add_observation(observation(i, device=device, class_id=class_id, at=at))


def shares(store: Store, group: str = "all") -> dict[int, float]:
    counts = store.view(NETWORK, group).class_counts
    weights = counts.weight / counts.weight.sum()
    return dict(zip(counts.class_ids.tolist(), weights.tolist(), strict=True))


def talk(store: Store, days: int) -> None:
    """One device around the clock, twenty requests an hour; fifty once a day."""
    for hour in range(24 * days):
        at = AT + hour * HOUR
        one = delta()
        add(one, "loud", LOUD, at, 20)
        one.add_importance(sample(np.full(POINTS, 10.0), at=at, device="loud"))
        for quiet in range(50):
            if quiet % 24 == hour % 24:
                add(one, f"quiet{quiet}", QUIET, at)
                one.add_importance(sample(np.full(POINTS, 1.0), at=at, device=f"quiet{quiet}"))
        store.add(NETWORK, one)


@pytest.mark.parametrize("days", [2, 5])
def test_a_device_around_the_clock_weighs_about_as_much_as_one_of_fifty(
    store: Store, days: int
) -> None:
    talk(store, days)
    (rows,) = store.view(NETWORK).importance
    mean = profile().mean0[0] + rows.sum1[0, 0] / rows.weight[0, 0]
    loud = (mean - 1) / 9  # the loud device says 10, all others 1
    assert 1 / 51 * 0.8 < loud < 0.06  # by hours it would be 24 / 74
    assert 1 / 51 * 0.8 < shares(store)[LOUD] < 0.06  # by requests it would be 0.91


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=60, unique=True),
    st.integers(0, 60),
)
def test_levels_are_the_decayed_number_of_hours(hours: list[int], split: int) -> None:
    key = HourKey("predicted", 0, "a")
    buckets = [int(AT) + hour * HOUR for hour in sorted(hours)]
    first = Damping([(key, bucket, None) for bucket in buckets[:split]], HALF_LIFE)
    stored = first.levels.get(key)
    second = Damping([(key, bucket, stored) for bucket in buckets[split:]], HALF_LIFE)
    for i, bucket in enumerate(buckets):
        number = sum(2.0 ** ((before - bucket) / HALF_LIFE) for before in buckets[:i])
        part = first if i < split else second
        assert part.factor(key, bucket) == pytest.approx(1 / (1 + number), rel=1e-6)


def test_a_mix_counts_devices_and_not_requests(store: Store) -> None:
    one = delta()
    add(one, "a", 0, AT, 90)
    add(one, "a", 2, AT, 10)
    add(one, "b", 1, AT, 1)
    add(one, None, 3, AT, 5000)
    add(one, None, 4, AT, 5000)
    store.add(NETWORK, one)
    expected = {0: 0.9, 2: 0.1, 1: 1.0, 3: 0.5, 4: 0.5}
    assert shares(store) == pytest.approx({c: w / 3 for c, w in expected.items()})
    view = store.view(NETWORK)
    assert view.class_counts.count.tolist() == [90, 1, 10, 5000, 5000]
    assert live_size(view) == pytest.approx(3.0)


def test_closing_a_bucket_changes_no_share(store: Store) -> None:
    one = delta()
    for hour in range(2):
        add(one, "a", hour, AT + hour * HOUR, 7)
        add(one, "b", 1, AT + hour * HOUR, 3)
    store.add(NETWORK, one)
    assert store.check()["isplit_mix"] == 0
    before, size = shares(store), live_size(store.view(NETWORK))
    late = delta()
    late.add_drops(observation().cut, "all", AT, 1)
    late.as_of = AT + 9 * HOUR
    store.add(NETWORK, late)
    assert store.check()["isplit_mix"] == 2
    assert store.check()["isplit_device_class"] == 0
    assert shares(store) == pytest.approx(before)
    assert live_size(store.view(NETWORK)) == pytest.approx(size)


def test_any_partition_of_the_flushes_gives_the_same_mix(store: Store) -> None:
    rng = np.random.default_rng(1)
    whole, parts = delta(), [delta() for _ in range(5)]
    for i in range(200):
        device, class_id = f"d{rng.integers(0, 4)}", int(rng.integers(0, CLASSES))
        at = AT + HOUR * (i // 100) + i
        for to in (whole, parts[(i // 100) * 2 + int(rng.integers(0, 2))]):
            add(to, device, class_id, at)
    store.put_network(manifest("other", model="other"), profile(network="other"))
    store.add("other", whole)
    for part in parts:
        store.add(NETWORK, part)
    one, many = (store.view(network).class_counts for network in ("other", NETWORK))
    assert one.class_ids.tolist() == many.class_ids.tolist()
    assert one.weight == pytest.approx(many.weight, rel=1e-12)
    assert one.weight2 == pytest.approx(many.weight2, rel=1e-12)


def test_a_group_has_the_votes_of_its_own_requests(store: Store) -> None:
    one = delta()
    for group, class_id, number in (("door", 0, 3), ("yard", 1, 1)):
        for i in range(number):
            one.add_observation(observation(i, device="a", class_id=class_id, at=AT, group=group))
    store.add(NETWORK, one)
    assert shares(store) == pytest.approx({0: 0.75, 1: 0.25})
    assert shares(store, "door") == pytest.approx({0: 1.0})


def test_without_devices_requests_count(store: Store) -> None:
    one = Delta(profile().mean0, HALF_LIFE, CLASSES)
    add(one, "a", 0, AT, 9)
    add(one, "b", 1, AT, 1)
    store.add(NETWORK, one)
    assert shares(store) == pytest.approx({0: 0.9, 1: 0.1})
    assert store.view(NETWORK).class_counts.weight2 is None


def crowd(store: Store, hours: int) -> Iterator[dict[str, int]]:
    """A device around the clock, and forty new ones each hour; the rows after each hour."""
    for hour in range(hours):
        one = delta()
        add(one, "loud", LOUD, AT + hour * HOUR)
        for i in range(40):
            add(one, f"d{hour}-{i}", QUIET, AT + hour * HOUR)
        store.add(NETWORK, one)
        yield store.check()


def test_devices_that_were_heard_most_stay_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_hours, "MAX_DEVICE_HOURS", 10)
    for rows in crowd(store, 12):
        assert rows["isplit_device_hours"] <= 10
    with store._db.read() as connection:
        assert "loud" in set(connection.scalars(sa.select(tables.device_hours.c.device)))


def test_open_votes_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mix_rows, "MAX_VOTE_ROWS", 30)
    for rows in crowd(store, 6):
        assert rows["isplit_device_class"] <= 30 + 4  # with `other`, of two classes in two hours
    assert sum(store.view(NETWORK).class_counts.count) == 6 * 41


def test_a_recorder_with_devices_counts_them(url: str, store: Store) -> None:
    with Recorder(
        url, NETWORK, manifest=manifest(), profile=profile(), by_device=True, flush_s=3600
    ) as recorder:
        for i in range(30):
            recorder.observe(observation(i, class_id=0, device=None, at=AT))
        recorder.observe(observation(40, class_id=1, device="a", at=AT))
        assert recorder.flush(60.0)
    assert shares(store) == pytest.approx({0: 0.5, 1: 0.5})
    rows = [row for row in store.export() if row["table"] == "isplit_device_class"]
    assert {row["device"]: row["number"] for row in rows} == {UNSIGNED: 30, "a": 1}
