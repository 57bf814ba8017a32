"""Forgetting a version, also one that a worker still serves."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import sqlalchemy as sa
from toys.polling import until
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile, sample

from isplit_plugin.advice import PickChange, StandingState
from isplit_plugin.errors import QueryError, UnknownModelError, UnknownVersionError
from isplit_plugin.exits import ExitSums
from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.traffic import (
    CountedAnswer,
    Delta,
    ExitBatch,
    ExitVersion,
    Label,
    Recorder,
    Store,
    TicketUse,
)
from isplit_plugin.traffic.aggregates.sketch import sketch_of
from isplit_plugin.traffic.rows import tables
from isplit_plugin.traffic.rows.request import PendingRequest

SECOND = "sha256-second"
AT = 1e9
REQUESTS = 7
"""Of each network that was filled."""


def second(version: str = "2.0") -> Manifest:
    return manifest(SECOND, version=version)


def fill(store: Store, of: Manifest) -> None:
    """Rows in every table that has rows of a network or of a version."""
    network = of.network_hash
    delta = Delta(store.mean0(network), store.half_life_s, CLASSES, keep_requests=True)
    for i in range(5):
        delta.add_observation(observation(i, request_id=f"{of.version}-{i}"))
        delta.add_importance(sample([1.0, 2.0, 3.0, 4.0]))
    store.add(network, delta, of)
    for hours in (0, 5):  # the device's first hour is closed by the second
        delta = Delta(store.mean0(network), store.half_life_s, CLASSES, by_device=True)
        delta.add_importance(sample([1.0, 2.0, 3.0, 4.0], device="camera", at=AT + hours * 3600))
        delta.add_observation(observation(0, device="camera", at=AT + hours * 3600))
        labelled = PendingRequest(AT + hours * 3600, Cut("layer1", "uint8"), 0, "all", "camera")
        delta.add_label(labelled, correct=True)
        store.add(network, delta, of)
    use = TicketUse(f"probe {of.version}", AT + 600, 60)
    store.add_probe(network, use, sample([1.0, 2.0, 3.0, 4.0], source="probe"), classes=CLASSES)
    state = StandingState(Cut("layer1", "uint8"), AT, "hash", 1)
    change = PickChange(1, "start", AT, None, "layer1:uint8", "", 1)
    assert store.put_standing(of, "all", None, state, [change])
    fill_exits(store, network)


def fill_exits(store: Store, network: str) -> None:
    """Sums, their classes, a version and an answer of it."""
    now = store.exits.now()
    cut = Cut("layer1", "uint8")
    bounds = np.full(2, 9.0)
    sums = ExitSums.empty(network, cut, -bounds, bounds)
    sums.add(np.ones((3, 2)), np.asarray([0, 1, 1]))
    version = ExitVersion(network, "e" * 64, cut, now, now + 600, 3)
    assert store.exits.put(version, b"an exit")
    classes = {cut: {1: (2, sketch_of([("camera", int(now))]))}}
    answer = CountedAnswer(version.exit, "shadow", 1, 5, True, "camera", now)
    batch = ExitBatch({cut: sums}, classes, [answer], now)
    assert not store.exits.add(network, batch)


def networks_by_table(store: Store) -> dict[str, set[str]]:
    with store._db.read() as connection:
        return {
            table.name: set(connection.scalars(sa.select(table.c.network)))
            for table in tables.metadata.sorted_tables
            if "network" in table.c
        }


@pytest.fixture
def both(store: Store) -> Store:
    store.put_network(second(), profile(network=SECOND))
    fill(store, manifest())
    fill(store, second())
    return store


def test_every_row_of_a_forgotten_version_goes_and_no_other(both: Store) -> None:
    before = networks_by_table(both)
    assert all(networks == {NETWORK, SECOND} for networks in before.values()), before
    view = both.view(SECOND)
    forgotten = both.forget("toy", version="1.0")
    assert [row.version for row in forgotten.versions] == ["1.0"]
    assert forgotten.networks == (NETWORK,)
    assert set(forgotten.rows) == {name.removeprefix("isplit_") for name in before}
    assert set(map(frozenset, networks_by_table(both).values())) == {frozenset({SECOND})}
    assert [row.version for row in both.networks()] == ["2.0"]
    assert both.manifest("toy") == second()
    assert both.view(SECOND).observations == view.observations == REQUESTS
    assert both.view(NETWORK).observations == 0
    both.check()


def test_a_dry_run_deletes_nothing_and_says_the_same(both: Store) -> None:
    before = both.revision()
    plan = both.forget("toy", network_hash=SECOND, dry_run=True)
    assert both.revision() == before
    assert both.forget("toy", network_hash=SECOND) == plan


def test_a_network_stays_while_a_version_has_it(both: Store) -> None:
    both.put_network(second("2.1"), None)
    forgotten = both.forget("toy", version="2.0")
    assert forgotten.networks == ()
    assert both.view(SECOND).observations == REQUESTS
    assert both.standing_snapshot(second(), "all").state is None
    assert both.forget("toy", version="2.1").networks == (SECOND,)
    assert both.view(SECOND).observations == 0


def test_a_forgotten_version_gets_no_standing_pick(both: Store) -> None:
    """As from an endpoint that read the version a moment before."""
    both.forget("toy", version="1.0")
    state = StandingState(Cut("layer1", "uint8"), AT, "hash", 1)
    revision = both.revision()
    assert not both.put_standing(manifest(), "all", None, state, [])
    assert both.revision() == revision


def test_labels_of_forgotten_requests_are_refused(both: Store) -> None:
    both.forget("toy", version="1.0")
    gone, kept = both.add_labels([Label("1.0-0", 0), Label("2.0-0", 0)])
    assert gone.error is not None
    assert gone.error.code == "unknown_request"
    assert kept.error is None


def test_what_is_not_there_is_refused_by_name(both: Store) -> None:
    with pytest.raises(UnknownModelError, match="unknown model 'cat'; known: toy"):
        both.forget("cat", version="1.0")
    known = rf"known: 1\.0 \(network {NETWORK}\), 2\.0 \(network {SECOND}\)"
    with pytest.raises(UnknownVersionError, match=rf"'toy' has no version 3\.0; {known}"):
        both.forget("toy", version="3.0")
    with pytest.raises(UnknownVersionError, match=r"no version 1\.0 with network sha256-second"):
        both.forget("toy", version="1.0", network_hash=SECOND)
    with pytest.raises(QueryError, match="expected a version or a network hash"):
        both.forget("toy")
    with pytest.raises(QueryError, match="at least 8 digits"):
        both.forget("toy", network_hash="sha256-")
    both.put_network(manifest("sha256-secret", version="3.0"), None)
    with pytest.raises(QueryError, match="digits of one network hash, got sha256-sec"):
        both.forget("toy", network_hash="sha256-sec")
    assert len(both.networks()) == 3


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "busy"])
def test_a_worker_that_still_serves_it_puts_it_back(
    url: str, both: Store, caplog: pytest.LogCaptureFixture, *, idle: bool
) -> None:
    with Recorder(
        url, SECOND, manifest=second(), profile=profile(network=SECOND), flush_s=0.02
    ) as recorder:
        assert recorder.flush(60.0)
        assert both.view(SECOND).observations == REQUESTS  # its rows are kept for the next view
        with caplog.at_level(logging.WARNING):
            both.forget("toy", version="2.0")
            if not idle:
                assert recorder.observe(observation(0))
            until(lambda: both.has_version(second()))
        assert both.manifest("toy", network_hash=SECOND) == second()
        assert both.profile(SECOND) is not None
        if not idle:
            until(lambda: both.view(SECOND).observations == 1)
            assert sum(row.predictions for row in both.view(SECOND).outcomes) == 1
        assert recorder.counters()["flush_failures"] == 0
    assert "toy 2.0 was forgotten by the store, but this worker serves it" in caplog.text


def test_a_version_of_a_shared_network_is_put_back_too(url: str, both: Store) -> None:
    both.put_network(second("2.1"), None)
    with Recorder(url, SECOND, manifest=second(), flush_s=0.02) as recorder:
        assert recorder.flush(60.0)
        both.forget("toy", version="2.0")
        until(lambda: both.has_version(second()))
    assert both.view(SECOND).observations == REQUESTS


def test_two_workers_of_one_version_and_two_networks_do_not_displace_each_other(
    url: str, both: Store
) -> None:
    replaced = manifest(SECOND)
    with (
        Recorder(url, NETWORK, manifest=manifest(), profile=profile(), flush_s=0.01) as one,
        Recorder(
            url, SECOND, manifest=replaced, profile=profile(network=SECOND), flush_s=0.01
        ) as two,
    ):
        assert one.flush(60.0)
        assert two.flush(60.0)
        revision = both.revision()
        for _ in range(5):
            assert one.flush(60.0)
            assert two.flush(60.0)
        assert both.revision() == revision  # nothing is written again and again
    assert both.has_version(manifest())
    assert both.has_version(replaced)
