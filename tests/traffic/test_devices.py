"""One device, one hour, one observation: by hand, in any order, and with one that lies."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import count, pairwise, product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.polling import until
from toys.traffic import CLASSES, NETWORK, POINTS, manifest, observation, profile, sample

from isplit_plugin.advice.curves import class_curves
from isplit_plugin.advice.live_moments import live_moments
from isplit_plugin.advice.live_view import ImportanceRows, LiveView
from isplit_plugin.errors import StoreError
from isplit_plugin.schema import Cut
from isplit_plugin.traffic import Delta, Recorder, Sampler, Store
from isplit_plugin.traffic.aggregates import devices
from isplit_plugin.traffic.aggregates.devices import UNSIGNED
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S
from isplit_plugin.traffic.aggregates.sketch import (
    SKETCH_SIZE,
    count_devices,
    merge_sketches,
    sketch_of,
)
from isplit_plugin.traffic.rows import device as device_rows

MEAN0 = np.full(POINTS, 0.5)
HALF_LIFE = DEFAULT_HALF_LIFE_S
HOUR = 3600.0
AT = 1_000_000_800.0  # a full hour
assert AT % HOUR == 0


def delta() -> Delta:
    return Delta(MEAN0, HALF_LIFE, CLASSES, by_device=True)


def curve(seed: int, start: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).lognormal(size=(1, POINTS))
    x[:, :start] = np.nan
    return x


def add(to: Delta, x: np.ndarray, device: object, at: float = AT, **changes: object) -> None:
    to.add_importance(sample(x[0], at=at, device=device, **changes))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """One store for all; each view is of a network of its own."""
    if request.param == "sqlite":
        with Store(tmp_path_factory.mktemp("devices") / "x.db") as store:
            yield store
        return
    with request.getfixturevalue("postgres").database() as url, Store(url) as store:
        yield store


_numbers = count()


def view_of(store: Store, *deltas: Delta) -> LiveView:
    network = f"network{next(_numbers)}"
    store.put_network(manifest(network, model=network), profile(network=network))
    for one in deltas:
        store.add(network, one)
    return store.view(network)


def curves_of(view: LiveView, class_id: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, effective number and devices of a class, pooled over sources, each (P,)."""
    moments = live_moments(view.importance, np.array([class_id]), MEAN0, "predicted")
    return moments.mean[0], moments.n[0], moments.devices[0]


def devices_of(rows: ImportanceRows) -> np.ndarray:
    """The number of devices (K, P) of rows in which devices count."""
    assert rows.devices is not None
    return rows.devices


def same(a: LiveView, b: LiveView) -> None:
    assert [(r.source, r.target) for r in a.importance] == [
        (r.source, r.target) for r in b.importance
    ]
    for x, y in zip(a.importance, b.importance, strict=True):
        assert np.array_equal(x.class_ids, y.class_ids)
        assert np.array_equal(devices_of(x), devices_of(y))
        for name in ("count", "weight", "weight2", "sum1", "sum2"):
            size = max(1.0, float(np.abs(getattr(y, name)).max()))
            assert getattr(x, name) == pytest.approx(
                getattr(y, name), rel=1e-12, abs=1e-12 * size
            ), name


def test_a_device_counts_once_in_an_hour_and_again_in_the_next(shared: Store) -> None:
    one = delta()
    for i in range(50):
        add(one, curve(i), "a", AT + i)
    add(one, curve(100), "b")
    add(one, curve(101), "a", AT + HOUR)
    mean, n, known = curves_of(view_of(shared, one))
    w = 2 ** (-HOUR / HALF_LIFE)
    a, b, later = np.mean([curve(i) for i in range(50)], axis=0)[0], curve(100)[0], curve(101)[0]
    g = 1 / (1 + w)  # it has an hour already, which has decayed to w
    assert mean == pytest.approx((w * a + w * b + g * later) / (2 * w + g), rel=1e-12)
    assert n == pytest.approx([(2 * w + g) ** 2 / (2 * w * w + g * g)] * POINTS, rel=1e-12)
    assert known.tolist() == [2.0] * POINTS


def test_a_device_weighs_one_whatever_points_sources_and_groups_it_uses(shared: Store) -> None:
    one = delta()
    add(one, curve(0), "a", source="probe", group="z")
    add(one, curve(1), "a", source="input", group="y")
    for i, start in enumerate((1, 2, 3, 3)):
        add(one, curve(10 + i, start), "a", group=f"g{i}")
    view = view_of(shared, one)
    (rows,) = view.importance
    assert rows.source == "probe"  # the last of those who know the whole curve
    assert rows.count.tolist() == [[1.0] * POINTS]
    stacked = np.stack(
        [curve(0)[0], curve(1)[0], *(curve(10 + i, s)[0] for i, s in enumerate((1, 2, 3, 3)))]
    )
    assert curves_of(view)[0] == pytest.approx(np.nanmean(stacked, axis=0), rel=1e-12)


