"""Workers whose clocks are wrong, in both directions, beside workers whose clocks are right."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

import numpy as np
import pytest
from toys.traffic import CLASSES, NETWORK, manifest, observation, profile, sample

from isplit_plugin.advice import StandingState, live_weights
from isplit_plugin.advice.live_moments import live_moments
from isplit_plugin.cli import main
from isplit_plugin.schema import Cut
from isplit_plugin.traffic import Delta, Label, Recorder, Store
from isplit_plugin.traffic.rows import clock, tables
from isplit_plugin.traffic.rows.clock import MAX_SKEW_S
from isplit_plugin.traffic.rows.revisions import GAP_S, Progress

DAY = 86_400.0


@pytest.fixture
def now() -> float:
    return time.time()


def delta_of(store: Store, *, by_device: bool = False) -> Delta:
    return Delta(
        store.mean0(NETWORK), store.half_life_s, CLASSES, keep_requests=True, by_device=by_device
    )


def add(store: Store, first: int, number: int, at: float, class_id: int) -> float:
    """Add requests of one class as one delta; returns the skew that was found."""
    delta = delta_of(store)
    for i in range(first, first + number):
        delta.add_observation(observation(i, at=at, class_id=class_id))
        delta.add_importance(sample([1.0, 2.0, 3.0, 4.0], at=at, class_id=class_id))
    return store.add(NETWORK, delta).skew_s


def mix(store: Store) -> dict[int, float]:
    counts = store.view(NETWORK).class_counts
    return dict(zip(counts.class_ids.tolist(), counts.weight.tolist(), strict=True))


@pytest.fixture
def honest(store: Store, now: float) -> Store:
    """A hundred requests of class 0 in the last hours."""
    for hour in range(10, 0, -1):
        add(store, 10 * hour, 10, now - 3600 * hour, 0)
    return store


@pytest.mark.parametrize("days", [0.05, 2, 91, 5000])
def test_a_request_from_the_future_counts_as_of_now(honest: Store, now: float, days: float) -> None:
    before = honest.view(NETWORK)
    assert add(honest, 1000, 1, now + days * DAY, 1) == pytest.approx(days * DAY, abs=600)
    after = honest.view(NETWORK)
    assert after.as_of == pytest.approx(now, abs=600)
    assert after.observations == before.observations + 1
    weights = mix(honest)
    assert weights[1] / sum(weights.values()) == pytest.approx(1 / 101, rel=0.05)
    assert [rows.count[:, 0].tolist() for rows in after.importance] == [[100.0, 1.0]]
    labels = honest.add_labels([Label(f"r{i}", 0) for i in (10, 55, 1000)])
    assert [label.error for label in labels] == [None] * 3
    (network,) = honest.networks()
    assert network.moved_deltas == 1


def test_times_within_the_limit_stay(honest: Store, now: float) -> None:
    assert add(honest, 1000, 1, now + MAX_SKEW_S / 2, 1) == 0.0
    assert honest.view(NETWORK).as_of == now + MAX_SKEW_S / 2
    assert honest.networks()[0].moved_deltas == 0


@pytest.mark.parametrize("days", [-5000, -2, -0.05, 0.05, 2, 91])
def test_a_clock_that_is_wrong_is_measured_and_its_times_moved(
    honest: Store, now: float, monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    """The host of a worker is days ahead or behind; its delta waited for ten minutes."""
    wrong = delta_of(honest)
    for i, age in ((1000, 600.0), (1001, 0.0)):
        wrong.add_observation(observation(i, at=now + days * DAY - age, class_id=1))
    honest_time = clock.store_time
    with monkeypatch.context() as patched:
        patched.setattr(clock, "host_time", lambda: time.time() + days * DAY)
        patched.setattr(clock, "store_time", honest_time_of(honest_time))
        skew = honest.add(NETWORK, wrong).skew_s
    assert skew == pytest.approx(days * DAY, abs=600)
    view = honest.view(NETWORK)
    assert view.as_of == pytest.approx(now, abs=600)
    weight = 1 + 2 ** (-600 / honest.half_life_s)
    assert mix(honest)[1] == pytest.approx(weight, rel=1e-3)
    assert all(r.error is None for r in honest.add_labels([Label("r1000", 1), Label("r10", 0)]))


def honest_time_of(read: Callable[..., float]) -> Callable[..., float]:
    """The store's clock, also on SQLite, where it would be the clock of the same host."""

    def store_time(connection: object) -> float:
        dialect = getattr(connection, "dialect", None)
        return read(connection) if getattr(dialect, "name", "") == "postgresql" else time.time()

    return store_time


