"""Slots of device groups: signed names have their own, and unsigned names give theirs back."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from toys.traffic import CLASSES, NETWORK, observation, sample
from toys.views import assert_same

from isplit_plugin.traffic import MAX_GROUPS, OTHER, Delta, Label, Store
from isplit_plugin.traffic.aggregates.keys import MAX_SIGNED_GROUPS
from isplit_plugin.traffic.rows import device_label, mix, tables
from isplit_plugin.traffic.rows.groups import EXPIRE_S, fold_group
from isplit_plugin.traffic.rows.request import PendingRequest

AT = 1e9
DAY = 86_400.0


def add(
    store: Store, names: list[str], at: float = AT, *, signed: bool = False, fresh: bool = False
) -> Delta:
    """One delta with requests and curves of these groups, as a worker sends it."""
    delta = Delta(
        store.mean0(NETWORK), store.half_life_s, CLASSES, keep_requests=True, by_device=fresh
    )
    for i, name in enumerate(names):
        delta.add_observation(
            observation(i, group=name, at=at, signed_group=signed, request_id=f"{name}{at}")
        )
        delta.add_importance(
            sample([1.0, 2.0, 3.0, 4.0], group=name, at=at, device=name, class_id=i % CLASSES)
        )
    store.add(NETWORK, delta)
    return delta


def counts(store: Store) -> dict[str, int]:
    return {group.name: group.requests for group in store.groups(NETWORK)}


@pytest.fixture
def squatted(store: Store) -> Store:
    """Every unsigned slot is taken, and more names were sent."""
    add(store, [f"squat{i:02}" for i in range(40)])
    assert len(counts(store)) == MAX_GROUPS + 1
    return store


def test_a_signed_group_is_counted_although_unsigned_names_fill_the_table(squatted: Store) -> None:
    add(squatted, ["fleet"], signed=True)
    assert counts(squatted)["fleet"] == 1
    assert {g.name for g in squatted.groups(NETWORK) if g.signed} == {"fleet"}
    add(squatted, ["fleet"])  # its curve comes from a worker that has not seen the signature
    assert counts(squatted)["fleet"] == 2
    assert squatted.view(NETWORK, "fleet").importance[0].count[0, 0] == 2


def test_signed_groups_have_a_limit_of_their_own(squatted: Store) -> None:
    add(squatted, [f"fleet{i:02}" for i in range(MAX_SIGNED_GROUPS + 10)], signed=True)
    groups = squatted.groups(NETWORK)
    assert sum(group.signed for group in groups) == MAX_SIGNED_GROUPS
    assert sum(not group.signed for group in groups) == MAX_GROUPS + 1


def test_a_squatted_name_becomes_signed_and_frees_its_slot(squatted: Store) -> None:
    add(squatted, ["squat03"], signed=True)
    add(squatted, ["newcomer"])
    assert counts(squatted)["squat03"] == 2
    assert counts(squatted)["newcomer"] == 1
    assert [g.name for g in squatted.groups(NETWORK) if g.signed] == ["squat03"]


def test_the_group_of_all_devices_needs_no_slot(squatted: Store) -> None:
    add(squatted, ["all"])
    assert counts(squatted)["all"] == 1


def test_unsigned_names_expire_when_others_want_their_slots(squatted: Store) -> None:
    before = squatted.view(NETWORK)
    later = AT + EXPIRE_S["group"] + 7200
    add(squatted, ["squat00", "squat01"], later)  # used again
    add(squatted, ["late0", "late1", "late2"], later)
    names = set(counts(squatted))
    assert len(names) == MAX_GROUPS + 1
    assert {"late0", "late1", "late2", "squat00", "squat01", OTHER} <= names
    view = squatted.view(NETWORK)
    assert view.observations == before.observations + 5
    assert counts(squatted)[OTHER] == 40 - MAX_GROUPS + 3
    everything = squatted.view(NETWORK, OTHER)
    assert sum(rows.count[:, 0].sum() for rows in everything.importance) == 40 - MAX_GROUPS + 3
    gone = sorted({f"squat{i:02}" for i in range(MAX_GROUPS)} - names)
    assert len(gone) == 3
    for table in (tables.name, tables.importance, tables.outcome, tables.served, tables.request):
        column = table.c.name if table is tables.name else table.c.device_group
        with squatted._db.read() as connection:
            query = sa.select(sa.func.count()).select_from(table).where(column.in_(gone))
            assert connection.scalar(query) == 0, table.name
    squatted.check()
    # Their requests can still be labelled, for they are those of OTHER now.
    labels = [Label(f"{gone[0]}{AT}", 0), Label(f"late0{later}", 0)]
    assert [label.error for label in squatted.add_labels(labels)] == [None] * 2
    labelled = sum(row.labelled for row in squatted.view(NETWORK, OTHER).outcomes)
    assert 0 < labelled < 1


def test_names_in_use_stay_however_many_others_come(squatted: Store) -> None:
    names = [f"squat{i:02}" for i in range(MAX_GROUPS)]
    for hour in range(1, 48, 4):
        add(squatted, names, AT + 3600 * hour)
        add(squatted, [f"new{hour}"], AT + 3600 * hour)
    assert set(counts(squatted)) == {*names, OTHER}


@pytest.mark.parametrize("by_device", [False, True])
def test_folding_changes_nothing_of_the_view_of_all(store: Store, by_device: bool) -> None:
    add(store, [f"squat{i:02}" for i in range(MAX_GROUPS)], fresh=by_device)
    add(store, ["squat00"], AT + 3 * DAY, fresh=by_device)
    before = store.view(NETWORK)
    names = store.add(NETWORK, Delta(store.mean0(NETWORK), store.half_life_s, CLASSES)).names
    assert len(names["group"]) == MAX_GROUPS
    empty = Delta(store.mean0(NETWORK), store.half_life_s, CLASSES)
    empty.add_drops(observation().cut, "wanted", AT + 3 * DAY, 1)
    store.add(NETWORK, empty)
    after = store.view(NETWORK)
    assert "wanted" in counts(store)
    assert len({row.group for row in after.served}) == MAX_GROUPS + 1
    assert_same(before, after, served=False)


def test_folding_at_the_cap_keeps_devices_apart(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the old name take no room from those of ``OTHER``."""
    devices = [f"phone{i}" for i in range(4)]
    delta = Delta(store.mean0(NETWORK), store.half_life_s, CLASSES, by_device=True)
    for device in devices:
        seen = observation(group="squat", at=AT, device=device, class_id=0)
        delta.add_observation(seen)
        request = PendingRequest(AT, seen.cut, 0, "squat", device)
        delta.add_label(request, correct=True)
    store.add(NETWORK, delta)
    monkeypatch.setattr(mix, "MAX_VOTE_ROWS", len(devices))
    monkeypatch.setattr(device_label, "MAX_LABEL_ROWS", len(devices))
    with store._db.write() as (connection, _):
        fold_group(connection, NETWORK, len(store.mean0(NETWORK)), "squat")
    for table in (tables.device_class, tables.device_label):
        with store._db.read() as connection:
            rows = connection.execute(sa.select(table.c.device, table.c.device_group))
            assert sorted(tuple(row) for row in rows) == [(name, OTHER) for name in devices]


def test_a_worker_that_knows_a_full_table_still_asks_for_new_names(squatted: Store) -> None:
    worker = Delta(squatted.mean0(NETWORK), squatted.half_life_s, CLASSES)
    worker.adopt_names(squatted.add(NETWORK, worker).names)
    later = AT + EXPIRE_S["group"] + 7200
    worker.add_observation(observation(0, group="wanted", at=later))
    squatted.add(NETWORK, worker)
    assert counts(squatted)["wanted"] == 1