def test_without_identity_every_request_counts_by_itself(shared: Store) -> None:
    one = Delta(MEAN0, HALF_LIFE, CLASSES)
    for i in range(5):
        add(one, curve(i), "a")
    view = view_of(shared, one)
    assert view.importance[0].count.tolist() == [[5.0] * POINTS]
    assert view.importance[0].devices is None
    switched_on = delta()
    for i in range(7):
        add(switched_on, curve(i), "ab"[i % 2])
    (rows,) = view_of(shared, one, switched_on).importance
    assert (
        rows.count.tolist() == devices_of(rows).tolist() == [[7.0] * POINTS]
    )  # five by themselves, two devices


observed = st.lists(
    st.tuples(
        st.integers(0, 2),  # hours
        st.sampled_from(["a", "b", "c", None]),
        st.integers(0, 2),  # first known point
        st.integers(0, 1),  # class
        st.sampled_from(["g", "h"]),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=40)
@given(observed, st.randoms(use_true_random=False))
def test_any_partition_of_the_flushes_is_the_whole(
    shared: Store, drawn: list[tuple[int, str | None, int, int, str]], random: Random
) -> None:
    """Hours come in order; within an hour observations come in any order, in any flushes."""
    whole = delta()
    order = sorted(range(len(drawn)), key=lambda i: (drawn[i][0], random.random()))
    cuts = sorted({0, len(order), *(random.randrange(len(order) + 1) for _ in range(3))})
    parts = [delta() for _ in cuts[1:]]
    for part, (begin, end) in zip(parts, pairwise(cuts), strict=True):
        for i in order[begin:end]:
            hour, device, start, class_id, group = drawn[i]
            for to in (whole, part):
                add(
                    to,
                    curve(i, start),
                    device,
                    AT + hour * HOUR + i,
                    class_id=class_id,
                    group=group,
                )
    one, many = view_of(shared, whole), view_of(shared, *parts)
    same(one, many)


def test_closing_a_bucket_changes_nothing_but_the_rows(tmp_path: Path) -> None:
    def filled() -> Delta:
        one = delta()
        for i in range(60):
            add(
                one,
                curve(i, i % 3),
                f"d{i % 7}",
                AT + i * 60,
                class_id=i % CLASSES,
                group=f"g{i % 2}",
            )
        return one

    with Store(tmp_path / "x.db") as store:
        store.put_network(manifest(), profile())
        store.add(NETWORK, filled())
        assert store.check()["isplit_importance"] == 0
        staged = store.check()["isplit_device_bucket"]
        assert staged > 0
        before = store.view(NETWORK)
        late = delta()
        add(late, curve(1000), "d0", AT + 50 * HOUR, class_id=0, target="true")
        store.add(NETWORK, late)
        assert store.check()["isplit_device_bucket"] == 1
        assert store.check()["isplit_importance"] > 0
        after = store.view(NETWORK)
        assert after.as_of is not None
        assert before.as_of is not None
        w = 2 ** ((after.as_of - before.as_of) / HALF_LIFE)
        kept = [rows for rows in after.importance if rows.target == "predicted"]
        for x, y in zip(before.importance, kept, strict=True):
            assert x.weight == pytest.approx(w * y.weight, rel=1e-12)
            assert x.sum1 == pytest.approx(w * y.sum1, rel=1e-12, abs=1e-13)
            assert x.sum2 == pytest.approx(w * y.sum2, rel=1e-12)
            assert np.array_equal(x.count, y.count)
            assert np.array_equal(devices_of(x), devices_of(y))


def test_what_comes_too_late_has_no_second_say_in_its_bucket(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store:
        store.put_network(manifest(), profile())
        for at in (AT, AT + 10 * HOUR):
            one = delta()
            add(one, curve(1), "honest", at)
            add(one, curve(2), "liar", at)
            store.add(NETWORK, one)
        for i in range(20):  # all the hours that are over, again and again
            one = delta()
            add(one, 100 * curve(3), "liar", AT + (i % 9) * HOUR)
            store.add(NETWORK, one)
        rows = store.view(NETWORK).importance[0]
        assert rows.count[0, 0] == 5  # two of two devices, and one mean of everything late


liar_values = st.lists(st.floats(0, 1e6), min_size=POINTS, max_size=POINTS)


@settings(max_examples=30)
@given(
    st.integers(2, 12),
    st.lists(
        st.tuples(liar_values, st.integers(0, POINTS - 1), st.sampled_from(["g", "h", "i"])),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 2),
)
def test_one_liar_moves_no_curve_by_more_than_its_share(
    shared: Store, number: int, lies: list[tuple[list[float], int, str]], hours: int
) -> None:
    """However often it sends curves, at whatever split points and in whatever groups."""
    honest, poisoned = delta(), delta()
    for hour in range(hours):
        for device in range(number):
            at = AT + hour * HOUR + device
            add(honest, curve(device), f"d{device}", at)
            if device:
                add(poisoned, curve(device), f"d{device}", at)
    highest, lowest = np.zeros(POINTS), np.full(POINTS, np.inf)
    for hour in range(hours):
        add(poisoned, curve(0), "d0", AT + hour * HOUR)  # so that it speaks at every point
        highest = np.maximum(highest, curve(0)[0])
        lowest = np.minimum(lowest, curve(0)[0])
        for values, start, group in lies:
            lie = np.array([values])
            lie[0, :start] = np.nan
            add(poisoned, lie, "d0", AT + hour * HOUR + 1, group=group)
            highest = np.fmax(highest, lie[0])
            lowest = np.fmin(lowest, lie[0])
    clean, n, known = curves_of(view_of(shared, honest))
    moved, n_moved, known_moved = curves_of(view_of(shared, poisoned))
    reach = np.maximum(highest - curve(0)[0], curve(0)[0] - lowest)
    assert (np.abs(moved - clean) <= reach / number * (1 + 1e-9) + 1e-9).all()
    assert n_moved == pytest.approx(n, rel=1e-12)
    assert known.tolist() == known_moved.tolist() == [number] * POINTS


@pytest.mark.parametrize("invented", [None, "", "x" * 65, "line\nbreak", 7, b"bytes", ["list"]])
def test_ten_invented_ids_of_one_liar_weigh_no_more_than_one(
    shared: Store, invented: object
) -> None:
    """Without a verified device there is one id for everybody, whatever was sent."""
    one, many = delta(), delta()
    for to, lies in ((one, 1), (many, 10)):
        for device in range(9):
            add(to, curve(device), f"d{device}")
        for _ in range(lies):
            add(to, np.full((1, POINTS), 1000.0), invented)
    a, b = (curves_of(view_of(shared, to)) for to in (one, many))
    assert a[0] == pytest.approx(b[0], rel=1e-12)
    expected = (np.sum([curve(d)[0] for d in range(9)], axis=0) + 1000.0) / 10
    assert b[0] == pytest.approx(expected, rel=1e-12)
    assert b[2].tolist() == [10.0] * POINTS


def test_standard_errors_are_over_devices(shared: Store) -> None:
    """Three devices for a hundred hours tell about as much as three observations."""
    curves = []
    for known in (True, False):
        one = Delta(MEAN0, HALF_LIFE, CLASSES, by_device=known)
        for device, hour in product(range(3), range(100)):
            add(one, curve(device) * (1 + 0.01 * (hour % 2)), f"d{device}", AT + hour * HOUR)
        curves.append(class_curves(profile(), view_of(shared, one), np.array([0]))[0])
    by_device, by_request = curves
    assert by_device.value == pytest.approx(by_request.value, rel=1e-2)
    assert (by_device.standard_error > 5 * by_request.standard_error).all()
    assert [p.devices for p in by_device.points(profile())] == [3] * POINTS
    assert [p.devices for p in by_request.points(profile())] == [None] * POINTS


def test_the_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rows, "MAX_DEVICES", 3)
    monkeypatch.setattr(device_rows, "MAX_DEVICE_ROWS", 8)
    with Store(tmp_path / "x.db") as store:
        store.put_network(manifest(), profile())
        for i in range(30):
            one = delta()
            add(one, curve(i), f"d{i}", class_id=i % CLASSES)
            store.add(NETWORK, one)
            assert store.check()["isplit_device_bucket"] <= 8 + CLASSES
        rows = store.view(NETWORK).importance[0]
        assert rows.count[:, 0].max() <= 4  # three devices and `other`
        total = rows.sum1.sum(axis=0)
    assert np.isfinite(total).all()


def test_a_delta_is_bounded_by_its_keys() -> None:
    small = Delta(MEAN0, HALF_LIFE, CLASSES, max_keys=6, by_device=True)
    for i in range(50):
        add(small, curve(i), f"d{i}", class_id=i % CLASSES)
    assert len(small) <= 6
    assert small.overflow > 0


def test_devices_are_forgotten_when_their_weight_is_gone(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store:
        store.put_network(manifest(), profile())
        for age in (0, 20, 21):
            one = delta()
            for device in range(5):
                add(one, curve(device), f"{device if age else device + 100}", AT + age * HALF_LIFE)
            store.add(NETWORK, one)
        last = delta()
        add(last, curve(0), "0", AT + 22 * HALF_LIFE)
        store.add(NETWORK, last)
        (rows,) = store.view(NETWORK).importance
        assert devices_of(rows)[0].tolist() == [5.0] * POINTS


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=60),
    st.randoms(use_true_random=False),
)
def test_sketches_are_exact_while_small_in_any_order(
    seen: list[tuple[int, int]], random: Random
) -> None:
    parts = [sketch_of([(str(device), 3600 * hour)]) for device, hour in seen]
    random.shuffle(parts)
    whole = merge_sketches([merge_sketches(parts[:7]), merge_sketches(parts[7:])])
    assert count_devices(whole) == len({device for device, _ in seen})
    since = merge_sketches([whole], not_before=3600 * 3)
    latest = {d: max(h for e, h in seen if e == d) for d, _ in seen}
    assert count_devices(since) == sum(hour >= 3 for hour in latest.values())


