"""Exits in the store, from traffic to a release and its end, on both databases."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from toys.exits import CUT, ExitTraffic
from toys.traffic import NETWORK, manifest, profile

from isplit_plugin.errors import StoreError
from isplit_plugin.exits import ExitRelease, ExitStatement, pool, sign, sums, unsigned
from isplit_plugin.schema import Cut
from isplit_plugin.traffic import (
    ExitRecorder,
    ExitState,
    Store,
    exit_recorder,
    read_version,
    shadow_counts,
)
from isplit_plugin.traffic.aggregates.keys import DAY_S
from isplit_plugin.traffic.exit_bounds import bounds_of
from isplit_plugin.traffic.exit_keeper import make_version
from isplit_plugin.traffic.rows import exit_sums, tables
from isplit_plugin.traffic.rows.exit_sums import MAX_CUTS
from isplit_plugin.traffic.rows.exits import delete_old

pytestmark = pytest.mark.usefixtures("within_an_hour")


@pytest.fixture
def traffic(store: Store, url: str, tmp_path: Path) -> Iterator[ExitTraffic]:
    made = ExitTraffic.make(store, url, tmp_path)
    yield made
    made.recorder.close()


def test_no_exit_without_enough_photos_of_two_classes(traffic: ExitTraffic) -> None:
    traffic.send(np.zeros(200, int))
    traffic.look()
    assert traffic.version() is None
    assert traffic.store.exits.classes(NETWORK, CUT)[0].photos == 200


def test_a_new_version_releases_nothing_and_shadow_answers_release_it(
    traffic: ExitTraffic,
) -> None:
    classes = np.tile(np.arange(4), 60)
    traffic.send(classes)
    traffic.look()
    assert traffic.release().classes == {}
    assert traffic.recorder.release(CUT) == "none"
    traffic.send(classes)
    assert traffic.recorder.release(CUT) == traffic.release().name
    traffic.look()
    traffic.send(classes)
    traffic.look()
    release = traffic.release()
    assert set(release.classes) == {0, 1, 2, 3}
    assert release.number > 1
    traffic.send([0])
    assert traffic.recorder.release(CUT) == release.name


def test_a_drift_that_audits_show_withdraws_the_exit(traffic: ExitTraffic) -> None:
    traffic.prove()
    version = traffic.version()
    assert version is not None
    before = traffic.release()
    assert before.classes
    for _ in range(10):
        if traffic.version() is None:
            break
        traffic.send(np.tile(np.arange(4), 20), answer=4, audit=True)
        traffic.look()
    ended = next(v for v in traffic.store.exits.versions(NETWORK) if v.exit == version.exit)
    assert ended.ended == "withdrawn"
    last = ExitRelease.from_bytes(unsigned(ended.release))
    assert last.classes == {}
    assert last.number > before.number
    assert all(c.withdrawn for c in ExitState.from_json(ended.state).classes.values() if c.bin)


def test_a_release_says_for_which_tolerance_it_was_proven_and_ends_with_it(
    traffic: ExitTraffic,
) -> None:
    traffic.prove()
    before = traffic.release()
    assert before.tolerance == traffic.policy.tolerance
    assert before.classes
    looser = replace(traffic.policy, tolerance=0.5)
    strict = replace(traffic.policy, tolerance=0.1)
    traffic.policy = looser
    traffic.look()
    assert traffic.release() == before
    traffic.policy = strict
    traffic.look()
    ends = {version.exit: version.ended for version in traffic.store.exits.versions(NETWORK)}
    assert ends.pop(before.version) == "superseded"
    assert set(ends.values()) == {""}
    assert (traffic.release().tolerance, traffic.release().classes) == (0.1, {})


def test_a_release_of_a_clock_that_was_ahead_is_issued_again(traffic: ExitTraffic) -> None:
    traffic.prove()
    version = traffic.version()
    assert version is not None
    before = traffic.release()
    ahead = replace(before, issued=before.issued + 2 * DAY_S, expires=before.expires + 2 * DAY_S)
    spoilt = replace(version, release=sign(ahead.to_bytes(), traffic.key))
    assert traffic.store.exits.replace(version, spoilt)
    now = time.time()
    assert not traffic.release().in_time(now)
    traffic.look()
    release = traffic.release()
    assert release.in_time(now)
    assert release.number > before.number
    assert release.classes == before.classes
    traffic.look()
    assert traffic.release() == release


def test_a_promise_for_each_class_ends_a_version_that_keeps_it_together(
    traffic: ExitTraffic,
) -> None:
    together = traffic.policy
    traffic.prove()
    before = traffic.release()
    assert before.classes
    traffic.policy = replace(together, promise="each")
    traffic.look()
    assert traffic.release().classes == {}
    traffic.prove()
    each = traffic.release()
    assert each.version != before.version
    assert each.classes
    version = traffic.version()
    assert version is not None
    assert ExitState.from_json(version.state).promise == "each"
    traffic.policy = together  # which promises less, so it holds from the next version on
    traffic.look()
    assert traffic.release() == each


def test_the_share_of_photos_that_devices_may_answer(traffic: ExitTraffic) -> None:
    traffic.prove()
    version = traffic.version()
    assert version is not None
    state = ExitState.from_json(version.state)
    counts = traffic.store.exits.counts(NETWORK, version.exit)
    above = sum(
        row.number
        for row in counts
        if row.kind == "shadow" and row.bin >= (state.classes[row.class_id].bin or 0)
    )
    share = state.share(shadow_counts(counts))
    assert share == above / sum(row.number for row in counts)
    assert 0.5 < share <= 1
    assert state.share({}) == 0
    withdrawn = {c: replace(row, withdrawn=1.0) for c, row in state.classes.items()}
    assert replace(state, classes=withdrawn).share(shadow_counts(counts)) == 0


def test_a_photo_that_is_sent_again_has_no_second_voice(traffic: ExitTraffic) -> None:
    traffic.send(np.tile(np.arange(4), 60))
    traffic.look()
    version = traffic.version()
    assert version is not None
    values = traffic.activation(1)
    exit_ = traffic.exit()
    said = exit_.answer(pool(values, 1, exit_.pooling))
    text = str(ExitStatement(version.exit, said.class_id, said.bin))
    for _ in range(2):  # in one flush, and in another
        for _ in range(3):
            traffic.recorder.offer(CUT, values, 1, 1, at=time.time(), statement=text)
        assert traffic.recorder.flush(60.0)
    (count,) = traffic.store.exits.counts(NETWORK, version.exit)
    assert (count.number, count.agreeing) == (1, 1)


@pytest.mark.parametrize("text", ["", "x", "f" * 16 + ":1:2", "{v}:1:99", "{v}:{other}:2", "{v}:1"])
def test_statements_that_do_not_hold_are_counted_as_refused_alone(
    traffic: ExitTraffic, text: str
) -> None:
    traffic.send(np.tile(np.arange(4), 60))
    traffic.look()
    version = traffic.version()
    assert version is not None
    values = traffic.activation(1)
    exit_ = traffic.exit()
    assert exit_.answer(pool(values, 1, exit_.pooling)).class_id == 1
    statement = text.format(v=version.exit[:16], other=3)
    traffic.recorder.offer(CUT, values, 1, 1, at=time.time(), statement=statement)
    assert traffic.recorder.flush(60.0)
    assert traffic.recorder.counters()["refused"] == 1
    assert traffic.store.exits.counts(NETWORK, version.exit) == ()


def test_a_known_device_has_one_voice_an_hour_and_a_class_needs_many(
    store: Store, url: str, tmp_path: Path
) -> None:
    made = ExitTraffic.make(store, url, tmp_path, by_device=True, warm_up=8)
    made.policy = replace(made.policy, min_devices=3, min_photos=4)
    classes = np.arange(4)
    for device in ("a", "b", None, None):
        for _ in range(20):
            made.send(classes, device=device)
    behind = store.exits.classes(NETWORK, CUT)
    assert {tuple(row) for row in behind.values()} == {(3, 2.0)}  # the others are one device
    made.look()
    assert made.version() is None
    for device in ("c", "d"):
        made.send(classes, device=device)
    made.look()
    version = made.version()
    assert version is not None
    for _ in range(5):
        made.send(classes, device="a")
    counts = store.exits.counts(NETWORK, version.exit)
    assert sum(count.number for count in counts) <= 4
    made.recorder.close()


def test_versions_end_and_are_deleted_with_their_counts(traffic: ExitTraffic) -> None:
    traffic.prove()
    version = traffic.version()
    assert version is not None
    checked = traffic.store.check()
    assert checked["isplit_exit"] == 1
    assert checked["isplit_exit_count"] > 0
    assert "isplit_exit_sums" in {row["table"] for row in traffic.store.export()}
    now = time.time()
    with traffic.store._db.write() as (connection, _):
        connection.execute(tables.exit_version.update().values(expires=now - 2 * 86_400))
        assert delete_old(connection, now) == 0  # its number says how much of alpha is spent
    traffic.send(np.tile(np.arange(4), 200))
    traffic.look()
    (newest,) = traffic.store.exits.versions()
    assert newest.exit != version.exit
    assert ExitState.from_json(newest.state).version == 2
    assert traffic.store.exits.counts(NETWORK, version.exit) == ()


def test_voices_go_after_two_hours_where_no_answer_follows(traffic: ExitTraffic) -> None:
    traffic.send(np.tile(np.arange(4), 60))
    traffic.look()
    traffic.send(np.arange(4))
    traffic.look()
    count = sa.select(sa.func.count()).select_from(tables.exit_voice)
    with traffic.store._db.write() as (connection, _):
        assert connection.scalar(count) == 4
        hour = tables.exit_voice.c.hour
        connection.execute(tables.exit_voice.update().values(hour=hour - 4 * 3600))
    traffic.look()
    with traffic.store._db.read() as connection:
        assert connection.scalar(count) == 0
    assert traffic.version() is not None


def test_a_forgotten_network_has_no_exits(traffic: ExitTraffic) -> None:
    traffic.prove()
    forgotten = traffic.store.forget("toy", version="1.0")
    assert forgotten.rows["exit"] == 1
    assert traffic.store.exits.versions() == ()
    assert traffic.store.exits.photos() == {}


def test_two_keepers_make_one_version(traffic: ExitTraffic) -> None:
    traffic.send(np.tile(np.arange(4), 60))
    put = partial(
        make_version, traffic.store.exits, NETWORK, CUT, [], 240, traffic.key, traffic.policy
    )
    assert put(time.time())
    assert not put(time.time())
    version = traffic.version()
    assert version is not None
    changed = replace(version, number=version.number + 1)
    assert traffic.store.exits.replace(version, changed)
    assert not traffic.store.exits.replace(version, changed)


def test_sums_with_other_bounds_are_left_out_and_the_next_ones_fit(
    traffic: ExitTraffic, url: str
) -> None:
    other = ExitRecorder(url, NETWORK, sampling=1.0, flush_s=60.0, warm_up=8)
    for class_id in [0, 1] * 4:  # its bounds are known to itself alone, until it writes
        other.offer(CUT, traffic.activation(class_id), 1, class_id, at=time.time())
    traffic.send(np.tile(np.arange(4), 20))
    assert other.flush(60.0)
    other.offer(CUT, traffic.activation(0), 1, 0, at=time.time())
    assert other.flush(60.0)
    assert traffic.store.exits.photos()[NETWORK, CUT] in (81, 89)
    other.close()


def test_one_cut_more_than_fit_has_no_sums(traffic: ExitTraffic) -> None:
    recorder = traffic.recorder
    for number in range(MAX_CUTS + 1):
        cut = Cut(f"layer{number}", "uint8")
        for class_id in [0, 1] * 40:
            recorder.offer(cut, traffic.activation(class_id), 1, class_id, at=time.time())
        assert recorder.flush(60.0)
    assert len(traffic.store.exits.photos()) == MAX_CUTS


def test_a_cut_without_traffic_gives_its_place_away(
    traffic: ExitTraffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exit_recorder, "RETRY_S", 0.0)
    recorder, exits = traffic.recorder, traffic.store.exits

    def send(number: int) -> Cut:
        cut = Cut(f"layer{number}", "uint8")
        for class_id in [0, 1] * 40:
            recorder.offer(cut, traffic.activation(class_id), 1, class_id, at=time.time())
        assert recorder.flush(60.0)
        return cut

    old, *_, refused = [send(number) for number in range(MAX_CUTS + 1)]
    assert (NETWORK, refused) not in exits.photos()
    nearly = exit_sums.STALE_HALF_LIVES * traffic.store.half_life_s - 3600

    def pretend(seconds_ago: float) -> None:
        table = tables.exit_sums
        with traffic.store._db.write() as (connection, _):
            written = table.update().values(written=time.time() - seconds_ago)
            connection.execute(written.where(table.c.split_point == old.split_point))

    pretend(nearly)
    send(MAX_CUTS)
    assert (NETWORK, refused) not in exits.photos()
    pretend(nearly + 7200)
    send(MAX_CUTS)
    assert (NETWORK, refused) in exits.photos()
    assert (NETWORK, old) not in exits.photos()
    assert exits.classes(NETWORK, old) == {}
    assert len(exits.photos()) == MAX_CUTS
    # The keeper deletes them, too, although nobody needs the place.
    pretend_all = tables.exit_sums.update().values(written=0.0)
    with traffic.store._db.write() as (connection, _):
        connection.execute(pretend_all)
    traffic.look()
    assert exits.photos() == {}
    # The worker knows bounds of it still, and writes it anew.
    assert send(1)
    assert set(exits.photos()) == {(NETWORK, Cut("layer1", "uint8"))}


def test_an_exit_is_made_again_after_its_sums_were_stale(traffic: ExitTraffic) -> None:
    traffic.prove()
    version = traffic.version()
    assert version is not None
    now = time.time()
    with traffic.store._db.write() as (connection, _):
        connection.execute(tables.exit_sums.update().values(written=0.0))
        connection.execute(tables.exit_version.update().values(expires=now - 60))
    traffic.look()
    assert traffic.store.exits.photos() == {}
    traffic.send(np.tile(np.arange(4), 40))
    assert traffic.store.exits.photos()[NETWORK, CUT] < version.photos
    traffic.look()
    again = traffic.version()
    assert again is not None
    assert ExitState.from_json(again.state).version == 2


def test_the_bytes_in_the_queue_are_counted_right_from_many_threads(
    traffic: ExitTraffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and writing the number, other threads run."""

    def read(recorder: ExitRecorder) -> int:
        number = int(recorder.__dict__["bytes"])
        time.sleep(0)
        return number

    def write(recorder: ExitRecorder, number: int) -> None:
        recorder.__dict__["bytes"] = number

    monkeypatch.setattr(ExitRecorder, "_queued_bytes", property(read, write), raising=False)
    recorder = ExitRecorder(traffic.recorder._url, NETWORK, sampling=1.0, flush_s=0.01)
    values = np.zeros((6, 1, 1), np.float32)

    def offer() -> None:
        for _ in range(200):
            recorder.offer(CUT, values, 1, 0, at=time.time())

    threads = [threading.Thread(target=offer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.flush(60.0)
    assert recorder.__dict__["bytes"] == 0
    recorder.close()


def test_an_activation_that_waits_keeps_no_batch_alive(traffic: ExitTraffic) -> None:
    batch = np.zeros((64, 6, 3, 3), np.float32)
    kept = weakref.ref(batch)
    assert traffic.recorder.offer(CUT, batch[3], 1, 0, at=time.time())
    del batch
    assert kept() is None


def test_a_damaged_exit_stops_no_other(traffic: ExitTraffic) -> None:
    classes = np.tile(np.arange(4), 100)
    traffic.send(classes)
    traffic.look()
    version = traffic.version()
    assert version is not None
    other = replace(
        version,
        exit="0" * 64,
        cut=Cut("layer2", "uint8"),
        created=version.created - 1.0,
        state="{",
    )
    assert traffic.store.exits.put(other, b"damaged")
    with traffic.store._db.write() as (connection, _):
        connection.execute(
            tables.exit_version.update()
            .where(tables.exit_version.c.exit == other.exit)
            .values(created=version.created + 1.0)
        )
    assert traffic.store.exits.versions(NETWORK)[0].exit == other.exit
    now = time.time()
    exit_ = traffic.store.exits.content(NETWORK, version.exit)
    assert exit_ is not None
    fitted = read_version(exit_)
    for class_id in classes.tolist():
        values = traffic.activation(class_id)
        said = fitted.answer(pool(values, 1, fitted.pooling))
        text = str(ExitStatement(fitted.version, max(said.class_id, 0), said.bin))
        traffic.recorder.offer(CUT, values, 1, class_id, at=now, statement=text)
    assert traffic.recorder.flush(60.0)
    assert traffic.recorder.release(other.cut) == "none"
    with pytest.raises(StoreError, match="state of an exit"):
        traffic.look()
    proven = next(v for v in traffic.store.exits.versions() if v.exit == version.exit)
    assert ExitState.from_json(proven.state).was_released


def test_a_damaged_version_that_has_ended_counts_as_one_and_blocks_no_other(
    traffic: ExitTraffic,
) -> None:
    traffic.send(np.tile(np.arange(4), 60))
    traffic.look()
    damaged = traffic.version()
    assert damaged is not None
    with traffic.store._db.write() as (connection, _):
        ended = {"state": "{", "expires": time.time() - 60}
        connection.execute(tables.exit_version.update().values(**ended))
    traffic.send(np.tile(np.arange(4), 60))
    traffic.look()
    version = traffic.version()
    assert version is not None
    assert version.exit != damaged.exit
    assert ExitState.from_json(version.state).version == 2


def test_damaged_sums_hold_up_no_answers(traffic: ExitTraffic, url: str) -> None:
    traffic.send(np.tile(np.arange(4), 60))
    traffic.look()
    with traffic.store._db.write() as (connection, _):
        connection.execute(tables.exit_sums.update().values(sums=b"damaged"))
    later = ExitRecorder(url, NETWORK, sampling=1.0, flush_s=60.0)
    made = replace(traffic, recorder=later)
    assert made.send(np.tile(np.arange(4), 10)) > 20
    assert later.counters()["answers"] > 20
    later.close()


def test_more_classes_than_sums_have_leave_room_for_the_others(
    traffic: ExitTraffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sums, exit_sums):
        monkeypatch.setattr(module, "MAX_CLASSES", 3, raising=False)
    traffic.send(np.tile([0, 1], 50))
    traffic.send(np.tile([1, 2, 3], 20))
    stored = traffic.store.exits.sums(NETWORK, CUT)
    assert stored is not None
    assert stored.class_ids.tolist() == [0, 1, 2]
    assert traffic.store.exits.photos()[NETWORK, CUT] == 140
    traffic.send(np.arange(4))  # more at once than sums have
    assert traffic.recorder.counters()["invalid"] == 4


def test_bounds_of_features_that_do_not_vary() -> None:
    features = np.zeros((64, 3), np.float32)
    features[:, 1] = np.linspace(0, 1, 64)
    features[0, 1] = 1e6  # one of a single device
    low, high = bounds_of(features)
    assert (low < high).all()
    assert high[1] < 10


def test_a_store_without_the_tables_costs_no_prediction(path: Path) -> None:
    with Store(path) as store:
        store.put_network(manifest(), profile())
        with store._db.write() as (connection, _):
            connection.execute(sa.text("DROP TABLE isplit_exit"))
        recorder = ExitRecorder(path, NETWORK, sampling=1.0, flush_s=60.0)
        assert recorder.offer(CUT, np.ones((6, 3, 3), np.float32), 1, 0, at=time.time())
        assert not recorder.flush(60.0)
        assert recorder.release(CUT) == ""
        assert recorder.counters()["flush_failures"] == 1
        recorder.close()
