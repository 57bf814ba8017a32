"""A view from kept rows and the changes since equals a view from all rows, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.traffic import CLASSES, POINTS, manifest, observation, profile, sample
from toys.views import assert_same

from isplit_plugin.schema import Cut
from isplit_plugin.traffic import Delta, Label, Store, live_rows
from isplit_plugin.traffic.aggregates.moments import DEFAULT_HALF_LIFE_S
from isplit_plugin.traffic.rows import tables

AT = 1_000_000_800.0
_numbers = count()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Store, str]]:
    """One store that keeps rows, for all examples; each has a network of its own."""
    if request.param == "sqlite":
        url = str(tmp_path_factory.mktemp("rows") / "x.db")
        with Store(url) as store:
            yield store, url
        return
    with request.getfixturevalue("postgres").database() as url, Store(url) as store:
        yield store, url


requests = st.lists(
    st.tuples(
        st.integers(0, CLASSES - 1),
        st.integers(0, 2),  # first known point
        st.sampled_from(["all", "door", "yard", *(f"g{i}" for i in range(20))]),
        st.sampled_from(["layer1:fp32", "layer1:uint8", "layer2:uint8"]),
        st.sampled_from(["a", "b", None]),
        st.integers(0, 400_000),  # seconds
    ),
    min_size=1,
    max_size=6,
)
writes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.booleans(), requests),
        st.tuples(st.just("label"), st.integers(0, 30), st.integers(0, CLASSES - 1)),
        st.tuples(st.just("profile"), st.floats(-2, 2), st.none()),
        st.tuples(st.just("forget"), st.none(), st.none()),
        st.tuples(st.just("view"), st.none(), st.none()),
    ),
    min_size=2,
    max_size=8,
)


def write(store: Store, network: str, kind: str, first: object, second: object) -> None:
    if kind == "add":
        delta = Delta(
            store.mean0(network),
            DEFAULT_HALF_LIFE_S,
            CLASSES,
            by_device=bool(first),
            keep_requests=True,
        )
        assert isinstance(second, list)
        for i, (class_id, start, group, cut, device, seconds) in enumerate(second):
            place = {"group": group, "at": AT + seconds, "class_id": class_id, "device": device}
            name = f"{network}-{i}"
            delta.add_observation(observation(i, cut=Cut.parse(cut), request_id=name, **place))
            curve = np.random.default_rng(class_id + start).random(POINTS)
            curve[:start] = np.nan
            delta.add_importance(sample(curve, **place))
        store.add(network, delta)
    elif kind == "label":
        store.add_labels([Label(f"{network}-{first}", second)])  # type: ignore[arg-type]
    elif kind == "profile":
        changed = manifest(network, model=network, version="2.0")
        store.put_network(changed, profile([float(str(first))] * POINTS, network))
    elif kind == "forget":
        store.forget(network, network_hash=network)
        store.put_network(manifest(network, model=network), profile(network=network))


@settings(max_examples=15)
@given(writes)
def test_any_writes_are_seen_as_by_a_full_read(
    shared: tuple[Store, str], drawn: list[tuple[str, object, object]]
) -> None:
    store, url = shared
    network = f"network{next(_numbers):06}"
    store.put_network(manifest(network, model=network), profile(network=network))
    with Store(url) as writer:
        for kind, first, second in drawn:
            write(writer, network, kind, first, second)
            if kind != "view":
                continue
            same_views(store, url, network)
    same_views(store, url, network)


def same_views(store: Store, url: str, network: str) -> None:
    with Store(url) as fresh:
        for group in ("all", "door"):
            one, other = store.view(network, group), fresh.view(network, group)
            assert one.revision == other.revision
            assert_same(one, other, rel=0)
            for name in ("class_ids", "weight", "count"):
                assert np.array_equal(
                    getattr(one.class_counts, name), getattr(other.class_counts, name)
                )


def test_a_view_reads_the_rows_that_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a view reads everything: rows that did not change are spoilt behind its back."""
    network = manifest().network_hash
    write(store, network, "add", False, [(c, 0, "all", "layer1:fp32", None, 0) for c in range(5)])
    before = store.view(network)
    with store._db.write() as (connection, _):
        for table in (tables.importance, tables.outcome):
            column = "moments" if table is tables.importance else "number"
            value = b"spoilt" if table is tables.importance else 1000
            is_other = table.c.class_id != 2
            connection.execute(table.update().where(is_other).values({column: value}))
    write(store, network, "add", False, [(2, 0, "all", "layer1:fp32", None, 0)])
    after = store.view(network)
    assert before.importance[0].count[:, 0].tolist() == [1.0] * 5
    assert after.importance[0].count[:, 0].tolist() == [1.0, 1.0, 2.0, 1.0, 1.0]
    assert after.class_counts.count.tolist() == [1.0, 1.0, 2.0, 1.0, 1.0]


def test_the_kept_rows_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_live_rows", live_rows.LiveRowsCache(max_bytes=100))
    network = manifest().network_hash
    write(store, network, "add", False, [(c, 0, "all", "layer1:fp32", None, 0) for c in range(5)])
    assert store.view(network).importance[0].count[:, 0].tolist() == [1.0] * 5
    assert len(store._live_rows) == 0
    assert store.view(network).importance[0].count[:, 0].tolist() == [1.0] * 5