@pytest.mark.parametrize("number", [SKETCH_SIZE, 1_000, 20_000])
def test_large_sketches_are_about_right_and_merge_exactly(number: int) -> None:
    parts = [sketch_of((f"d{i}", 0) for i in range(k, number, 3)) for k in range(3)]
    whole = sketch_of((f"d{i}", 0) for i in range(number))
    assert np.array_equal(merge_sketches(parts), whole)
    assert len(whole) <= SKETCH_SIZE
    assert count_devices(whole) == pytest.approx(number, rel=4 / np.sqrt(SKETCH_SIZE))


def test_a_bucket_is_an_hour_or_a_24th_of_the_half_life() -> None:
    assert devices.bucket_s(HALF_LIFE) == 3600
    assert devices.bucket_s(240) == 10
    assert devices.bucket_s(1) == 1
    assert devices.bucket_of(AT + 3599.9, HALF_LIFE) == AT
    assert devices.bucket_of(AT + 12, 240) == AT + 10


def test_the_recorder_and_the_sampler_carry_the_device_along(tmp_path: Path) -> None:
    url = tmp_path / "x.db"
    with Recorder(
        url, NETWORK, manifest=manifest(), profile=profile(), by_device=True, flush_s=3600
    ) as recorder:
        for device in ("a", "b", None, None):
            recorder.add_importance(sample(curve(1)[0], at=AT, device=device))
        values = curve(2)[0]
        with Sampler(lambda *_: values, recorder, share=1.0, cpu_budget=1.0, idle_s=0.0) as sampler:
            for device in ("b", "c"):
                photo = observation(0, cut=Cut("input", "jpeg", 90), at=AT, device=device)
                sampler.offer(photo, np.zeros((1, 4)))
            until(lambda: sampler.counters()["computed"] == 2)
        assert recorder.flush(60.0)
        with Store(url) as store:
            totals = {
                row["device"]: row["values"][0]
                for row in store.export()
                if row["table"] == "isplit_device_bucket"
            }
            assert totals == {"a": 1.0, "b": 2.0, "c": 1.0, UNSIGNED: 2.0}
            (rows,) = store.view(NETWORK).importance
            assert devices_of(rows)[0].tolist() == [4.0] * POINTS


@pytest.mark.parametrize(
    ("statement", "hours"),
    [
        ("UPDATE isplit_device_bucket SET sums = x'00'", 0),
        ("UPDATE isplit_device_bucket SET bucket = 'noon'", 0),
        ("UPDATE isplit_device_sketch SET sketch = x'00'", 9),
    ],
)
def test_damaged_rows_are_store_errors(tmp_path: Path, statement: str, hours: int) -> None:
    with Store(tmp_path / "x.db") as store:
        store.put_network(manifest(), profile())
        for at in sorted({AT, AT + hours * HOUR}):
            one = delta()
            add(one, curve(0), "a", at)
            store.add(NETWORK, one)
        other = sqlite3.connect(tmp_path / "x.db")
        other.execute(statement)
        other.commit()
        other.close()
        with pytest.raises(StoreError, match="expected"):
            store.view(NETWORK)
