"""Labels count devices: an hour of a device is one opinion, and many hours are few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile

from isplit_plugin.advice import LabelSums, OutcomeRow
from isplit_plugin.errors import StoreError
from isplit_plugin.schema import Cut
from isplit_plugin.serving.endpoint.listings import accuracy
from isplit_plugin.traffic import Delta, Label, Store
from isplit_plugin.traffic.aggregates.devices import (
    ANONYMOUS,
    OTHER_DEVICE,
    UNSIGNED,
    DeviceLabelKey,
    LabelCounts,
)
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S
from isplit_plugin.traffic.rows import device_label, tables
from isplit_plugin.traffic.rows.device_label import labels_of
from isplit_plugin.traffic.rows.request import PendingRequest

HALF_LIFE = DEFAULT_HALF_LIFE_S
HOUR = 3600
AT = 1_000_000_800.0  # a full hour
assert AT % HOUR == 0
CUT = Cut("layer1", "uint8")


def delta() -> Delta:
    return Delta(profile().mean0, HALF_LIFE, CLASSES, by_device=True, keep_requests=True)


def label(
    to: Delta,
    device: str,
    at: float,
    labels: int,
    correct: int,
    *,
    class_id: int = 0,
    group: str = "all",
    cut: Cut = CUT,
) -> None:
    """Labels of requests of one device, as a back office sends them."""
    for i in range(labels):
        request = PendingRequest(at, cut, class_id, group, device)
        to.add_label(request, correct=i < correct)


def outcome(store: Store, network: str = NETWORK, group: str = "all") -> OutcomeRow:
    (row,) = store.view(network, group).outcomes
    return row


def opinions(row: OutcomeRow) -> tuple[float, float]:
    """The effective number of opinions, and the share of correct ones."""
    n, correct = LabelSums.of([row]).opinions()
    return float(n[0]), float(correct[0] / n[0])


def tell(store: Store, at: float) -> None:
    """Traffic at a later time, without labels."""
    one = delta()
    one.add_drops(CUT, "all", at, 1)
    one.as_of = at
    store.add(NETWORK, one)


# ---------------------------------------------------------------------------------------- by hand


def test_the_weights_by_hand(store: Store) -> None:
    """Device a in two hours, device b in one, and one request without any device."""
    one = delta()
    label(one, "a", AT + 10, 4, 3)  # the first hour of a weighs 1, and says 3/4
    label(one, "a", AT + HOUR + 10, 2, 0)  # the second weighs 1 / (1 + h), and says 0
    label(one, "b", AT + 20, 1, 1)  # weighs 1, and says 1
    label(one, ANONYMOUS, AT + HOUR, 1, 1)  # weighs 1 by itself
    store.add(NETWORK, one)
    hour = 2 ** (HOUR / HALF_LIFE)  # what an hour later weighs more
    h = 1 / hour  # the first hour of a, as it weighs an hour later
    second = hour / (1 + h)
    newest = 2 ** ((HOUR + 10) / HALF_LIFE)
    weight = (1 + second + 1 + hour) / newest
    correct = (0.75 + 0 + 1 + hour) / newest
    squares = (1 + second**2 + 1 + hour**2) / newest**2
    expected = pytest.approx((weight, correct, squares), rel=1e-9)
    for at in (AT + HOUR + 10, AT + 9 * HOUR):
        tell(store, at)
        row = outcome(store)
        scale = 2 ** ((at - AT - HOUR - 10) / HALF_LIFE)
        assert (row.weight * scale, row.weight_correct * scale, row.weight2 * scale**2) == expected
        assert (row.labelled, row.correct) == pytest.approx((8 / scale, 5 / scale), rel=1e-2)
    assert store.check()["isplit_device_label"] == 0  # all hours have closed
    assert opinions(row) == pytest.approx((weight**2 / squares, correct / weight), rel=1e-9)


def test_a_device_around_the_clock_does_not_decide_the_accuracy(store: Store) -> None:
    """One device labels 1,000 requests an hour, all wrong; 20 label one a day, all right."""
    for hour in range(24):
        one = delta()
        label(one, "loud", AT + hour * HOUR, 1000, 0)
        for quiet in range(20):
            if quiet % 24 == hour:
                label(one, f"quiet{quiet}", AT + hour * HOUR, 1, 1)
        store.add(NETWORK, one)
    (row,) = accuracy(manifest(), store.view(NETWORK), None)["accuracy"]
    assert row["labelled"] > 20_000
    assert row["accuracy"] > 0.8  # by requests it would be 0.0008, by hours 20 / 44
    assert 15 < row["effective_size"] < 44
    assert row["accuracy_high"] - row["accuracy_low"] > 0.2


def test_labels_through_the_store_know_their_devices(store: Store) -> None:
    one = delta()
    for i in range(30):
        device = "loud" if i < 20 else None if i < 25 else f"quiet{i}"
        one.add_observation(observation(i, class_id=0, device=device, at=AT))
    store.add(NETWORK, one)
    labels = [Label(f"r{i}", 0 if i >= 25 else 1) for i in range(30)]
    assert [result.error for result in store.add_labels(labels)] == [None] * 30
    # The loud device and all requests without a token are one wrong opinion each.
    assert opinions(outcome(store)) == pytest.approx((7.0, 5 / 7))
    assert (outcome(store).labelled, outcome(store).correct) == pytest.approx((30, 5))
    rows = [row for row in store.export() if row["table"] == "isplit_device_label"]
    assert {row["device"]: (row["labelled"], row["correct"]) for row in rows} == {
        "loud": (20, 0),
        UNSIGNED: (5, 0),
        **{f"quiet{i}": (1, 1) for i in range(25, 30)},
    }


def test_without_devices_labels_count_one_by_one(store: Store) -> None:
    one = Delta(profile().mean0, HALF_LIFE, CLASSES, keep_requests=True)
    for i in range(40):
        one.add_observation(observation(i, class_id=0, at=AT))
    store.add(NETWORK, one)
    store.add_labels([Label(f"r{i}", 0 if i < 10 else 1) for i in range(40)])
    row = outcome(store)
    assert row[3:] == pytest.approx((40, 10, 40, 10, 40))
    assert store.check()["isplit_device_label"] == 0


# -------------------------------------------------------------------------------- how it adds up


class Said(NamedTuple):
    hour: int
    device: str
    cut: str
    group: str
    class_id: int
    correct: bool
    worker: int


_numbers = count()
said = st.lists(
    st.builds(
        Said,
        st.integers(0, 5),
        st.sampled_from(["a", "b", "c", UNSIGNED, ANONYMOUS]),
        st.sampled_from(["layer1:uint8", "layer2:fp32"]),
        st.sampled_from(["all", "door"]),
        st.integers(0, 1),
        st.booleans(),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=25,
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """One store for all examples; each has networks of its own."""
    if request.param == "sqlite":
        with Store(tmp_path_factory.mktemp("labels") / "x.db") as store:
            yield store
        return
    with request.getfixturevalue("postgres").database() as url, Store(url) as store:
        yield store


def put(store: Store, deltas: Sequence[Delta]) -> str:
    network = f"network{next(_numbers):06}"
    store.put_network(manifest(network, model=network), profile(network=network))
    for one in deltas:
        store.add(network, one)
    return network


@settings(max_examples=15)
@given(said, st.permutations(range(3)), st.booleans())
def test_any_partition_and_order_gives_the_same_sums(
    shared: Store, labels: list[Said], order: list[int], later: bool
) -> None:
    """What several workers count in an hour adds up to what one counts of all hours."""
    whole = delta()
    parts = {(hour, worker): delta() for hour in range(6) for worker in order}
    for one in labels:
        request = PendingRequest(
            AT + one.hour * HOUR, Cut.parse(one.cut), one.class_id, one.group, one.device
        )
        for to in (whole, parts[one.hour, one.worker]):
            to.add_label(request, correct=one.correct)
    deltas = [[whole], [part for part in parts.values() if len(part)]]
    if later:  # all hours close
        end = delta()
        end.add_drops(CUT, "all", AT + 20 * HOUR, 1)
        end.as_of = AT + 20 * HOUR
        deltas = [[*each, end] for each in deltas]
    networks = [put(shared, each) for each in deltas]
    for group in ("all", "door"):
        one_view, many = (shared.view(network, group).outcomes for network in networks)
        assert [row[:2] for row in one_view] == [row[:2] for row in many]
        for mine, other in zip(one_view, many, strict=True):
            assert mine[2:] == pytest.approx(other[2:], rel=1e-9, abs=1e-12)
            assert mine.weight <= mine.labelled * (1 + 1e-3)


def test_a_device_that_names_two_groups_has_one_opinion(store: Store) -> None:
    one = delta()
    label(one, "a", AT, 3, 3, group="door")
    label(one, "a", AT, 1, 0, group="yard")
    store.add(NETWORK, one)
    assert opinions(outcome(store)) == pytest.approx((1.0, 0.75))
    assert outcome(store, group="door").weight == pytest.approx(0.75)


def test_a_device_is_new_at_a_new_cut(store: Store) -> None:
    """Else the first to come, with no hours behind them, would decide about a cut that is new."""
    for hour in range(12):
        one = delta()
        label(one, "old", AT + hour * HOUR, 5, 5)
        store.add(NETWORK, one)
    other = Cut("layer2", "uint8")
    one = delta()
    label(one, "old", AT + 12 * HOUR, 5, 5, cut=other)
    label(one, "new", AT + 12 * HOUR, 5, 0, cut=other)
    store.add(NETWORK, one)
    for at in (AT + 12 * HOUR, AT + 20 * HOUR):
        tell(store, at)
        (row,) = (row for row in store.view(NETWORK).outcomes if row.cut == other)
        assert opinions(row) == pytest.approx((2.0, 0.5))


def test_a_day_of_late_labels_of_a_device_is_one_opinion(store: Store) -> None:
    tell(store, AT + 23 * HOUR)
    late = delta()
    for hour in range(24):
        label(late, "a", AT + hour * HOUR, 5, 5)
        label(late, f"quiet{hour}", AT + hour * HOUR, 1, 0)
    store.add(NETWORK, late)
    size, share = opinions(outcome(store))
    assert size == pytest.approx(25, abs=1.5)  # of a two: its newest hour is open, too
    assert share < 2.5 / 25


def test_labels_move_with_the_clock_and_between_names() -> None:
    one = delta()
    label(one, "a", AT, 2, 1, group="door")
    label(one, "a", AT, 2, 2, group="yard")
    moved = one.moved(-2.0 * HOUR).renamed(
        {"group": lambda _: "other", "split_point": str, "codec": str}
    )
    ((key, counts),) = moved.device_labels.items()
    assert (key.bucket, key.device_group, counts) == (AT - 2 * HOUR, "other", (4, 3))


# ----------------------------------------------------------------------------------------- bounds


def test_open_labels_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_label, "MAX_LABEL_ROWS", 30)
    for hour in range(3):
        one = delta()
        for i in range(50):
            label(one, f"d{hour}-{i}", AT + hour * HOUR, 1, 1)
        store.add(NETWORK, one)
        assert store.check()["isplit_device_label"] <= 30 + 2  # with `other` of two hours
    row = outcome(store)
    assert row.labelled == pytest.approx(150, rel=0.01)  # every label is counted
    assert row.weight < 100  # those above the bound are one device in an hour
    with store._db.read() as connection:
        assert OTHER_DEVICE in set(connection.scalars(sa.select(tables.device_label.c.device)))


def test_a_delta_without_room_counts_labels_of_new_devices_as_one() -> None:
    one = Delta(profile().mean0, HALF_LIFE, CLASSES, max_keys=4)
    for i in range(20):
        label(one, f"d{i}", AT, 1, 1)
    assert len(one.device_labels) == 3
    assert one.overflow == 17
    assert sum(counts.labelled for counts in one.device_labels.values()) == 3
    (counts,) = one.outcomes.values()
    assert counts.labelled > 19


# ------------------------------------------------------------------------------------- robustness


def test_a_damaged_row_is_found_and_stops_nothing(store: Store) -> None:
    one = delta()
    label(one, "a", AT, 2, 2)
    label(one, "b", AT, 2, 0)
    store.add(NETWORK, one)
    table = tables.device_label
    with store._db.write() as (connection, _):
        connection.execute(table.update().where(table.c.device == "b").values(correct=9))
    with pytest.raises(StoreError, match=r"expected 0 <= correct <= labelled, got \(2, 9\)"):
        store.check()
    assert opinions(outcome(store)) == pytest.approx((1.0, 1.0))
    again = delta()
    label(again, "c", AT, 1, 1)
    again.add_observation(observation(1, at=AT, class_id=0))
    store.add(NETWORK, again)
    assert store.add_labels([Label("r1", 0)])[0].error is None
    tell(store, AT + 9 * HOUR)
    assert store.check()["isplit_device_label"] == 0
    assert opinions(outcome(store)) == pytest.approx((3.0, 1.0))


def test_a_row_says_what_it_holds(store: Store) -> None:
    one = delta()
    label(one, "a", AT, 3, 1, cut=Cut("layer2", "dct", 3), group="door")
    store.add(NETWORK, one)
    with store._db.read() as connection:
        (row,) = connection.execute(sa.select(tables.device_label))
    key, counts = labels_of(row)
    assert key == DeviceLabelKey(int(AT), "a", Cut("layer2", "dct", 3), "door", 0)
    assert counts == LabelCounts(3, 1)
