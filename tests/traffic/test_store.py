"""What goes in comes out, added up, about the profile's shift, for one group or for all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.traffic import CLASSES, NETWORK, POINTS, manifest, observation, profile, sample, samples
from toys.views import assert_same

from isplit_plugin.advice.live_view import ImportanceRows
from isplit_plugin.errors import StoreError, UnknownModelError, UnknownVersionError
from isplit_plugin.schema import Cut
from isplit_plugin.traffic import MAX_GROUPS, OTHER, Delta, Store
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S
from isplit_plugin.traffic.rows.request import PendingRequest

MEAN0 = np.full(POINTS, 0.5)
HALF_LIFE = DEFAULT_HALF_LIFE_S
AT = 1e9


def delta(mean0: np.ndarray = MEAN0) -> Delta:
    return Delta(mean0, HALF_LIFE, CLASSES)


def curves(number: int, start: int = 0, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).lognormal(size=(number, POINTS))
    values[:, :start] = np.nan
    return values


def filled(seed: int = 0, at: float = AT) -> Delta:
    """Forty whole curves, forty from point 2 on, and as many observations."""
    one = delta()
    labels = np.random.default_rng(seed).integers(0, CLASSES, 40)
    for whole in samples(labels, curves(40, 0, seed), at=at):
        one.add_importance(whole)
    for part in samples(labels, curves(40, 2, seed + 1), group="cam", at=at + 60):
        one.add_importance(part)
    for i, label in enumerate(labels):
        one.add_observation(
            observation(i, class_id=int(label), at=at + i, group="cam" if i % 2 else "all")
        )
    return one


def test_a_network_comes_back_as_it_was_put(store: Store) -> None:
    assert store.manifest("toy") == manifest()
    kept = store.profile(NETWORK)
    assert kept is not None
    assert kept.to_bytes() == profile().to_bytes()
    assert store.profile(NETWORK) is kept  # parsed once
    (row,) = store.networks()
    assert row[:4] == ("toy", "1.0", NETWORK, True)
    assert row.as_of is None


def test_putting_the_same_again_changes_nothing(store: Store, url: str) -> None:
    before = store.revision()
    store.put_network(manifest(), profile().to_bytes())
    store.put_network(manifest(), None)
    with Store(url) as other:
        other.put_network(manifest(), profile())
    assert store.revision() == before
    assert store.profile(NETWORK) is not None


def test_unknown_names_list_the_known_ones(store: Store) -> None:
    with pytest.raises(UnknownModelError, match="unknown model 'cat'; known: toy"):
        store.manifest("cat")
    with pytest.raises(
        UnknownVersionError, match=r"unknown version '9' of model 'toy'; known: 1\.0"
    ):
        store.manifest("toy", "9")
    with pytest.raises(UnknownVersionError, match=f"no network nothing in the store; .*{NETWORK}"):
        store.profile("nothing")


def test_a_profile_of_another_network_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="expected a profile of network sha256-toy with 4 points"):
        store.put_network(manifest(), profile(network="sha256-other"))
    with pytest.raises(StoreError, match="expected 4 points as kept so far, got 3"):
        store.put_network(manifest(points=3, version="3"), None)
    with pytest.raises(StoreError, match="expected a profile of toy"):
        store.put_network(manifest(), b"no profile")


def test_without_traffic_the_view_is_empty(store: Store) -> None:
    view = store.view(NETWORK)
    assert view.importance == view.served == view.outcomes == ()
    assert view.as_of is None
    assert store.view("nobody put this").observations == 0


def test_sums_are_those_of_numpy(store: Store) -> None:
    store.add(NETWORK, filled())
    view = store.view(NETWORK)
    labels = np.random.default_rng(0).integers(0, CLASSES, 40)
    assert view.as_of == AT + 60
    by_source: dict[str, ImportanceRows] = {rows.source: rows for rows in view.importance}
    for source, start, seed, age in (("input", 0, 0, 60), ("tail", 2, 1, 0)):
        rows, x = by_source[source], curves(40, start, seed) - MEAN0
        w = 2.0 ** (-age / HALF_LIFE)
        assert np.array_equal(rows.class_ids, np.unique(labels))
        for row, class_id in enumerate(rows.class_ids):
            mine = np.nan_to_num(x[labels == class_id])
            known = np.arange(POINTS) >= start
            assert np.array_equal(rows.count[row], known * len(mine))
            assert rows.weight[row] == pytest.approx(known * len(mine) * w, rel=1e-12)
            assert rows.weight2[row] == pytest.approx(known * len(mine) * w * w, rel=1e-12)
            assert rows.sum1[row] == pytest.approx(w * mine.sum(0), rel=1e-11, abs=1e-12)
            assert rows.sum2[row] == pytest.approx(w * (mine**2).sum(0), rel=1e-12)


def test_any_partition_of_the_flushes_is_the_whole(tmp_path: Path, store: Store) -> None:
    rng = np.random.default_rng(5)
    whole, parts = delta(), [delta() for _ in range(7)]
    for i in range(200):
        at = AT + float(rng.uniform(0, 6 * HALF_LIFE))
        start, part = int(rng.integers(0, 3)), parts[int(rng.integers(0, 7))]
        curve = sample(curves(1, start, i)[0], class_id=i % CLASSES, group=f"g{i % 3}", at=at)
        request = PendingRequest(at, Cut("layer1", "uint8"), i % CLASSES, f"g{i % 3}")
        for to in (whole, part):
            to.add_importance(curve)
            to.add_observation(observation(i, at=at, group=f"g{i % 3}"))
            to.add_label(request, correct=bool(i % 2))
    store.add(NETWORK, whole)
    with Store(tmp_path / "other.db") as other:
        other.put_network(manifest(), profile())
        for part in rng.permutation(np.array(parts, dtype=object)):
            other.add(NETWORK, part)
        assert_same(other.view(NETWORK), store.view(NETWORK))
        assert_same(other.view(NETWORK, "g1"), store.view(NETWORK, "g1"))


def test_a_group_has_its_own_view(store: Store) -> None:
    store.add(NETWORK, filled())
    cam, everybody = store.view(NETWORK, "cam"), store.view(NETWORK, "all")
    assert cam.group == "cam"
    assert [rows.source for rows in cam.importance] == ["tail"]
    assert cam.observations == 20
    assert everybody.observations == 40
    assert everybody.group == "all"
    assert_same(everybody, store.view(NETWORK))
    assert store.view(NETWORK, "no such group").importance == ()


def test_forward_decay_is_told_relative_to_the_newest_observation(store: Store) -> None:
    for age in (0, 3):
        one = delta()
        one.add_importance(sample(curves(1)[0], at=AT + age * HALF_LIFE))
        one.add_observation(observation(0, at=AT + age * HALF_LIFE))
        store.add(NETWORK, one)
    view = store.view(NETWORK)
    (rows,) = view.importance
    assert rows.weight[0] == pytest.approx(1 + 1 / 8, rel=1e-12)
    assert rows.weight2[0] == pytest.approx(1 + 1 / 64, rel=1e-12)
    assert rows.count[0].tolist() == [2] * POINTS
    assert view.class_counts.weight == pytest.approx([1 + 1 / 8], rel=1e-12)
    assert view.class_counts.count.tolist() == [2]


def test_a_new_profile_moves_the_sums_kept_so_far(store: Store, tmp_path: Path) -> None:
    store.add(NETWORK, filled())
    new = [3.0, -1.0, 0.25, 7.0]
    store.put_network(manifest(version="1.1"), profile(new))
    store.add(NETWORK, filled(seed=9))  # a worker that still has the old shift
    with Store(tmp_path / "fresh.db") as fresh:
        fresh.put_network(manifest(), profile(new))
        fresh.add(NETWORK, filled())
        fresh.add(NETWORK, filled(seed=9))
        assert_same(store.view(NETWORK), fresh.view(NETWORK), rel=1e-10)
    store.check()


def test_labels_fill_outcomes_and_never_importance(store: Store) -> None:
    one = delta()
    for i in range(4):
        one.add_observation(observation(i, class_id=2, at=AT))
    for correct in (True, True, False):
        one.add_label(PendingRequest(AT, Cut("layer1", "uint8"), 2, "all"), correct=correct)
    store.add(NETWORK, one)
    view = store.view(NETWORK)
    (row,) = view.outcomes
    counts = (row.cut, row.class_id, row.predictions, row.labelled, row.correct)
    assert counts == (Cut("layer1", "uint8"), 2, *map(pytest.approx, (4, 3, 2)))
    assert view.importance == ()
    assert view.class_counts.count.tolist() == [4]


def test_every_quality_is_counted_by_itself(store: Store) -> None:
    one = delta()
    cuts = [Cut("layer1", "dct", 3), Cut("layer1", "dct", 1), Cut("input", "webp", 75)]
    for i, cut in enumerate([*cuts, cuts[0]]):
        one.add_observation(observation(i, class_id=2, at=AT, cut=cut))
    one.add_label(PendingRequest(AT, cuts[1], 2, "all"), correct=True)
    store.add(NETWORK, one)
    view = store.view(NETWORK)
    assert {row.cut: row.requests for row in view.served} == dict(zip(cuts, (2, 1, 1), strict=True))
    assert {row.cut: row.labelled for row in view.outcomes} == {
        cut: pytest.approx(float(cut == cuts[1])) for cut in cuts
    }


def test_failed_requests_are_errors_and_no_class_seen(store: Store) -> None:
    one = delta()
    one.add_observation(observation(0))
    one.add_observation(observation(1, class_id=None, error="malformed_request"))
    one.add_drops(Cut("layer1", "uint8"), "all", AT, 3)
    store.add(NETWORK, one)
    view = store.view(NETWORK)
    (row,) = view.served
    assert (row.requests, row.errors, row.bytes) == (2, 1, 200)
    assert (row.tail.count, row.tail.mean_ms) == (2, 2.0)
    assert row.tail.median_ms == pytest.approx(2.0, rel=0.02)
    assert row.head.count == 0
    assert math.isnan(row.head.mean_ms)
    assert view.class_counts.count.tolist() == [1]
    assert store.drops(NETWORK) == 3


def test_groups_are_capped_across_workers(store: Store) -> None:
    for worker in range(4):
        one = delta()
        for i in range(10):
            one.add_observation(observation(i, group=f"device{worker * 10 + i}"))
        store.add(NETWORK, one)
    groups = {row.group for row in store.view(NETWORK).served}
    assert len(groups) == MAX_GROUPS + 1
    assert OTHER in groups
    assert store.view(NETWORK).observations == 40
    assert store.view(NETWORK, OTHER).observations == 40 - MAX_GROUPS


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\0b", None, 7, ["unhashable"]])
def test_names_that_make_no_sense_are_other(store: Store, name: Any) -> None:
    one = delta()
    one.add_observation(observation(0, group=name, cut=Cut(name, name)))
    store.add(NETWORK, one)
    (row,) = store.view(NETWORK).served
    assert (row.cut, row.group) == (Cut(OTHER, OTHER), OTHER)


def test_hours_are_rolled_up_to_days_and_days_dropped(store: Store) -> None:
    hour, day = 3600, 86400
    begin = 1_000_000 * day / 1000 // day * day
    for age in range(0, 100 * day, 6 * hour):
        one = delta()
        one.add_observation(observation(0, at=begin + age, class_id=None))
        store.add(NETWORK, one)
    assert store.check()["isplit_served"] <= 90 + 4 * 4
    assert 90 * 4 <= store.view(NETWORK).observations <= 91 * 4 + 4
    late = (
        delta()
    )  # an hour that was rolled up already comes again, and is rolled up with the next new hour
    late.add_observation(observation(0, at=begin + 60 * day, class_id=None))
    late.add_observation(observation(0, at=begin + 100 * day, class_id=None))
    rows, seen = store.check()["isplit_served"], store.view(NETWORK).observations
    store.add(NETWORK, late)
    assert store.check()["isplit_served"] <= rows + 1
    assert seen + 2 - 4 <= store.view(NETWORK).observations <= seen + 2


def test_times_are_those_of_the_last_two_days(store: Store) -> None:
    one = delta()
    one.add_observation(observation(0, at=AT, tail_ms=100.0, head_ms=7.0))
    one.add_observation(observation(1, at=AT + 10 * 86400, tail_ms=10.0))
    store.add(NETWORK, one)
    (row,) = store.view(NETWORK).served
    assert (row.requests, row.tail.count, row.tail.mean_ms) == (2, 1, 10.0)
    assert (row.head.count, row.head.mean_ms) == (1, 7.0)  # nothing newer was reported


def test_every_change_raises_the_revision(store: Store) -> None:
    seen = [store.revision()]
    store.put_network(manifest("sha256-other", model="other"), None)
    seen.append(store.revision())
    mine = store.revision(NETWORK)
    store.add("sha256-other", delta_of_one())
    seen.append(store.revision())
    assert seen == sorted(set(seen))
    assert store.revision(NETWORK) == mine
    assert store.view(NETWORK).revision.endswith(f".{store.revision()}")
    store.add(NETWORK, delta_of_one())
    assert store.revision(NETWORK) == store.revision() > mine
    assert store.view(NETWORK).revision.endswith(f".{store.revision()}")


def delta_of_one() -> Delta:
    one = delta()
    one.add_observation(observation(0))
    return one


def test_same_contents_give_the_same_view(store: Store, url: str) -> None:
    store.add(NETWORK, filled())
    with Store(url) as other:
        a, b = store.view(NETWORK), other.view(NETWORK)
    assert a.revision == b.revision
    assert_same(a, b, rel=0)


def test_a_delta_of_a_network_nobody_put_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="put_network comes first"):
        store.add("nobody", delta_of_one())
    with pytest.raises(StoreError, match="expected 4 points, got 3"):
        store.add(NETWORK, Delta(np.zeros(3), HALF_LIFE, CLASSES))


def test_a_delta_is_bounded_by_its_keys() -> None:
    small = Delta(MEAN0, HALF_LIFE, CLASSES, max_keys=6)
    for i in range(100):
        small.add_observation(observation(i, at=AT + 3600 * i))
        small.add_importance(sample(curves(1)[0], class_id=i % CLASSES, target="true", at=AT))
    assert len(small) <= 6
    assert small.overflow > 0
    assert sum(row.requests for row in small.served.values()) + small.overflow >= 100


@pytest.mark.parametrize(
    "changes",
    [
        {"at": math.nan},
        {"at": -1.0},
        {"at": 1e300},
        {"class_id": CLASSES},
        {"class_id": -1},
        {"bytes_received": "x"},
        {"tail_ms": "slow"},
    ],
)
def test_observations_that_make_no_sense_are_refused_whole(changes: dict[str, object]) -> None:
    one = delta()
    with pytest.raises((ValueError, TypeError, OverflowError)):
        one.add_observation(observation(0, **changes))
    assert len(one) == 0


def test_a_thousand_classes_by_forty_points(tmp_path: Path) -> None:
    points, classes = 40, 1000
    with Store(tmp_path / "big.db") as big:
        big.put_network(
            manifest(points=points, classes=classes), profile(points=points, classes=classes)
        )
        one = Delta(np.full(points, 0.5), HALF_LIFE, classes)
        x = np.random.default_rng(0).random((classes, points))
        for curve in samples(range(classes), x, at=AT):
            one.add_importance(curve)
        big.add(NETWORK, one)
        (rows,) = big.view(NETWORK).importance
        assert rows.sum1 == pytest.approx(x - 0.5, rel=1e-12)
        assert big.check()["isplit_importance"] == classes
