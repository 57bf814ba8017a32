"""What a request costs in a real TorchServe: split against whole-image JPEG, and against a
do-nothing handler with the same payload. EfficientNet-Lite0 and real photos, loopback, one worker
each, one thread."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from isplit_plugin.client import SplitClient
from isplit_plugin.demo.photos import labelled_photos
from isplit_plugin.schema import Cut
from isplit_plugin.serving.launcher import TorchServe

from .harness import Row, against, interleaved, row
from .packaged import POINTS, do_nothing, package_lite0


def run(quick: bool = False) -> list[Row]:
    """Rows of each split point."""
    rounds = 15 if quick else 150
    photos = labelled_photos()
    points = list(POINTS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, store = Path(temporary), Path(temporary, "model_store")
        bundles = package_lite0(store, {"everything": {}})
        do_nothing(folder, store)
        with TorchServe(model_store=store, store=f"sqlite:///{folder / 'store.db'}") as server:
            rows += _latency(server, bundles["everything"], photos[0].path, points, rounds)
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
