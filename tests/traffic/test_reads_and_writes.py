"""How much a store reads and writes: statements of a view and of a flush, and one moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile, sample

from isplit_plugin.errors import StoreError
from isplit_plugin.serving.endpoint.exits import cut_exits
from isplit_plugin.traffic import Delta, Store
from isplit_plugin.traffic.rows import request as request_rows
from isplit_plugin.traffic.rows import tables

AT = 1_000_000_800.0
OF_DEVICES = ("device_bucket", "device_sketch", "device_class", "isplit_mix", "device_label")


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """The statements that a store sends meanwhile."""
    sent: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(" ".join(statement.split()))

    event.listen(store._db._engine, "before_cursor_execute", note)
    yield sent
    event.remove(store._db._engine, "before_cursor_execute", note)


def add(store: Store, *, by_device: bool, first: int = 0, at: float = AT) -> None:
    delta = Delta(
        store.mean0(NETWORK), store.half_life_s, CLASSES, by_device=by_device, keep_requests=True
    )
    for i in range(first, first + 10):
        delta.add_observation(observation(i, at=at, device=f"d{i % 3}"))
        delta.add_importance(sample([1.0, 2.0, 3.0, 4.0], at=at, device=f"d{i % 3}"))
    store.add(NETWORK, delta)


def of_devices(sent: list[str]) -> list[str]:
    reads = [statement for statement in sent if statement.startswith("SELECT isplit_")]
    return [text for text in reads if any(f"FROM {name}" in text for name in names())]


def names() -> list[str]:
    return [name if name.startswith("isplit_") else f"isplit_{name}" for name in OF_DEVICES]


def test_a_view_reads_no_table_of_devices_where_there_are_none(store: Store) -> None:
    add(store, by_device=False)
    with statements(store) as sent:
        without = store.view(NETWORK)
    assert of_devices(sent) == []
    assert without.class_counts.weight2 is None
    add(store, by_device=True)
    with statements(store) as sent:
        known = store.view(NETWORK)
    assert len(of_devices(sent)) == 5
    assert known.class_counts.weight2 is not None


def test_what_is_read_together_is_of_one_moment(store: Store, url: str) -> None:
    add(store, by_device=False)
    with Store(url) as writer, statements(store) as sent:
        with store.reading():
            before = store.revision(), store.view(NETWORK).observations
            add(writer, by_device=False, first=100)
            assert (store.revision(), store.view(NETWORK).observations) == before
            assert store.manifest("toy") == manifest()
            with pytest.raises(StoreError, match="expected"):
                store.mean0("nobody put it")
            assert store.profile(NETWORK) is not None
        assert len([text for text in sent if text.startswith("BEGIN")]) <= 1
        assert store.revision() == before[0] + 1
        assert store.view(NETWORK).observations == 20


def test_an_export_that_is_left_unfinished_holds_up_no_reading(store: Store, url: str) -> None:
    add(store, by_device=False)
    unfinished = store.export()
    next(unfinished)
    revision = store.revision()
    with Store(url) as writer:
        add(writer, by_device=False, first=100)
    assert store.revision() == revision + 1
    unfinished.close()  # type: ignore[attr-defined]


def test_own_writes_are_seen_after_the_reading(store: Store) -> None:
    with store.reading():
        revision = store.revision()
        add(store, by_device=False)
        assert store.revision() == revision
    assert store.revision() == revision + 1


def test_a_flush_that_changes_known_rows_counts_no_table(store: Store) -> None:
    """Counting reads every row: 100,000 requests, or 20,000 means of devices."""
    add(store, by_device=True)
    with statements(store) as sent:
        add(store, by_device=True, first=0)
    assert [text for text in sent if "count(*)" in text] == []
    with statements(store) as sent:
        add(store, by_device=True, first=105)  # new requests of the same devices and classes
    assert [text for text in sent if "count(*)" in text] == []


def waiting(store: Store) -> tuple[int, int]:
    """The number of requests that wait, as noted and as counted."""
    with store._db.read() as connection:
        noted = connection.scalar(sa.select(tables.progress.c.requests))
        counted = connection.scalar(sa.select(sa.func.count()).select_from(tables.request))
    return int(noted or 0), int(counted or 0)


def test_the_number_of_requests_that_wait_is_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_rows, "MAX_REQUESTS", 25)
    for first in (0, 5, 20, 30, 40, 50):  # some of them twice, some too many
        add(store, by_device=False, first=first)
        noted, counted = waiting(store)
        assert noted == counted <= 26
    for first, seconds in ((200, 2 * 86_400), (220, 2 * 86_400 + 80_000), (300, 3 * 86_400 + 10)):
        add(store, by_device=False, first=first, at=AT + seconds)
    assert waiting(store) == (20, 20)  # those that are older than a day have gone
    store.put_network(manifest(version="2.0"), profile([1.0] * 4))
    assert waiting(store) == (20, 20)
    store.forget("toy", network_hash=NETWORK)
    assert waiting(store) == (0, 0)
    store.put_network(manifest(), profile())
    add(store, by_device=False)
    assert waiting(store) == (10, 10)


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("a bug"), OSError("a bug")])
def test_errors_of_what_is_done_with_the_statistics_are_not_the_stores(
    store: Store, error: Exception
) -> None:
    def fail() -> None:
        with store.reading():
            store.revision()
            raise error

    with pytest.raises(type(error), match=r"^a bug$"):
        fail()
    assert store.revision() == 1  # and the transaction is over


def test_exits_that_cannot_be_read_cost_the_rest_of_the_answer_nothing(store: Store) -> None:
    with store._db.write() as (connection, _):
        connection.exec_driver_sql(f"ALTER TABLE {tables.exit_version.name} RENAME TO gone")
    with store.reading():
        revision = store.revision()
        assert cut_exits(store.exits, NETWORK) == ()
        assert store.revision() == revision
        assert store.manifest("toy") == manifest()
        with pytest.raises(StoreError, match="expected a readable store"):
            store.exits.versions(NETWORK)
