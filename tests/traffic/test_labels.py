"""Labels find their requests, fill the outcome counters, and are refused one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from toys.polling import until
from toys.traffic import CLASSES, NETWORK, POINTS, manifest, observation, profile

from isplit_plugin.errors import (
    LabelledBeforeError,
    QueryError,
    UnknownClassError,
    UnknownRequestError,
)
from isplit_plugin.traffic import Delta, Label, LabelReader, Recorder, Sampler, Store
from isplit_plugin.traffic.aggregates import delta as delta_module
from isplit_plugin.traffic.aggregates.devices import ANONYMOUS
from isplit_plugin.traffic.aggregates.fairness import fair_share
from isplit_plugin.traffic.rows import request as request_rows
from isplit_plugin.traffic.rows import tables
from isplit_plugin.traffic.rows.request import KEEP_S, request_key


def delta_of(store: Store, *, waiting: bool = True) -> Delta:
    return Delta(store.mean0(NETWORK), store.half_life_s, CLASSES, keep_requests=waiting)


def rows(store: Store) -> list[tuple[str, int | None]]:
    table = tables.request
    with store._db.read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(table.c.request, table.c.label))]


def outcomes(store: Store) -> dict[tuple[str, int], tuple[float, float, float]]:
    unit = {(str(r.cut), r.class_id): r for r in store.view(NETWORK).outcomes}
    return {key: (r.predictions, r.labelled, r.correct) for key, r in unit.items()}


@pytest.fixture
def seen(store: Store) -> Store:
    """Ten requests r0 .. r9 of the same moment, two of each class; class = number % 5."""
    delta = delta_of(store)
    for number in range(10):
        delta.add_observation(observation(number, at=1e9))
    store.add(NETWORK, delta)
    return store


def test_labels_fill_the_outcome_of_their_predictions(seen: Store) -> None:
    results = seen.add_labels(
        [Label("r0", 0), Label("r1", 2), Label("r5", 0), Label("r6", "class1")]
    )
    assert [label.error for label in results] == [None] * 4
    assert [(label.predicted, label.class_id) for label in results] == [
        (0, 0),
        (1, 2),
        (0, 0),
        (1, 1),
    ]
    counts = outcomes(seen)
    assert counts["layer1:uint8", 0] == pytest.approx((2, 2, 2))
    assert counts["layer1:uint8", 1] == pytest.approx((2, 2, 1))
    assert counts["layer1:uint8", 2] == pytest.approx((2, 0, 0))


def test_a_label_counts_as_of_its_prediction(store: Store) -> None:
    half_life = store.half_life_s
    delta = delta_of(store)
    delta.add_observation(observation(0, at=1e9))
    delta.add_observation(observation(5, at=1e9 + KEEP_S / 2))
    store.add(NETWORK, delta)
    store.add_labels([Label("r0", 0), Label("r5", 0)])
    old = 2 ** -(KEEP_S / 2 / half_life)
    assert outcomes(store)["layer1:uint8", 0] == pytest.approx((1 + old, 1 + old, 1 + old))
    assert store.view(NETWORK).as_of == 1e9 + KEEP_S / 2


def test_each_bad_label_is_refused_alone(seen: Store) -> None:
    bad = [
        Label("never", 0),
        Label("r1", CLASSES),
        Label("r1", -1),
        Label("r1", "no such class"),
        Label("r2", 2),
        Label("r2", 2),
    ]
    results = seen.add_labels([*bad, Label("r3", 3)])
    kinds = [None if label.error is None else type(label.error) for label in results]
    unknown = UnknownClassError
    assert kinds == [
        UnknownRequestError,
        unknown,
        unknown,
        unknown,
        None,
        LabelledBeforeError,
        None,
    ]
    unknown_request = results[0].error
    assert unknown_request is not None
    assert "'never'" in unknown_request.message
    assert "expected" in unknown_request.message
    unknown_class = results[1].error
    assert unknown_class is not None
    assert f"known: {', '.join(map(str, range(CLASSES)))}" in unknown_class.message
    again = seen.add_labels([Label("r2", 4), Label("r4", 4)])
    assert isinstance(again[0].error, LabelledBeforeError)
    assert again[0].error.details == {"label": 2}
    assert again[1].error is None
    counts = outcomes(seen)
    assert [counts["layer1:uint8", c][1] for c in range(CLASSES)] == pytest.approx([0, 0, 1, 1, 1])
    assert sorted(label for _, label in rows(seen) if label is not None) == [2, 3, 4]


def test_a_call_without_a_good_label_changes_nothing(seen: Store) -> None:
    before = seen.revision(), rows(seen)
    assert seen.add_labels([Label("never", 0)])[0].error is not None
    assert seen.add_labels([]) == ()
    assert (seen.revision(), rows(seen)) == before


def test_a_name_of_two_classes_is_no_class(store: Store) -> None:
    twice = manifest(network="sha256-twice", model="twice", classes=5)
    names = ("crane", "crane", "heron", "ibis", "stork")
    store.put_network(
        type(twice).from_json({**twice.to_json(), "classes": names}),
        profile(network="sha256-twice"),
    )
    delta = Delta(store.mean0("sha256-twice"), store.half_life_s, CLASSES, keep_requests=True)
    delta.add_observation(observation(0))
    store.add("sha256-twice", delta)
    results = store.add_labels([Label("r0", "crane")])
    assert isinstance(results[0].error, QueryError)
    assert "[0, 1]" in results[0].error.message
    assert store.add_labels([Label("r0", "heron")])[0].class_id == 2


def test_nothing_is_kept_where_labels_are_off(store: Store) -> None:
    delta = delta_of(store, waiting=False)
    delta.add_observation(observation(0))
    store.add(NETWORK, delta)
    assert rows(store) == []
    assert isinstance(store.add_labels([Label("r0", 0)])[0].error, UnknownRequestError)


def test_failed_requests_and_requests_without_id_do_not_wait(store: Store) -> None:
    delta = delta_of(store)
    delta.add_observation(observation(0, request_id=""))
    delta.add_observation(
        observation(1, class_id=None, error="malformed_request", confidence=math.nan)
    )
    store.add(NETWORK, delta)
    assert rows(store) == []


def test_ids_are_hashed_at_rest(seen: Store) -> None:
    assert {key for key, _ in rows(seen)} == {request_key(f"r{i}") for i in range(10)}
    assert all(len(key) == 32 and "r0" not in key for key, _ in rows(seen))


def test_requests_are_dropped_after_a_day_counted_from_the_newest(seen: Store) -> None:
    later = delta_of(seen)
    later.add_observation(observation(10, at=1e9 + KEEP_S))
    seen.add(NETWORK, later)
    assert len(rows(seen)) == 11
    later = delta_of(seen)
    later.add_observation(observation(11, at=1e9 + KEEP_S + 1))
    later.add_observation(observation(12, at=1e9))  # comes too late
    seen.add(NETWORK, later)
    assert {key for key, _ in rows(seen)} == {request_key("r10"), request_key("r11")}
    assert isinstance(seen.add_labels([Label("r0", 0)])[0].error, UnknownRequestError)


def test_requests_are_bounded_by_number_and_the_oldest_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_rows, "MAX_REQUESTS", 50)
    for start in range(0, 400, 40):
        delta = delta_of(store)
        for number in range(start, start + 40):
            delta.add_observation(observation(number))
        store.add(NETWORK, delta)
        assert len(rows(store)) <= 51
    assert {key for key, _ in rows(store)} == {request_key(f"r{i}") for i in range(350, 400)}


def test_a_request_that_is_written_twice_keeps_its_label(seen: Store) -> None:
    seen.add_labels([Label("r0", 0)])
    again = delta_of(seen)
    again.add_observation(observation(0, at=1e9))
    seen.add(NETWORK, again)
    assert isinstance(seen.add_labels([Label("r0", 0)])[0].error, LabelledBeforeError)


def test_labels_of_several_networks_in_one_call(seen: Store) -> None:
    other = manifest(network="sha256-other", model="other", classes=7)
    seen.put_network(other, profile(network="sha256-other", classes=7))
    delta = Delta(seen.mean0("sha256-other"), seen.half_life_s, 7, keep_requests=True)
    delta.add_observation(observation(100, class_id=6))
    seen.add("sha256-other", delta)
    results = seen.add_labels([Label("r0", 0), Label("r100", 6), Label("r1", 6)])
    assert [label.model for label in results] == ["toy", "other", None]
    assert isinstance(results[2].error, UnknownClassError)
    assert sum(r.labelled for r in seen.view("sha256-other").outcomes) == pytest.approx(1)


# ------------------------------------------------------------------ labels before the backward pass


class Passes:
    """Stands in for the tail's backward pass: a curve that tells its class."""

    def __init__(self) -> None:
        self.classes: list[int] = []

    def __call__(self, split_point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
        self.classes.append(class_id)
        return np.array([math.nan, *[1.0 + class_id] * (POINTS - 1)])


@pytest.fixture
def recorder(url: str, store: Store) -> Iterator[Recorder]:
    with Recorder(url, NETWORK, manifest=manifest(), profile=profile(), keep_requests=True) as made:
        yield made


@pytest.mark.parametrize("true_class", [1, 3])
def test_a_label_that_came_first_yields_a_row_of_the_true_class(
    url: str, recorder: Recorder, store: Store, true_class: int
) -> None:
    seen = observation(1)
    recorder.observe(seen)
    assert recorder.flush(60.0)
    assert store.add_labels([Label("r1", true_class)])[0].error is None
    passes = Passes()
    with (
        LabelReader(url) as labels,
        Sampler(
            passes,
            recorder,
            share=1.0,
            cpu_budget=1.0,
            idle_s=0.0,
            label_of=labels.label_of,
        ) as sampler,
    ):
        sampler.offer(seen, np.zeros((1, 4, 2, 2)))
        sampler.offer(observation(2, at=seen.at), np.zeros((1, 4, 2, 2)))
        until(lambda: sampler.counters()["computed"] == 2)
        until(lambda: recorder.counters()["queued"] == 0 and recorder.flush(60.0))
    assert passes.classes == (
        [1, 2] if true_class == 1 else [1, 3, 2]
    )  # the predicted class's curve serves twice
    kinds = {part.target: part for part in store.view(NETWORK).importance}
    assert kinds["predicted"].class_ids.tolist() == [1, 2]
    assert kinds["true"].class_ids.tolist() == [true_class]
    assert kinds["true"].count[0].tolist() == [0, 1, 1, 1]
    mean = store.mean0(NETWORK)[1:] + kinds["true"].sum1[0, 1:] / kinds["true"].weight[0, 1:]
    np.testing.assert_allclose(mean, 1.0 + true_class)


def test_without_a_reader_only_the_predicted_class_is_computed(
    recorder: Recorder, store: Store
) -> None:
    seen = observation(1)
    recorder.observe(seen)
    assert recorder.flush(60.0)
    assert store.add_labels([Label("r1", 3)])[0].error is None
    passes = Passes()
    with Sampler(passes, recorder, share=1.0, cpu_budget=1.0, idle_s=0.0) as sampler:
        sampler.offer(seen, np.zeros((1, 4, 2, 2)))
        until(lambda: sampler.counters()["computed"] == 1)
    assert passes.classes == [1]
    assert recorder.flush(60.0)
    assert [part.target for part in store.view(NETWORK).importance] == ["predicted"]


def test_a_lookup_never_raises(path: Path, url: str) -> None:
    with LabelReader(url) as labels:
        assert labels.label_of("r1") is None  # there is no store yet
        with Store(url) as store:
            store.put_network(manifest(), profile())
            delta = delta_of(store)
            delta.add_observation(observation(1))
            store.add(NETWORK, delta)
            assert labels.label_of("r1") is None
            store.add_labels([Label("r1", 3)])
            assert labels.label_of("r1") == 3
            assert labels.label_of("") is None
        path.unlink()
        assert labels.label_of("r1") is None


# ---------------------------------------------------------------------------- fair between devices


def flood(store: Store, first: int, number: int, device: str | None, at: float = 1e9) -> None:
    delta = delta_of(store)
    for i in range(first, first + number):
        delta.add_observation(observation(i, at=at + i, device=device, request_id=f"{device}-{i}"))
    store.add(NETWORK, delta)


def devices_that_wait(store: Store) -> dict[str, int]:
    table = tables.request
    query = sa.select(table.c.device, sa.func.count()).group_by(table.c.device)
    with store._db.read() as connection:
        return {device: int(number) for device, number in connection.execute(query)}


@pytest.mark.parametrize("flooder", ["loud", None])
def test_one_flooder_evicts_only_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch, flooder: str | None
) -> None:
    monkeypatch.setattr(request_rows, "MAX_REQUESTS", 100)
    for quiet in range(10):
        flood(store, 0, 5, f"quiet{quiet}")
    for start in range(1000, 3000, 40):
        flood(store, start, 40, flooder)
    waiting = devices_that_wait(store)
    assert [waiting[f"quiet{quiet}"] for quiet in range(10)] == [5] * 10
    assert waiting[flooder or ANONYMOUS] <= 52
    labels = [Label(f"quiet{quiet}-{i}", 0) for quiet in range(10) for i in range(5)]
    assert [label.error for label in store.add_labels(labels)] == [None] * 50
    newest = store.add_labels([Label(f"{flooder}-2999", 0), Label(f"{flooder}-1000", 0)])
    assert newest[0].error is None
    message = str(newest[1].error)
    assert "the devices with the most lose their oldest" in message