def test_a_delta_that_waited_through_an_outage_keeps_its_times(honest: Store, now: float) -> None:
    assert add(honest, 1000, 1, now - 5 * DAY, 1) == 0.0
    old = 2 ** -((5 * DAY - 3600) / honest.half_life_s)
    assert mix(honest)[1] == pytest.approx(old, rel=1e-3)
    assert honest.view(NETWORK).as_of == pytest.approx(now - 3600, abs=600)
    assert honest.add_labels([Label("r10", 0)])[0].error is None


def test_a_moved_delta_is_as_if_its_observations_had_come_later(store: Store) -> None:
    there, here = delta_of(store), delta_of(store)
    by = 1_234_567.0
    for delta, seconds in ((there, 0.0), (here, by)):
        for i in range(20):
            at = 1e9 + 977.0 * i + seconds
            delta.add_observation(observation(i, at=at))
            delta.add_importance(sample([1.0, 2.0, 3.0, 4.0 + i], at=at, class_id=i % CLASSES))
    moved = there.moved(by)
    assert moved.as_of == here.as_of
    assert moved.requests == here.requests
    assert sum(c.requests for c in moved.served.values()) == 20
    for key, moments in here.moments.items():
        same = moved.moments[key].at_epoch(moments.epoch)
        np.testing.assert_allclose(same.vector, moments.vector, rtol=1e-9)
    for place, outcome in here.outcomes.items():
        weight = 2.0 ** (moved.outcomes[place].epoch - outcome.epoch)
        assert moved.outcomes[place].predictions * weight == pytest.approx(outcome.predictions)


def test_buckets_of_devices_move_too_and_none_comes_to_lie_ahead(store: Store, now: float) -> None:
    delta = delta_of(store, by_device=True)
    for hour in range(5):
        at = now + 40 * DAY - 3600 * hour
        delta.add_importance(sample([1.0, 2.0, 3.0, 4.0], at=at, device="a"))
    store.add(NETWORK, delta)
    (rows,) = store.view(NETWORK).importance
    assert rows.count[0, 0] == 5
    assert rows.weight[0, 0] < 5.01


def test_the_recorder_counts_moved_deltas_and_warns_once(
    url: str, now: float, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="isplit_plugin.traffic.writer"),
        Recorder(url, NETWORK, manifest=manifest(), profile=profile(), flush_s=3600) as recorder,
    ):
        for i in range(3):
            recorder.observe(observation(i, at=now + 2 * DAY))
            assert recorder.flush(60.0)
        assert recorder.counters()["moved_deltas"] == 3
        recorder.observe(observation(4, at=now))
        assert recorder.flush(60.0)
        assert recorder.counters()["moved_deltas"] == 3
    (record,) = [r for r in caplog.records if "store's clock" in r.getMessage()]
    assert "ahead of the store's clock" in record.getMessage()


# ------------------------------------------------------------------------------------- the horizon


def test_the_horizon_follows_the_newest_observation() -> None:
    progress = Progress()
    for at in np.arange(1e9, 1e9 + 5 * DAY, 3600.0):
        progress = progress.after(float(at))
    assert progress.horizon == progress.as_of == 1e9 + 5 * DAY - 3600


def test_after_a_gap_the_horizon_waits_for_a_day_of_traffic() -> None:
    before = Progress(1e9, 1e9 - 10 * DAY, 1e9)
    jumped = before.after(1e9 + 91 * DAY)
    assert jumped == Progress(1e9 + 91 * DAY, 1e9 + 91 * DAY, 1e9)
    later = jumped.after(1e9 + 91 * DAY + GAP_S / 2)
    assert later.horizon == 1e9
    assert later.after(1e9 + 92 * DAY).horizon == 1e9 + 92 * DAY
    assert later.after(0.0) == later
    assert later.after(-np.inf) == later


