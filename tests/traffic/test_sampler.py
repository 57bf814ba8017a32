"""The sampler's limits: share, idle time, CPU budget, queue."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.polling import until
from toys.traffic import NETWORK, POINTS, manifest, observation, profile

from isplit_plugin.schema import Cut
from isplit_plugin.traffic import ImportanceFn, Recorder, Sampler, Store, is_sampled

ACTIVATION = np.ones((1, 4, 2, 2), np.float32)


def curve(split_point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
    """Known from the split point on: the class's number."""
    start = {"input": 0}.get(split_point, int(split_point[-1]) if split_point[-1].isdigit() else 0)
    values = np.full(POINTS, np.nan)
    values[start:] = class_id
    return values


@pytest.fixture
def recorder(url: str) -> Iterator[Recorder]:
    with Recorder(url, NETWORK, manifest=manifest(), profile=profile(), flush_s=3600) as opened:
        yield opened


def sampler(recorder: Recorder, importance_fn: ImportanceFn = curve, **changes: Any) -> Sampler:
    settings: dict[str, Any] = {"share": 1.0, "cpu_budget": 1.0, "idle_s": 0.0}
    return Sampler(importance_fn, recorder, **(settings | changes))


def offer(
    to: Sampler,
    request_id: object,
    split_point: str = "layer1",
    activation: Any = ACTIVATION,
    class_id: object = 0,
    **changes: object,
) -> bool:
    """Offer a request of these fields."""
    request = observation(
        0, request_id=request_id, cut=Cut(split_point, "uint8"), class_id=class_id, **changes
    )
    return to.offer(request, activation)


def computed(one: Sampler, number: int) -> None:
    until(lambda: one.counters()["computed"] >= number)


def test_the_hash_of_the_id_decides() -> None:
    ids = [f"request-{i}" for i in range(20_000)]
    chosen = {i for i in ids if is_sampled(i, 0.05)}
    assert 850 < len(chosen) < 1150  # 1000 expected, 4.9 standard deviations
    assert chosen <= {i for i in ids if is_sampled(i, 0.1)}
    assert chosen == {i for i in ids if is_sampled(i, 0.05)}
    # the rule is a promise to offline computations: these must not change
    assert [is_sampled(i, 0.05) for i in ("request-0", "request-52", "request-83")] == [
        False,
        True,
        True,
    ]


@given(st.text())
def test_all_or_nothing_shares(request_id: str) -> None:
    assert is_sampled(request_id, 1.0)
    assert not is_sampled(request_id, 0.0)


def test_importance_reaches_the_store(recorder: Recorder, store: Store) -> None:
    with sampler(recorder) as one:
        assert offer(one, "a", "layer2", ACTIVATION, 3, at=1e9)
        assert offer(one, "b", "input", ACTIVATION, 1, group="cam", at=1e9)
        assert not offer(one, "c", "output", ACTIVATION, 1)
        assert not offer(one, "d", "layer2", ACTIVATION, None, error="malformed_request")
        computed(one, 2)
    assert recorder.flush(60.0)
    rows = {r.source: r for r in store.view(NETWORK).importance}
    assert rows["tail"].class_ids.tolist() == [3]
    assert rows["tail"].count.tolist() == [[0, 0, 1, 1]]
    assert rows["tail"].sum1[0] == pytest.approx([0, 0, 2.5, 2.5])
    assert rows["input"].sum1[0] == pytest.approx([0.5] * POINTS)
    assert [r.source for r in store.view(NETWORK, "cam").importance] == ["input"]