def test_more_devices_than_places_are_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_rows, "MAX_REQUESTS", 50)
    for start in range(0, 400, 40):
        delta = delta_of(store)
        for number in range(start, start + 40):
            delta.add_observation(observation(number, device=f"d{number}"))
        store.add(NETWORK, delta)
        assert len(rows(store)) <= 55
    assert request_key("r399") in {key for key, _ in rows(store)}


def test_a_flooder_evicts_only_itself_while_the_store_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_module, "MAX_REQUESTS", 60)
    delta = delta_of(store)
    for i in range(10):
        delta.add_observation(observation(i, device="quiet", request_id=f"quiet-{i}"))
    for i in range(1000):
        delta.add_observation(observation(i, device="loud", request_id=f"loud-{i}"))
    store.add(NETWORK, delta)
    assert delta.overflow >= 900
    waiting = devices_that_wait(store)
    assert waiting["quiet"] == 10
    assert waiting["loud"] <= 52
    assert store.add_labels([Label("loud-999", 0)])[0].error is None


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(0, 300))
def test_a_fair_share_is_the_largest_that_fits(wanted: list[int], places: int) -> None:
    share = fair_share(wanted, places)

    def taken(each: int) -> int:
        return sum(min(number, each) for number in wanted)

    assert taken(share) <= places
    assert share >= max(wanted, default=0) or taken(share + 1) > places
