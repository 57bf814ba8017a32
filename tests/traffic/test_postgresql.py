"""What is particular to PostgreSQL; everything else runs on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from toys.polling import until
from toys.postgres import Postgres
from toys.store_writer import work
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile

from isplit_plugin.errors import StoreBusyError, StoreError
from isplit_plugin.traffic import Delta, Label, Recorder, Store, database
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S
from isplit_plugin.traffic.rows import tables


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as database_url:
        yield database_url


@pytest.fixture
def empty(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


def test_the_same_sums_as_on_sqlite(url: str, tmp_path: Path) -> None:
    with Store(url) as store, Store(tmp_path / "x.db") as sqlite:
        for one in (store, sqlite):
            one.put_network(manifest(), profile())
            one.put_network(manifest(), profile())
            for observations, curves in work(0, 12, group="g"):
                delta = Delta(profile().mean0, DEFAULT_HALF_LIFE_S, CLASSES)
                for seen in observations:
                    delta.add_observation(seen)
                for curve in curves:
                    delta.add_importance(curve)
                one.add(NETWORK, delta)
            one.put_network(manifest(version="2"), profile([1.0, 2.0, 3.0, 4.0]))
        a, b = store.view(NETWORK), sqlite.view(NETWORK)
        assert len(a.importance) == 2
        for x, y in zip(a.importance, b.importance, strict=True):
            assert np.array_equal(x.class_ids, y.class_ids)
            for name in ("count", "weight", "weight2", "sum1", "sum2"):
                assert np.array_equal(getattr(x, name), getattr(y, name))
        assert [(s.cut, s.requests, s.tail.mean_ms) for s in a.served] == [
            (s.cut, s.requests, s.tail.mean_ms) for s in b.served
        ]
        assert (a.as_of, a.observations) == (b.as_of, b.observations)
        assert store.revision() == sqlite.revision()
        assert store.check() == sqlite.check()
        assert store.networks() == sqlite.networks()
        assert store.manifest("toy") == sqlite.manifest("toy")
        kept = store.profile(NETWORK)
        assert kept is not None
        assert kept.mean0.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_lock_is_waited_out(url: str, empty: sa.Engine) -> None:
    with Store(url) as store, Recorder(url, NETWORK, flush_s=0.05) as recorder:
        store.put_network(manifest(), profile())
        recorder.observe(observation(0))
        until(lambda: store.view(NETWORK).observations == 1)
        with empty.begin() as other:
            other.execute(sa.select(tables.meta).with_for_update())
            recorder.observe(observation(1))
            until(lambda: recorder.counters()["flush_failures"] >= 1)
            assert recorder.observe(observation(2))
            assert store.view(NETWORK).observations == 1
        until(lambda: store.view(NETWORK).observations == 3)


def test_a_lock_that_is_held_too_long_is_told_apart_from_other_failures(
    url: str, empty: sa.Engine
) -> None:
    with Store(url) as store, Store(url, busy_timeout_s=0.05) as impatient:
        store.put_network(manifest(), profile())
        with empty.begin() as other:
            other.execute(sa.select(tables.meta).with_for_update())
            with pytest.raises(StoreBusyError, match="LockNotAvailable"):
                impatient.add_labels([Label("r", 0)])


def test_a_writer_that_stands_still_loses_its_lock(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped in the middle of a flush stops nobody else for good."""
    with Store(url) as stopped, Store(url, busy_timeout_s=60.0) as other:
        other.put_network(manifest(), profile())
        with monkeypatch.context() as patched:
            patched.setattr(database, "STALLED_S", 0.3)
            transaction = stopped._db.write()
            transaction.__enter__()  # and no more: its process does nothing
        other.add_labels([Label("r", 0)])
        with pytest.raises(StoreError, match="idle"):
            transaction.__exit__(None, None, None)
        stopped.put_network(manifest(version="2"), profile())  # with a new connection
        assert [n.version for n in other.networks()] == ["1.0", "2"]


def test_connections_that_were_cut_are_made_again(url: str, empty: sa.Engine) -> None:
    with Store(url) as store:
        store.put_network(manifest(), profile())
        with empty.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            query = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            other.execute(sa.text(query))
            left = query.replace("pg_terminate_backend(pid)", "pid")
            until(lambda: other.execute(sa.text(left)).first() is None)  # they end a moment later
        assert [n.model for n in store.networks()] == ["toy"]


def test_a_wrong_password_is_a_store_error_without_it(url: str) -> None:
    nowhere = sa.make_url(url).set(database="no_such_database", password="secret")
    with pytest.raises(StoreError, match="no_such_database") as caught:
        Store(nowhere.render_as_string(hide_password=False))
    assert "secret" not in str(caught.value.to_json())
