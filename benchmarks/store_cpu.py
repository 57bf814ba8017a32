"""Processor time of a flush, and of the endpoint's first answer at a new revision, in one process.

1,000 classes by 40 points, SQLite. A flush writes what a worker counted in a second: 100 requests at
two split points and 5 importance curves. Processor time of the one thread, so that other work on the
machine shows little; `quiet` is the tenth of the rounds that took least.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from isplit_plugin.advice import LiveView, Query, recommend
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.serving.endpoint import Endpoint
from isplit_plugin.serving.settings import STORE_VARIABLE
from isplit_plugin.traffic import Delta, ImportanceSample, Store
from isplit_plugin.traffic.writer import DeltaWriter

from .harness import Row, row
from .memory import _Context
from .store import (
    AT,
    CLASSES,
    CUTS,
    NETWORK,
    POINT_LIST,
    POINTS,
    _fill,
    _manifest,
    _observation,
    _profile,
)

FIRST: Final = 3
"""Rounds that do not count."""
ASKED: Final[dict[str, list[int] | None]] = {
    "one class": [0],
    "ten classes": [7 * i for i in range(10)],
    "the live mix": None,
}


def _measured(name: str, times: list[float]) -> Row:
    quiet = statistics.quantiles(times, n=10)[0]
    return row(name, statistics.median(times), "ms of processor time", quiet_ms=quiet)


def _timed(rounds: int, prepare: Callable[[int], None], job: Callable[[], object]) -> list[float]:
    times = []
    for number in range(FIRST + rounds):
        prepare(number)
        started = time.thread_time()
        job()
        if number >= FIRST:
            times.append((time.thread_time() - started) * 1e3)
    return times


def _waiting(store: Store, number: int) -> None:
    """Requests that wait for their labels, of 50 devices."""
    for first in range(0, number, 15_000):
        delta = Delta(np.ones(POINTS), store.half_life_s, CLASSES, keep_requests=True)
        for i in range(first, min(number, first + 15_000)):
            name = f"waiting-{i}"
            delta.add_observation(
                replace(_observation(i), request_id=name, device=f"camera{i % 50}")
            )
        store.add(NETWORK, delta)


def _flush(
    folder: Path, rounds: int, *, by_device: bool, labels: bool, waiting: int
) -> list[float]:
    random = np.random.default_rng(0)
    url = f"sqlite:///{folder}/{by_device}{labels}{waiting}.db"
    with Store(url) as store:
        store.put_network(_manifest(), _profile(random))
        _fill(store, 1e4, random)
        _waiting(store, waiting)
    writer = DeltaWriter(
        url,
        NETWORK,
        manifest=None,
        profile=None,
        half_life_s=7 * 86_400,
        max_keys=50_000,
        by_device=by_device,
        keep_requests=labels,
        retry_s=1.0,
    )
    writer.open()

    def count(number: int) -> None:
        assert writer.delta is not None
        at = AT + number
        for i in range(100):
            cut = Cut(POINT_LIST[CUTS[i % 2]].name, "uint8")
            seen = replace(_observation(7 * i), cut=cut, at=at, request_id=f"{number}-{i}")
            writer.delta.add_observation(replace(seen, device=f"camera{i % 20}"))
        for i in range(5):
            curve = random.random(POINTS)
            curve[: CUTS[i % 2]] = np.nan
            writer.delta.add_importance(
                ImportanceSample(class_id=i, curve=curve, at=at, source="tail", device=f"camera{i}")
            )

    times = _timed(rounds, count, writer.write)
    writer.close()
    return times


def _first_answer(
    store: Store, endpoint: Endpoint, classes: list[int] | None, rounds: int
) -> list[float]:
    one = Delta(np.ones(POINTS), store.half_life_s, CLASSES)
    one.add_observation(_observation(0))
    body: dict[str, Any] = {"model": "big"}
    if classes is not None:
        body["classes"] = classes

    def change(_: int) -> None:
        store.add(NETWORK, one)

    def ask() -> None:
        context = _Context()
        (answer,) = endpoint.handle([{"body": body}], context)
        assert context.status == 200, answer

    return _timed(rounds, change, ask)


def _parts(store: Store, rounds: int) -> list[Row]:
    """What takes most of a first answer: reading the view, and working out the recommendation."""
    one = Delta(np.ones(POINTS), store.half_life_s, CLASSES)
    one.add_observation(_observation(0))
    manifest, profile = store.manifest("big"), store.profile(NETWORK)
    views = [store.view(NETWORK)]

    def change(_: int) -> None:
        store.add(NETWORK, one)

    def change_and_read(_: int) -> None:
        store.add(NETWORK, one)
        views[0] = store.view(NETWORK)

    rows = [_measured("of it: the view", _timed(rounds, change, lambda: store.view(NETWORK)))]
    for what, classes in ASKED.items():
        query = Query(classes=None if classes is None else tuple(classes))
        times = _timed(
            rounds, change_and_read, partial(_recommend, manifest, profile, views, query)
        )
        rows.append(_measured(f"of it: the recommendation for {what}", times))
    return rows


def _recommend(
    manifest: Manifest, profile: Profile | None, views: list[LiveView], query: Query
) -> None:
    recommend(manifest, profile, views[0], query)


def _first_answers(folder: Path, rounds: int) -> list[Row]:
    rows = []
    for size, seen in (("10^4", 1e4), ("10^9", 1e9)):
        random = np.random.default_rng(0)
        os.environ[STORE_VARIABLE] = url = f"sqlite:///{folder}/{size}.db"
        with Store(url) as store:
            store.put_network(_manifest(), _profile(random))
            _fill(store, seen, random)
            endpoint = Endpoint(_Context())
            for what, classes in ASKED.items():
                times = _first_answer(store, endpoint, classes, rounds)
                rows.append(_measured(f"first answer, {what}, after {size} requests", times))
            endpoint.close()
            if seen < 1e6:
                rows += _parts(store, rounds)
    return rows


def run(quick: bool = False) -> list[Row]:
    """Rows for flushes without and with devices and labels, and for answers at both sizes."""
    rounds = 5 if quick else 40
    kinds = {
        "a flush": (False, False, 0),
        "a flush with devices": (True, False, 0),
        "a flush with devices and labels": (True, True, 0),
        "a flush with 90,000 requests that wait for labels": (True, True, 90_000),
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            _measured(
                name,
                _flush(Path(folder), rounds, by_device=devices, labels=labels, waiting=waiting),
            )
            for name, (devices, labels, waiting) in kinds.items()
        ]
        return rows + _first_answers(Path(folder), rounds)
