"""The picks in force in the store: one state for all, whoever writes."""

from __future__ import annotations

import threading

import pytest
from toys.traffic import manifest

from isplit_plugin.advice import Change, Standing
from isplit_plugin.errors import StoreError
from isplit_plugin.traffic import Store
from isplit_plugin.traffic.standing import KEEP_CHANGES

AT = 1e9


def standing(number: int, point: str = "layer1") -> Standing:
    return Standing(
        (point, "uint8"), None, AT, "basis", number, None if number == 1 else AT + number
    )


def change(number: int) -> Change:
    return Change(number, "use", AT + number, "before", "after", "words", 10 * number)


def test_a_state_is_kept_by_model_version_and_group(store: Store) -> None:
    one, two = manifest(), manifest(version="2.0")
    assert store.put_standing(one, "all", None, standing(1), [change(1)])
    assert store.held(one, "all").standing == standing(1)
    assert store.held(one, "lab").standing is None
    assert store.held(two, "all").standing is None
    assert store.put_standing(one, "lab", None, standing(1, "layer2"), [])
    assert store.put_standing(two, "all", None, standing(1, "layer3"), [])
    assert store.held(one, "all").standing == standing(1)
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
    done: list[str] = []
    ready = threading.Barrier(6)

    def put(point: str) -> None:
        with Store(url, busy_timeout_s=20) as mine:
            ready.wait()
            if mine.put_standing(manifest(), "all", standing(1), standing(2, point), [change(2)]):
                done.append(point)

    threads = [threading.Thread(target=put, args=(f"layer{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert store.held(manifest(), "all").standing == standing(2, done[0])


def test_the_last_changes_are_kept(store: Store) -> None:
    before = None
    for number in range(1, KEEP_CHANGES + 6):
        assert store.put_standing(manifest(), "all", before, standing(number), [change(number)])
        before = standing(number)
    kept = store.changes(manifest(), "all")
    assert [c.number for c in kept] == list(range(KEEP_CHANGES + 5, 5, -1))


@pytest.mark.parametrize("table", ["isplit_standing SET state", "isplit_change SET entry"])
def test_damaged_rows_are_named(store: Store, table: str) -> None:
    read = store.held if "standing" in table else store.changes
    assert store.put_standing(manifest(), "all", None, standing(1), [change(1)])
    with store._db.write() as (connection, _):
        connection.exec_driver_sql(f"UPDATE {table} = 'no json'")
    with pytest.raises(StoreError, match="expected a"):
        read(manifest(), "all")