def test_the_activation_is_copied_when_taken(recorder: Recorder) -> None:
    seen: list[np.ndarray] = []
    go = threading.Event()

    def fn(point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
        go.wait(60)
        seen.append(activation.copy())
        return curve(point, activation, class_id)

    buffer = np.ones((1, 2), np.float32)
    with sampler(recorder, fn) as one:
        offer(one, "a", "layer1", buffer, 0)
        buffer[:] = 7
        go.set()
        computed(one, 1)
    assert seen[0].tolist() == [[1.0, 1.0]]


def test_only_a_share_is_taken(recorder: Recorder) -> None:
    with sampler(recorder, share=0.05, max_queue=1000) as one:
        taken = [i for i in range(1000) if offer(one, f"r{i}", "layer1", ACTIVATION, 0)]
        assert taken == [i for i in range(1000) if is_sampled(f"r{i}", 0.05)]
        computed(one, len(taken))
        assert one.counters()["sampled"] == len(taken)


def test_nothing_runs_while_a_request_is_handled(recorder: Recorder) -> None:
    ran = threading.Event()

    def fn(point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
        ran.set()
        return curve(point, activation, class_id)

    with sampler(recorder, fn) as one:
        with one.busy():
            with one.busy():
                offer(one, "a", "layer1", ACTIVATION, 0)
            assert not ran.wait(0.2)  # still inside the outer one
        assert ran.wait(60)


def test_nothing_runs_until_the_worker_was_idle_for_a_while(recorder: Recorder) -> None:
    now = [0.0]
    with sampler(recorder, idle_s=5.0, clock=lambda: now[0]) as one:
        with one.busy():
            offer(one, "a", "layer1", ACTIVATION, 0)
        for now[0] in (1.0, 4.0):
            assert one._wait_s() == pytest.approx(5.0 - now[0])
        now[0] = 5.0
        with one._condition:
            one._condition.notify_all()
        computed(one, 1)


def test_a_request_that_is_not_sampled_wakes_nobody_up(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread would want Python's global lock at the moment when the answer is sent."""
    with sampler(recorder, share=0.5) as one:
        offer(one, next(f"r{i}" for i in range(99) if is_sampled(f"r{i}", 0.5)))
        computed(one, 1)
        woken: list[int] = []
        monkeypatch.setattr(one._condition, "notify_all", lambda: woken.append(1))
        with one.busy():
            offer(one, next(f"r{i}" for i in range(99) if not is_sampled(f"r{i}", 0.5)))
        assert not woken
        monkeypatch.undo()


def test_the_cpu_budget_holds_and_debt_is_paid_back(recorder: Recorder) -> None:
    """A pass costs 3 CPU seconds, the budget of a minute is 0.6 s: the next pass waits 240 s."""
    now, cpu = [0.0], [0.0]

    def fn(point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
        cpu[0] += 3.0
        return curve(point, activation, class_id)

    one = sampler(recorder, fn, cpu_budget=0.01, clock=lambda: now[0], cpu_clock=lambda: cpu[0])

    def wait() -> float:
        with one._condition:
            return one._wait_s() or 0.0

    for i in range(10):
        offer(one, f"r{i}", "layer1", ACTIVATION, 0)
    began = []
    for number in range(1, 6):
        computed(one, number)
        began.append(now[0])
        until(lambda: wait() > 0)
        assert one.counters()["computed"] == number
        with one._condition:
            now[0] += wait() + 1e-6
            one._condition.notify_all()
    one.close()
    assert began == pytest.approx([0.0, 240.0, 540.0, 840.0, 1140.0], rel=1e-4)


def test_threads_multiply_the_cost(recorder: Recorder) -> None:
    cpu = [0.0]

    def fn(point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
        cpu[0] += 1.0
        return curve(point, activation, class_id)

    with sampler(recorder, fn, threads=4, cpu_clock=lambda: cpu[0]) as one:
        offer(one, "a", "layer1", ACTIVATION, 0)
        computed(one, 1)
        assert one.counters()["cpu_s"] == 4.0
        until(lambda: one.counters()["running"] == 0)


def test_a_budget_of_nothing_computes_nothing(recorder: Recorder) -> None:
    with sampler(recorder, cpu_budget=0.0) as one:
        assert offer(one, "a", "layer1", ACTIVATION, 0)
        assert one._wait_s() is None
    assert one.counters()["computed"] == 0


def test_the_queue_is_bounded_by_count_and_bytes(recorder: Recorder) -> None:
    by_count, by_bytes = (
        sampler(recorder, max_queue=3),
        sampler(recorder, max_bytes=2 * ACTIVATION.nbytes),
    )
    for one, fit in ((by_count, 3), (by_bytes, 2)):
        with one.busy():
            taken = [offer(one, f"r{i}", "layer1", ACTIVATION, 0) for i in range(6)]
            assert taken == [True] * fit + [False] * (6 - fit)
            counters = one.counters()
            assert counters["dropped"] == 6 - fit
            assert counters["queued_bytes"] == fit * ACTIVATION.nbytes
        computed(one, fit)
        assert one.counters()["queued_bytes"] == 0
        one.close()


def test_a_failing_function_is_counted_and_the_next_one_runs(
    recorder: Recorder, store: Store
) -> None:
    def fn(point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
        if class_id == 0:
            raise RuntimeError("no gradient")
        return curve(point, activation, class_id)

    with sampler(recorder, fn) as one:
        for i in (0, 1, 0, 2):
            offer(one, f"r{i}", "layer1", ACTIVATION, i, at=1e9)
        computed(one, 2)
        assert one.counters()["failed"] == 2
    assert recorder.flush(60.0)
    assert store.view(NETWORK).importance[0].class_ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("request_id", "activation", "class_id"),
    [
        (None, ACTIVATION, 0),
        ("a", "text", 0),
        ("a", [[1], [1, 2]], 0),
        ("a", ACTIVATION, "cat"),
        ("a", ACTIVATION, 0.5),
    ],
)
def test_nonsense_never_raises(
    recorder: Recorder, request_id: str | None, activation: object, class_id: object
) -> None:
    with sampler(recorder) as one:
        assert not offer(one, request_id, "layer1", activation, class_id)
        assert one.counters()["failed"] == 1


def test_after_close_nothing_runs(recorder: Recorder, store: Store) -> None:
    entered = threading.Event()
    go = threading.Event()
    ran: list[int] = []

    def fn(point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
        ran.append(class_id)
        entered.set()
        go.wait(60)
        return curve(point, activation, class_id)

    one = sampler(recorder, fn)
    for i in range(3):
        offer(one, f"r{i}", "layer1", ACTIVATION, i)
    assert entered.wait(60)
    closing = threading.Thread(target=one.close)
    closing.start()
    until(lambda: one._closed)
    assert closing.is_alive()  # the pass under way is waited for
    go.set()
    closing.join(60)
    assert one._thread is not None
    assert not one._thread.is_alive()
    assert not offer(one, "later", "layer1", ACTIVATION, 0)
    assert ran == [0]
    assert recorder.flush(60.0)
    assert store.view(NETWORK).importance == ()


@pytest.mark.skipif(
    sys.platform != "linux", reason="priorities of single threads are a thing of Linux"
)
@pytest.mark.parametrize("nice", [0, 5])
def test_its_thread_alone_is_nice(recorder: Recorder, nice: int) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    priorities: list[int] = []

    def fn(point: str, activation: np.ndarray, class_id: int) -> np.ndarray:
        priorities.append(priority())
        return curve(point, activation, class_id)

    before = priority()
    with sampler(recorder, fn, nice=nice) as one:
        offer(one, "a", "layer1", ACTIVATION, 0)
        computed(one, 1)
    assert priorities == [min(before + nice, 19)]
    assert priority() == before
