"""The store: the cost of observations, labels and answers, with 1,000 classes by 40 points.

Answers of the endpoint are timed after 10^4 requests and after a simulated 10^9, against a handler
that does nothing: the first one at a new revision, another question at a known revision, and a
question that was asked before.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import requests

from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.schema import (
    INPUT,
    ON_DEVICE,
    OUTPUT,
    Cut,
    Macs,
    Manifest,
    Observation,
    Preprocessing,
    SplitPoint,
)
from isplit_plugin.serving.endpoint.body import json_body
from isplit_plugin.serving.endpoint.labels import read_labels, take_labels
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import build_endpoint_archive
from isplit_plugin.traffic import MAX_LABELS, Delta, Recorder, Store
from isplit_plugin.traffic.aggregates.counts import OutcomeCounts, ServedCounts
from isplit_plugin.traffic.aggregates.histogram import Histogram
from isplit_plugin.traffic.aggregates.keys import OutcomeKey, Population, ServedKey
from isplit_plugin.traffic.aggregates.moments import Moments, landmark

from .harness import Row, against, row
from .packaged import do_nothing

CLASSES, POINTS, GROUPS = 1000, 40, 1
NETWORK = "benchmark"
AT = 1_750_000_000.0
CUTS = (10, 20, 30)
SERVED = CUTS[:1]
"""Where the devices cut. Each has rows of a thousand classes in each device group."""
PREPROCESSING = Preprocessing(crop=(224, 224))
LABELS = tuple(f"class {i}" for i in range(CLASSES))
POINT_LIST = tuple(
    SplitPoint(
        f"layer{i}",
        (),
        (64, 14, 14),
        "float32",
        50_176,
        Macs(i, POINTS - i),
        1,
        (0, 1, 2, 3),
        i % 4 == 3,
    )
    for i in range(POINTS)
)
ASK = "predictions/isplit/1.0/recommendations/big"
QUESTIONS: dict[str, Callable[[int], str]] = {
    "one class": lambda i: f"{ASK}/classes/{i}",
    "ten classes": lambda i: f"{ASK}/classes/" + ",".join(str(i + 7 * j) for j in range(10)),
    "the live mix": lambda i: f"models/isplit/invoke?model=big&rtt_ms={i}" if i else ASK,
}
"""The i-th question of each kind. Those about the live mix are for one link each, without a
standing pick, except for the first."""


def _manifest() -> Manifest:
    return Manifest(
        model="big",
        version="1.0",
        network_hash=NETWORK,
        input_shape=(3, 224, 224),
        preprocessing=PREPROCESSING,
        classes=LABELS,
        split_points=POINT_LIST,
        deployed=tuple(POINT_LIST[i].name for i in CUTS),
        codecs=("fp32", "uint8"),
        default=Cut(POINT_LIST[CUTS[0]].name, "uint8"),
    )


def _profile(random: np.random.Generator) -> Profile:
    images = np.full(CLASSES, 10, np.int64)
    x = random.lognormal(size=(CLASSES, POINTS))
    names = (INPUT, *(point.name for point in POINT_LIST), OUTPUT)
    cuts = [Cut(INPUT, "jpeg"), *(Cut(POINT_LIST[i].name, "uint8") for i in CUTS), ON_DEVICE]
    return Profile(
        model="big",
        network_hash=NETWORK,
        classes=LABELS,
        split_points=POINT_LIST,
        preprocessing=PREPROCESSING,
        target="predicted",
        class_ids=np.arange(CLASSES, dtype=np.int64),
        count=images,
        mean0=np.ones(POINTS),
        sum1=10 * (x - 1),
        sum2=10 * (x - 1) ** 2 + 1,
        comoment=np.eye(POINTS) * CLASSES,
        comoment_dof=9 * CLASSES,
        head_ms={name: float(i) for i, name in enumerate(names)},
        tail_ms={name: float(len(names) - i) for i, name in enumerate(names)},
        measurements=tuple(CutMeasurement(cut, 10_000.0, 1.0, 1.0, images, images) for cut in cuts),
        accuracy=0.8,
        provenance={"made": "by a benchmark"},
    )


def _fill(store: Store, requests_seen: float, random: np.random.Generator) -> None:
    """Rows as ``requests_seen`` requests leave them; their number is the same for any number."""
    delta = Delta(np.ones(POINTS), store.half_life_s, CLASSES)
    delta.as_of = AT
    epoch, w = landmark(AT, store.half_life_s)
    each = requests_seen / (CLASSES * GROUPS * len(SERVED))
    for group in range(GROUPS):
        for start in SERVED:
            population = Population(f"g{group}", "tail", "predicted", start)
            x = random.lognormal(size=(CLASSES, POINTS)) - 1
            x[:, :start] = 0.0
            for c in range(CLASSES):
                sums = [[each, each * w, each * w * w], each * w * x[c], each * w * (x[c] ** 2 + 1)]
                delta.moments[population, c] = Moments(epoch, np.concatenate(sums))
                key = OutcomeKey(Cut(POINT_LIST[start].name, "uint8"), f"g{group}", c)
                delta.outcomes[key] = OutcomeCounts(
                    epoch, count=max(1, round(each)), predictions=each * w
                )
            hours = range(48) if requests_seen > 1e6 else range(1)
            for hour in hours:
                served = ServedCounts(max(1, round(each * CLASSES / len(hours))), 0, 10_000, 0)
                served.times = [Histogram.of(random.lognormal(2, 0.5, 200)) for _ in served.times]
                cut, bucket = Cut(POINT_LIST[start].name, "uint8"), int(AT // 3600 - hour) * 3600
                delta.served[ServedKey(cut, f"g{group}", bucket)] = served
    store.add(NETWORK, delta)


def _observation(number: int) -> Observation:
    cut = Cut(POINT_LIST[CUTS[0]].name, "uint8")
    return Observation(f"r{number}", cut, number % CLASSES, 0.9, 10_000, 1.0, 2.0, AT, head_ms=3.0)


def _observe(url: str, rounds: int) -> list[Row]:
    """Microseconds of an observation in the request, and in the recorder's thread."""
    number = 4000
    request, thread = [], []
    with Recorder(url, NETWORK, flush_s=3600) as recorder:
        recorder.flush(60)
        for _ in range(rounds):
            started = time.perf_counter()
            for i in range(number):
                recorder.observe(_observation(i))
            request.append((time.perf_counter() - started) / number * 1e6)
            started = time.perf_counter()
            recorder.flush(60)
            thread.append((time.perf_counter() - started) / number * 1e6)
        assert recorder.counters()["dropped"] == 0
    return [
        row("an observation, in the request", statistics.median(request), "us", expected="< 20"),
        row("an observation, in the recorder's thread", statistics.median(thread), "us"),
    ]


