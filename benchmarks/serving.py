"""What a request costs in a real TorchServe: split against whole-image JPEG, against a
do-nothing handler with the same payload, and with statistics on and off. EfficientNet-Lite0 and
real photos, loopback, one worker each, one thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import requests

from isplit_plugin.client import SplitClient
from isplit_plugin.demo.photos import labelled_photos
from isplit_plugin.schema import Cut
from isplit_plugin.serving.launcher import TorchServe

from .harness import Row, against, interleaved, row
from .packaged import POINTS, do_nothing, package_lite0

CONFIGS: dict[str, dict[str, Any]] = {
    "everything": {"isplit": {"sampling": 0.05, "cpu_budget": 0.01}},
    "everything_again": {
        "isplit": {"sampling": 0.05, "cpu_budget": 0.01}
    },  # A/A: what the machine's noise looks like
    "no_sampling": {"isplit": {"sampling": 0.0}},
    "nothing": {"isplit": {"statistics": False}},
}


def _throughput(send: Callable[[], object], *, clients: int, seconds: float) -> float:
    """Requests a second with several clients in threads."""
    deadline = time.perf_counter() + seconds

    def loop() -> int:
        sent = 0
        while time.perf_counter() < deadline:
            send()
            sent += 1
        return sent

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        total = sum(pool.map(lambda _: loop(), range(clients)))
    return total / (time.perf_counter() - started)


def run(quick: bool = False) -> list[Row]:
    """Rows of latency (keep-alive, one client) and throughput (four clients)."""
    rounds, seconds, repeats = (15, 1.0, 1) if quick else (150, 5.0, 5)
    photos = labelled_photos()
    points = list(POINTS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, store = Path(temporary), Path(temporary, "model_store")
        bundles = package_lite0(store, CONFIGS)
        do_nothing(folder, store)
        with TorchServe(model_store=store, store=f"sqlite:///{folder / 'store.db'}") as server:
            rows += _latency(server, bundles["everything"], photos[0].path, points, rounds)
            rows += _cost_of_statistics(server, bundles, photos[0].path, seconds, repeats)
    return rows


def _latency(
    server: TorchServe, bundle: Path, photo: Path, points: list[str], rounds: int
) -> list[Row]:
    rows = []
    session = requests.Session()
    with SplitClient(
        server.inference_url, model="everything", head=bundle, token=server.token, raw_scores=False
    ) as client:

        def split(point: str, codec: str) -> Callable[[], object]:
            return lambda: client.predict(photo, cut=Cut(point, codec))

        def nothing(size: int) -> Callable[[], object]:
            payload, headers = b"\0" * size, {"Authorization": f"Bearer {server.token()}"}
            headers["Content-Type"] = "application/octet-stream"
            url = f"{server.inference_url}/predictions/do_nothing"
            return lambda: session.post(url, data=payload, headers=headers, timeout=30).content

        for point in points:
            jobs = {"split": split(point, "uint8+zstd"), "jpeg": split("input", "jpeg")}
            times = interleaved(jobs, rounds=rounds, warmup=5)
            rows.append(against(f"{point}, uint8+zstd: whole request", times, "split", "jpeg"))
            sample = client.predict(photo, cut=Cut(point, "uint8+zstd"))
            # What travels and waits: the round trip, less the tail's own computing, beside a
            # handler that does nothing.
            idle = interleaved({"nothing": nothing(sample.bytes_sent)}, rounds=rounds, warmup=5)[
                "nothing"
            ]
            ours = []
            for _ in range(rounds):
                timings = client.predict(photo, cut=Cut(point, "uint8+zstd")).timings
                ours.append(timings.round_trip_ms - timings.tail_ms)
            value, rival = statistics.median(ours), statistics.median(idle)
            rows.append(
                row(
                    f"{point}: round trip without the tail's computing",
                    value,
                    "ms",
                    rival="do-nothing handler, same payload",
                    rival_value=rival,
                    ratio=value / rival,
                    added_ms=value - rival,
                )
            )
            rows.append(
                row(
                    f"{point}: bytes sent",
                    sample.bytes_sent,
                    "B",
                    **_jpeg_ratio(client, photo, sample.bytes_sent),
                )
            )
    return rows


def _jpeg_ratio(client: SplitClient, photo: Path, nbytes: int) -> dict[str, Any]:
    jpeg = client.predict(photo, cut=Cut("input", "jpeg")).bytes_sent
    return {"rival": "JPEG quality 90 request", "rival_value": jpeg, "ratio": nbytes / jpeg}


def _cost_of_statistics(
    server: TorchServe, bundles: dict[str, Path], photo: Path, seconds: float, repeats: int
) -> list[Row]:
    found: dict[str, list[float]] = {name: [] for name in bundles}
    clients = {
        name: SplitClient(
            server.inference_url, model=name, head=path, token=server.token, raw_scores=False
        )
        for name, path in bundles.items()
    }
    try:
        for number in range(repeats + 1):
            for name, client in clients.items():
                rate = _throughput(
                    partial(client.predict, photo, cut=Cut("_blocks.12", "uint8+zstd")),
                    clients=4,
                    seconds=seconds if number else 0.5,
                )
                if number:
                    found[name].append(rate)
    finally:
        for client in clients.values():
            client.close()
    base = statistics.median(found["nothing"])
    rows = []
    for name, label in (
        ("everything", "recording, sampling 5 % and 1 % of a core"),
        ("everything_again", "the same once more (A/A: the noise)"),
        ("no_sampling", "recording alone"),
    ):
        ratios = [a / b for a, b in zip(found[name], found["nothing"], strict=True)]
        rows.append(
            row(
                f"throughput, {label}",
                statistics.median(found[name]),
                "requests/s",
                rival="statistics off",
                rival_value=base,
                ratio=statistics.median(ratios),
                ratios=ratios,
                expected=">= 0.98",
            )
        )
    return rows
