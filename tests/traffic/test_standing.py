"""The standing pick in the store: one state for all, whoever writes."""

from __future__ import annotations

import threading

import pytest
from toys.traffic import manifest

from isplit_plugin.advice import PickChange, StandingState
from isplit_plugin.errors import StoreError
from isplit_plugin.schema import Cut
from isplit_plugin.traffic import Store
from isplit_plugin.traffic.rows.standing import KEEP_CHANGES

AT = 1e9


def standing(changes: int, split_point: str = "layer1") -> StandingState:
    since = None if changes == 1 else AT + changes
    return StandingState(Cut(split_point, "uint8"), AT, "deployment", changes, since)


def change(number: int) -> PickChange:
    return PickChange(number, "switch", AT + number, "before", "after", "words", 10 * number)


def test_a_state_is_kept_by_model_version_and_group(store: Store) -> None:
    one, two = manifest(), manifest(version="2.0")
    store.put_network(two, None)
    assert store.put_standing(one, "all", None, standing(1), [change(1)])
    assert store.standing_snapshot(one, "all").state == standing(1)
    assert store.standing_snapshot(one, "lab").state is None
    assert store.standing_snapshot(two, "all").state is None
    assert store.put_standing(one, "lab", None, standing(1, "layer2"), [])
    assert store.put_standing(two, "all", None, standing(1, "layer3"), [])
    assert store.standing_snapshot(one, "all").state == standing(1)
    assert store.changes(one, "all") == (change(1),)
    assert store.changes(one, "lab") == store.changes(two, "all") == ()


def test_nothing_is_written_over_a_state_that_nobody_knew(store: Store) -> None:
    assert store.put_standing(manifest(), "all", None, standing(1), [change(1)])
    revision = store.revision()
    assert not store.put_standing(manifest(), "all", None, standing(2), [change(2)])
    assert not store.put_standing(manifest(), "all", standing(2), standing(3), [change(3)])
    assert store.revision() == revision
    assert store.changes(manifest(), "all") == (change(1),)
    assert store.put_standing(manifest(), "all", standing(1), standing(2), [change(2)])
    assert [c.number for c in store.changes(manifest(), "all")] == [2, 1]


def test_of_many_that_write_at_once_one_is_first(store: Store, url: str) -> None:
    assert store.put_standing(manifest(), "all", None, standing(1), [])
    winners: list[str] = []
    ready = threading.Barrier(6)

    def put(split_point: str) -> None:
        after = standing(2, split_point)
        with Store(url, busy_timeout_s=20) as own_store:
            ready.wait()
            if own_store.put_standing(manifest(), "all", standing(1), after, [change(2)]):
                winners.append(split_point)

    threads = [threading.Thread(target=put, args=(f"layer{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = winners
    assert store.standing_snapshot(manifest(), "all").state == standing(2, winner)


def test_the_last_changes_are_kept(store: Store) -> None:
    before = None
    for number in range(1, KEEP_CHANGES + 6):
        assert store.put_standing(manifest(), "all", before, standing(number), [change(number)])
        before = standing(number)
    kept = store.changes(manifest(), "all")
    assert [c.number for c in kept] == list(range(KEEP_CHANGES + 5, 5, -1))


@pytest.mark.parametrize("table", ["isplit_standing SET state", "isplit_change SET entry"])
def test_damaged_rows_are_named(store: Store, table: str) -> None:
    read = store.standing_snapshot if "standing" in table else store.changes
    assert store.put_standing(manifest(), "all", None, standing(1), [change(1)])
    with store._db.write() as (connection, _):
        connection.exec_driver_sql(f"UPDATE {table} = 'no json'")
    with pytest.raises(StoreError, match="expected a"):
        read(manifest(), "all")