def _ask(session: requests.Session, server: TorchServe, path: str) -> float:
    headers = {"Authorization": f"Bearer {server.token()}"}
    started = time.perf_counter()
    answer = session.get(f"{server.inference_url}/{path}", headers=headers, timeout=60)
    elapsed = (time.perf_counter() - started) * 1e3
    assert answer.status_code == 200, answer.text
    return elapsed


def _label(folder: Path, rounds: int) -> list[Row]:
    """A thousand labels in one call, as the endpoint takes it."""
    url = f"sqlite:///{folder}/labels.db"
    with Store(url) as store:
        random = np.random.default_rng(0)
        store.put_network(_manifest(), _profile(random))
        _fill(store, 1e4, random)
        return _label_in(store, folder, rounds)


def _label_in(store: Store, folder: Path, rounds: int) -> list[Row]:
    number = MAX_LABELS
    secret = folder / "labels.secret"
    secret.touch(mode=0o600)
    secret.write_text("0123456789abcdef" * 4, encoding="utf-8")
    times = []
    with Recorder(
        f"sqlite:///{folder}/labels.db", NETWORK, flush_s=3600, keep_requests=True
    ) as recorder:
        for r in range(rounds + 1):
            names = [f"labelled-{r}-{i}" for i in range(number)]
            for i, name in enumerate(names):
                recorder.observe(replace(_observation(i), request_id=name))
            recorder.flush(60)
            labels = [{"request_id": name, "class": i % CLASSES} for i, name in enumerate(names)]
            body = json.dumps(
                {"labels": labels, "token": secret.read_text(encoding="utf-8")}
            ).encode()
            started = time.perf_counter()
            parsed = json_body({"body": body})
            assert parsed is not None
            call = read_labels(parsed, {})
            answer = json.dumps(take_labels(store, str(secret), call))
            elapsed = (time.perf_counter() - started) * 1e3
            assert json.loads(answer)["labelled"] == number, answer[:300]
            if r:
                times.append(elapsed)
    one_call = statistics.median(times)
    return [
        row(f"{number} labels in one call, in the endpoint", one_call, "ms", rounds=rounds),
        row("one label of these", one_call / number * 1e3, "us"),
    ]


def _answers(server: TorchServe, store: Store, size: str, rounds: int) -> list[Row]:
    rows = []
    one = Delta(np.ones(POINTS), store.half_life_s, CLASSES)
    one.add_observation(_observation(0))

    def change() -> None:
        store.add(NETWORK, one)  # another revision: cached answers no longer hold

    def same() -> None:
        return None

    with requests.Session() as session:
        kinds: dict[str, tuple[Callable[[], None], bool]] = {
            "first at a revision": (change, False),
            "another question at that revision": (same, True),
            "cached": (same, False),
        }
        for what, question in QUESTIONS.items():
            for kind, (prepare, another) in kinds.items():
                times: dict[str, list[float]] = {"endpoint": [], "do nothing": []}
                for number in range(rounds + 1):
                    prepare()
                    asked = _ask(session, server, question(number + 1 if another else 0))
                    idle = _ask(session, server, "predictions/do_nothing")
                    if number:
                        times["endpoint"].append(asked)
                        times["do nothing"].append(idle)
                name = f"{what} after {size} requests, {kind}"
                rows.append(against(name, times, "endpoint", "do nothing", expected="<= 2"))
    return rows


def run(quick: bool = False) -> list[Row]:
    """Rows for an observation, the endpoint's answers at both sizes, and the size of the store."""
    rounds = 3 if quick else 25
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        archives = Path(folder, "models")
        archives.mkdir()
        build_endpoint_archive(archives)
        do_nothing(Path(folder), archives)
        for size, seen in (("10^4", 1e4), ("10^9", 1e9)):
            random = np.random.default_rng(0)
            url = f"sqlite:///{folder}/{size}.db"
            with Store(url) as store:
                store.put_network(_manifest(), _profile(random))
                _fill(store, seen, random)
                if size == "10^4":
                    rows += _observe(url, rounds) + _label(Path(folder), rounds)
                _, nbytes = store.compact()
                rows.append(row(f"size of the store after {size} requests", nbytes / 1e6, "MB"))
                with TorchServe(
                    model_store=archives, models=["isplit.mar", "do_nothing.mar"], store=url
                ) as server:
                    rows += _answers(server, store, size, rounds)
    return rows
