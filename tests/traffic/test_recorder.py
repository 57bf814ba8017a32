"""observe() never waits, never raises, and what it took is written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from toys.polling import until
from toys.traffic import NETWORK, POINTS, manifest, observation, profile, sample

from isplit_plugin.schema import Observation
from isplit_plugin.traffic import Recorder, Store


@pytest.fixture
def recorder(url: str) -> Iterator[Recorder]:
    with Recorder(url, NETWORK, manifest=manifest(), profile=profile(), flush_s=0.05) as opened:
        yield opened


def test_what_was_observed_is_in_the_store(recorder: Recorder, store: Store) -> None:
    for i in range(100):
        assert recorder.observe(observation(i))
    assert recorder.add_importance(sample([1, 2, 3, 4], class_id=1, source="tail"))
    assert recorder.add_importance(sample([np.nan, np.nan, 3, 4], class_id=2))
    assert recorder.flush(60.0)
    view = store.view(NETWORK)
    assert view.observations == 100
    assert view.importance[0].class_ids.tolist() == [1, 2]
    assert view.importance[0].count[1].tolist() == [0, 0, 1, 1]
    counters = recorder.counters()
    assert (
        counters["observed"],
        counters["importance"],
        counters["dropped"],
        counters["pending"],
    ) == (100, 2, 0, 0)


def test_it_is_written_without_anybody_asking(recorder: Recorder, store: Store) -> None:
    recorder.observe(observation(0))
    until(lambda: store.view(NETWORK).observations == 1)


def test_start_makes_the_network_known_before_any_request(recorder: Recorder, url: str) -> None:
    recorder.start()
    with Store(url) as store:
        until(lambda: store.networks())
        assert store.manifest("toy") == manifest()


def test_without_a_manifest_it_waits_for_the_network(url: str) -> None:
    with Store(url) as store, Recorder(url, NETWORK, flush_s=0.02) as recorder:
        recorder.observe(observation(0))
        until(lambda: recorder.counters()["flush_failures"] > 0)
        assert "put_network comes first" in recorder.last_error
        store.put_network(manifest(), profile())
        until(lambda: store.view(NETWORK).observations == 1)
        until(lambda: recorder.last_error == "")


def test_close_writes_what_is_left_and_later_ones_are_dropped(url: str, store: Store) -> None:
    recorder = Recorder(url, NETWORK, flush_s=3600)
    for i in range(7):
        recorder.observe(observation(i))
    recorder.close()
    assert store.view(NETWORK).observations == 7
    assert not recorder.observe(observation(8))
    assert recorder.counters()["dropped"] == 1
    recorder.close()
    assert not any(t.name == "isplit-recorder" and t.is_alive() for t in threading.enumerate())


def test_a_full_queue_drops_the_newest_and_counts_them(url: str) -> None:
    """The network is not in the store, so nothing leaves the queue."""
    with Recorder(url, NETWORK, max_queue=5, flush_s=3600) as recorder, Store(url) as store:
        taken = [recorder.observe(observation(i)) for i in range(8)]
        assert taken == [True] * 5 + [False] * 3
        assert recorder.counters()["dropped"] == 3
        store.put_network(manifest(), profile())
        assert recorder.flush(60.0)
        view = store.view(NETWORK)
        assert view.observations == 5
        assert view.class_counts.class_ids.tolist() == [0, 1, 2, 3, 4]
        assert store.drops(NETWORK) == 3


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        7,
        "observation",
        observation(0, at=float("nan")),
        observation(0, class_id="cat"),
        observation(0, bytes_received=None),
        observation(0, tail_ms="slow"),
    ],
)
def test_nonsense_never_raises_and_never_stops_the_others(
    recorder: Recorder, store: Store, nonsense: object
) -> None:
    recorder.observe(nonsense)  # type: ignore[arg-type]
    recorder.observe(observation(1))
    assert recorder.flush(60.0)
    assert store.view(NETWORK).class_counts.count.sum() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"curve": [1, 2, 3]},
        {"curve": [[1, 2, 3, 4]]},
        {"curve": "text"},
        {"class_id": "cat"},
        {"curve": [1, np.nan, 3, 4]},
        {"curve": [1, 2, 3, np.inf]},
        {"class_id": 99},
        {"source": "guess"},
        {"target": "all"},
        {"at": "noon"},
    ],
)
def test_curves_that_are_none_are_counted_as_invalid(
    recorder: Recorder, store: Store, changes: dict[str, Any]
) -> None:
    recorder.add_importance(sample(**({"curve": [1, 2, 3, 4], "source": "input"} | changes)))
    recorder.add_importance(sample(np.ones(POINTS)))
    assert recorder.flush(60.0)
    assert recorder.counters()["invalid"] == 1
    (rows,) = store.view(NETWORK).importance
    assert rows.count.tolist() == [[1] * POINTS]


def test_values_are_copied_when_taken(recorder: Recorder, store: Store) -> None:
    curve = np.ones(POINTS)
    recorder.add_importance(sample(curve))
    curve[:] = 99
    assert recorder.flush(60.0)
    assert store.view(NETWORK).importance[0].sum1[0] == pytest.approx([0.5] * POINTS)


def test_many_threads_lose_nothing(recorder: Recorder, store: Store) -> None:
    def work(offset: int) -> None:
        for i in range(500):
            recorder.observe(observation(offset + i))

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.flush(60.0)
    counters = recorder.counters()
    assert counters["observed"] + counters["dropped"] == 2000
    assert store.view(NETWORK).observations == counters["observed"] == 2000


@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)  # that is the point
def test_a_forked_child_starts_afresh(url: str, store: Store) -> None:
    recorder = Recorder(url, NETWORK, flush_s=3600)
    for i in range(3):
        recorder.observe(observation(i))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if recorder.counters()["queued"] == 0:
                for i in range(5):
                    recorder.observe(observation(i))
                recorder.close()
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.view(NETWORK).observations == 5  # the parent's three wait for the parent
    assert recorder.flush(60.0)
    assert store.view(NETWORK).observations == 8
    recorder.close()
    assert store.check()["isplit_served"] == 1


def test_importing_it_needs_no_torch_and_no_server() -> None:
    heavy = "{'torch', 'ts', 'requests'}"
    loaded = f"import sys, isplit_plugin.traffic; print(sorted({heavy} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"


def test_an_observation_holds_nothing_that_could_rebuild_an_input() -> None:
    assert not {"activation", "image", "scores", "values"} & set(Observation.__slots__)
