"""Faults of files, databases and other processes, and what they must not lose."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from toys.polling import until
from toys.store_writer import BATCH, work, writer
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile, sample

from isplit_plugin.errors import StoreBusyError, StoreError
from isplit_plugin.traffic import Delta, Recorder, Store
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S
from isplit_plugin.traffic.database import Database
from isplit_plugin.traffic.rows import tables


def one_delta(**changes: object) -> Delta:
    delta = Delta(profile().mean0, DEFAULT_HALF_LIFE_S, CLASSES)
    delta.add_observation(observation(0, **changes))
    return delta


# ---------------------------------------------------------------------------------- other processes


def test_four_processes_writing_at_once_lose_nothing(url: str, tmp_path: Path) -> None:
    rounds = 12
    writers = [writer(url, w, rounds) for w in range(4)]
    for one in writers:
        one.communicate(timeout=600)
        assert one.returncode == 0
    whole = Delta(profile().mean0, DEFAULT_HALF_LIFE_S, CLASSES)
    for w in range(4):
        for observations, curves in work(w, rounds):
            for seen in observations:
                whole.add_observation(seen)
            for curve in curves:
                whole.add_importance(curve)
    with Store(url) as store, Store(tmp_path / "alone.db") as alone:
        alone.put_network(manifest(), profile())
        alone.add(NETWORK, whole)
        store.check()
        together, expected = store.view(NETWORK), alone.view(NETWORK)
        assert store.revision() == 1 + 4 * rounds  # one put, and every flush once
    assert together.observations == expected.observations == 4 * rounds * BATCH
    assert together.as_of == expected.as_of
    for x, y in zip(together.importance, expected.importance, strict=True):
        assert np.array_equal(x.count, y.count)
        for name in ("weight", "weight2", "sum1", "sum2"):
            assert getattr(x, name) == pytest.approx(getattr(y, name), rel=1e-12, abs=1e-12)
    assert together.class_counts.weight == pytest.approx(expected.class_counts.weight, rel=1e-12)


def test_a_killed_writer_loses_what_it_had_not_flushed_and_harms_nothing(url: str) -> None:
    """Each flush is in the store whole or not at all; what a flush acknowledged is never lost."""
    acknowledged = in_flight = 0
    for attempt in range(4):
        with writer(url, attempt, 10_000) as process:
            assert process.stdout is not None
            for _ in range(1 + attempt * 7):
                seen = int(process.stdout.readline())
            process.kill()  # SIGKILL
            rest = process.stdout.read().split()
        acknowledged += int(rest[-1]) if rest else seen
        in_flight += BATCH
        with Store(url) as store:
            store.check()
            written = store.view(NETWORK).observations
        assert written % BATCH == 0
        assert acknowledged <= written <= acknowledged + in_flight


def test_many_processes_opening_a_new_file_together(url: str) -> None:
    opening = (
        "from isplit_plugin.traffic import Store\n"
        f"print(Store({url!r}, busy_timeout_s=60).revision())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", opening], stdout=subprocess.PIPE) for _ in range(5)
    ]
    for one in processes:
        assert one.communicate(timeout=600)[0].strip() == b"0"
        assert one.returncode == 0


# ------------------------------------------------------------------------------------- the recorder


def test_while_the_store_is_locked_observing_goes_on_and_all_is_written_later(
    path: Path, url: str, store: Store
) -> None:
    with Recorder(url, NETWORK, flush_s=0.05) as recorder:
        recorder.observe(observation(0))
        until(lambda: store.view(NETWORK).observations == 1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        number = 1
        while (
            recorder.counters()["flush_failures"] < 2
        ):  # twice the busy timeout: above four seconds
            if number < 2000:
                assert recorder.observe(observation(number))
                number += 1
            else:
                until(lambda: recorder.counters()["flush_failures"] >= 2)
        assert "locked" in recorder.last_error
        assert store.view(NETWORK).observations == 1
        other.execute("ROLLBACK")
        other.close()
        until(lambda: store.view(NETWORK).observations == number)
        until(lambda: recorder.last_error == "")
        assert recorder.counters()["dropped"] == recorder.counters()["overflow"] == 0


def test_a_file_deleted_while_in_use_is_made_again(path: Path, url: str, store: Store) -> None:
    with Recorder(url, NETWORK, flush_s=0.02) as recorder:
        recorder.observe(observation(0))
        until(lambda: store.view(NETWORK).observations == 1)
        recorder.flush(60.0)
        # The database last: what is made anew in its place meanwhile stays whole.
        for file in sorted(path.parent.glob("store.db*"), reverse=True):
            file.unlink()
        until(path.exists)  # noticed without traffic
        recorder.observe(observation(1))
        until(lambda: Store(url).view(NETWORK).observations == 1)
        assert (
            store.manifest("toy") == manifest()
        )  # the reader follows, and the network was put again
        assert store.view(NETWORK).class_counts.class_ids.tolist() == [1]
        store.check()


def test_a_deleted_file_is_a_store_error_until_somebody_makes_it_again(
    path: Path, url: str, store: Store
) -> None:
    for file in path.parent.glob("store.db*"):
        file.unlink()
    for call in (
        store.revision,
        store.networks,
        lambda: store.view(NETWORK),
        lambda: store.add(NETWORK, one_delta()),
    ):
        with pytest.raises(StoreError, match="it was deleted while in use"):
            call()
    assert not path.exists()
    Store(url).close()
    assert store.networks() == ()


def test_a_full_disk_is_waited_out(
    monkeypatch: pytest.MonkeyPatch, path: Path, url: str, store: Store
) -> None:
    full = [True]
    connect = Database._on_connect

    def on_connect(self: Database, connection: sqlite3.Connection, record: object) -> None:
        connect(self, connection, record)
        if full[0]:
            connection.execute(
                "PRAGMA max_page_count=1"
            )  # SQLite raises it to the pages that there are

    monkeypatch.setattr(Database, "_on_connect", on_connect)
    with Recorder(url, NETWORK, flush_s=0.02) as recorder:
        for i in range(300):
            recorder.observe(observation(i, group=f"group{i % 10}", at=1e9 + 3600 * i))
        until(lambda: recorder.counters()["flush_failures"] >= 2)
        assert "full" in recorder.last_error
        assert recorder.observe(observation(300))
        assert store.view(NETWORK).observations == 0
        store.check()
        full[0] = False
        until(lambda: store.view(NETWORK).observations == 301)
        assert recorder.counters()["dropped"] == 0


def test_a_store_that_is_down_from_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with Recorder(
        folder / "x.db", NETWORK, manifest=manifest(), profile=profile(), flush_s=0.02
    ) as recorder:
        for i in range(50):
            assert recorder.observe(observation(i))
        until(lambda: recorder.counters()["flush_failures"] >= 2)
        assert not recorder.flush(60.0)
        folder.mkdir()
        until(lambda: (folder / "x.db").exists())
        with Store(folder / "x.db") as store:
            until(lambda: store.view(NETWORK).observations == 50)


# ---------------------------------------------------------------------------------------- one store


def damaged(path: Path, url: str) -> None:
    with Store(url) as store:
        store.put_network(manifest(), profile())
        store.add(NETWORK, one_delta())


@pytest.mark.parametrize(
    ("nowhere", "message"),
    [
        ("sqlite://", "expected a file, because several processes share it"),
        ("sqlite:///:memory:", "expected a file"),
        ("mysql://root:secret@host/x", "expected sqlite or postgresql, got mysql"),
        ("no backend://x", "expected a URL such as"),
        ("sqlite:////no/such/folder/x.db", "unable to open database file"),
        ("/no/such/folder/x.db", "unable to open database file"),
        (
            "postgresql+nodriver://user:secret@host/x",
            "expected an SQLite file or a PostgreSQL database",
        ),
        ("postgresql+psycopg://user:sec@ret@127.0.0.1:1/x?password=secret", "expected"),
    ],
)
def test_urls_that_lead_nowhere(nowhere: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        Store(nowhere)
    answer = json.dumps(caught.value.to_json())
    assert "secret" not in answer
    assert "sec@ret" not in answer
    assert "store" in caught.value.message


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected the path of a file, got a directory"):
        Store(tmp_path)


def test_a_missing_file_is_not_made_where_that_is_not_wanted(path: Path, url: str) -> None:
    with pytest.raises(StoreError, match="expected an existing file, found none"):
        Store(url, create=False)
    assert not path.exists()


def test_a_file_that_is_no_database(path: Path, url: str) -> None:
    path.write_bytes(b"These are no statistics." * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Store(url)
    with Recorder(url, NETWORK, manifest=manifest(), flush_s=0.02) as recorder:
        assert recorder.observe(observation(0))
        until(lambda: recorder.counters()["flush_failures"] > 0)
        assert recorder.observe(observation(1))


def test_damaged_pages_are_found(path: Path, url: str) -> None:
    damaged(path, url)
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 3] = b"\xa5" * 8192
    path.write_bytes(content)
    with pytest.raises(StoreError, match="sqlite:///"), Store(url) as store:
        store.check()


@pytest.mark.parametrize(
    ("statement", "call"),
    [
        ("UPDATE isplit_importance SET moments = x'00'", lambda s: s.view(NETWORK)),
        ("UPDATE isplit_importance SET moments = 'text'", lambda s: s.view(NETWORK)),
        ("UPDATE isplit_importance SET epoch = 'soon'", lambda s: s.view(NETWORK)),
        ("UPDATE isplit_served SET times = x'0102'", lambda s: s.view(NETWORK)),
        ("UPDATE isplit_outcome SET predictions = 'many'", lambda s: s.view(NETWORK)),
        ("UPDATE isplit_network SET mean0 = x'00'", lambda s: s.view(NETWORK)),
        ("UPDATE isplit_network SET profile = x'00'", lambda s: s.profile(NETWORK)),
        ("UPDATE isplit_model SET manifest = '{}'", lambda s: s.manifest("toy")),
        ("UPDATE isplit_model SET manifest = '{'", lambda s: s.manifest("toy")),
        ("UPDATE isplit_meta SET value = 'x' WHERE key = 'revision'", lambda s: s.revision()),
        ("DROP TABLE isplit_outcome", lambda s: s.view(NETWORK)),
        ("UPDATE isplit_importance SET moments = x'00'", lambda s: s.check()),
        ("UPDATE isplit_served SET times = x'0102'", lambda s: s.check()),
    ],
)
def test_damaged_rows_are_store_errors(
    path: Path, url: str, statement: str, call: Callable[[Store], object]
) -> None:
    with Store(url) as store:
        store.put_network(manifest(), profile())
        delta = one_delta()
        delta.add_importance(sample([1, 2, 3, 4], target="true"))
        store.add(NETWORK, delta)
        other = sqlite3.connect(path)
        other.execute(statement)
        other.commit()
        other.close()
        with pytest.raises(StoreError, match=r"store sqlite:///.*expected"):
            call(store)


def test_a_read_only_store_can_be_read(path: Path, url: str, store: Store) -> None:
    store.add(NETWORK, one_delta())
    with Store(f"sqlite:///file:{path}?mode=ro&uri=true") as reader:
        assert reader.view(NETWORK).observations == 1
        reader.put_network(manifest(), profile())  # nothing new: nothing to write
        with pytest.raises(StoreError, match="readonly"):
            reader.add(NETWORK, one_delta())
        with pytest.raises(StoreError, match="readonly"):
            reader.put_network(manifest(version="2"), None)


def test_a_locked_store_is_a_store_error_for_writers_and_none_for_readers(
    path: Path, url: str, store: Store
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Store(url, busy_timeout_s=0.05) as impatient:
        with pytest.raises(StoreBusyError, match="database is locked"):
            impatient.add(NETWORK, one_delta())
        assert impatient.view(NETWORK).observations == 0
        other.execute("ROLLBACK")
        other.close()
        impatient.add(NETWORK, one_delta())
        assert impatient.view(NETWORK).observations == 1


def test_a_failed_flush_adds_nothing(path: Path, store: Store) -> None:
    other = sqlite3.connect(path)
    other.execute(
        "CREATE TRIGGER no BEFORE INSERT ON isplit_outcome "
        "BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    other.commit()
    before = store.revision()
    delta = one_delta()
    delta.add_importance(sample([1, 2, 3, 4], target="true"))
    with pytest.raises(StoreError, match="no room"):
        store.add(NETWORK, delta)
    assert store.revision() == before
    assert store.view(NETWORK).importance == ()
    other.execute("DROP TRIGGER no")
    other.commit()
    other.close()
    store.add(NETWORK, delta)  # the delta is as it was
    assert store.view(NETWORK).observations == 1
    assert store.view(NETWORK).importance[0].count.tolist() == [[1, 1, 1, 1]]


# ------------------------------------------------------------------------------------------ its age


def run(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("UPDATE isplit_meta SET value = 0 WHERE key = 'schema'", 0),
        ("UPDATE isplit_meta SET value = 99 WHERE key = 'schema'", 99),
    ],
)
def test_another_schema_is_refused(url: str, store: Store, statement: str, number: int) -> None:
    run(url, statement)
    expected = f"expected schema {tables.SCHEMA}, found {number}: another version"
    with pytest.raises(StoreError, match=expected):
        Store(url)


def test_the_half_life_is_the_one_the_store_was_made_with(url: str) -> None:
    with Store(url, half_life_s=60) as made, Store(url, half_life_s=99) as opened:
        assert made.half_life_s == opened.half_life_s == 60
        made.put_network(manifest(), profile())
        with Recorder(url, NETWORK, half_life_s=99, flush_s=3600) as recorder:
            for at in (1e9, 1e9 + 60):
                recorder.observe(observation(0, at=at))
            assert recorder.flush(60.0)
        assert made.view(NETWORK).class_counts.weight == pytest.approx([1.5])
    with pytest.raises(StoreError, match="half_life_s: expected seconds above 0"):
        Store(url, half_life_s=0)