def test_one_delta_after_a_gap_deletes_nothing(store: Store) -> None:
    add(store, 0, 10, 1e9, 0)
    add(store, 100, 1, 1e9 + 91 * DAY, 1)  # the clock of the host jumped
    assert store.view(NETWORK).observations == 11
    assert store.add_labels([Label("r5", 0)])[0].error is None
    add(store, 200, 1, 1e9 + 91 * DAY + GAP_S, 1)
    assert store.view(NETWORK).observations == 2


# ----------------------------------------------------------------------------------------- repair


def jumped(store: Store, monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """A stray request of class 1, written while the clock of the database was ahead."""
    with monkeypatch.context() as patched:
        patched.setattr(clock, "store_time", lambda _: time.time() + days * DAY)
        patched.setattr(clock, "host_time", lambda: time.time() + days * DAY)
        add(store, 1000, 1, time.time() + days * DAY, 1)
        stray = delta_of(store, by_device=True)
        stray.add_importance(
            sample([1.0, 2.0, 3.0, 4.0], at=time.time() + days * DAY, device="a", target="true")
        )
        store.add(NETWORK, stray)
        pick = StandingState(Cut("layer1", "uint8"), time.time() + days * DAY, "d", 1, 3e9)
        assert store.put_standing(manifest(), "all", None, pick, [])


@pytest.mark.parametrize("days", [2, 91, 30_000])
def test_repair_mends_a_store_from_the_future(  # noqa: PLR0917
    honest: Store,
    url: str,
    now: float,
    days: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["store", "check", "--store", url]) == 0
    jumped(honest, monkeypatch, days)
    assert honest.view(NETWORK).as_of == pytest.approx(now + days * DAY, abs=600)
    assert main(["store", "check", "--store", url, "--json"]) == 5
    out, err = capsys.readouterr()
    report = json.loads(out[out.index("{") :])
    assert report["sound"] is False
    assert report["ahead_s"][NETWORK] == pytest.approx(days * DAY, abs=600)
    assert f"{days:.1f} days ahead" in json.loads(err)["error"]
    assert main(["store", "repair", "--store", url, "--json"]) == 0
    repaired = json.loads(capsys.readouterr().out)
    assert repaired["repaired"][NETWORK] == pytest.approx(days * DAY, abs=600)
    assert main(["store", "check", "--store", url]) == 0
    view = honest.view(NETWORK)
    assert view.as_of == pytest.approx(now, abs=600)
    assert view.observations == 101
    weights = mix(honest)
    assert weights[1] / sum(weights.values()) == pytest.approx(1 / 101, rel=0.05)
    for rows in view.importance:
        assert (rows.weight <= rows.count * (1 + 1e-6)).all()
        assert np.isfinite(rows.sum2).all()
    state = honest.standing_snapshot(manifest(), "all").state
    assert state is not None
    assert state.since is not None
    assert max(state.since, state.origin) <= time.time()
    assert add(honest, 2000, 1, time.time(), 2) == 0.0
    labels = honest.add_labels([Label(f"r{i}", 0) for i in (10, 1000, 2000)])
    assert [label.error for label in labels] == [None] * 3


@pytest.mark.parametrize("half_lives", [600, 1100, 100_000])
def test_rows_that_are_newer_than_the_newest_observation_warn_of_nothing(
    honest: Store, half_lives: int
) -> None:
    """Whoever changed `as_of` by hand gets an answer without live values, and no warning."""
    with honest._db.write() as (connection, _):
        then = max(0.0, time.time() - half_lives * honest.half_life_s)
        connection.execute(tables.progress.update().values(as_of=then))
    view = honest.view(NETWORK)
    moments = live_moments(view.importance, np.arange(CLASSES), honest.mean0(NETWORK), "predicted")
    assert np.isfinite(moments.n).all()
    assert np.isfinite(live_weights(view, CLASSES)[0]).all()


def test_a_sound_store_is_not_changed_by_repair(
    honest: Store, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = honest.revision(), list(honest.export())
    assert main(["store", "repair", "--store", url]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert (honest.revision(), list(honest.export())) == before
