"""What the forwarder adds to a request: against TorchServe directly, in turns in the same run.

A real TorchServe, EfficientNet-Lite0 and a handler that does nothing, loopback, kept connections.
The forwarder is a process of its own, as `isplit forward` starts it. Rows without a network show
the forwarder's own milliseconds; the rows of a prediction show what a device notices.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

from isplit_plugin.client import SplitClient
from isplit_plugin.demo.photos import labelled_photos
from isplit_plugin.device_tokens import issue, read_secret
from isplit_plugin.serving.launcher import TorchServe

from .harness import Row, interleaved, row
from .packaged import do_nothing, package_lite0

CUTS = ("input:jpeg", "_blocks.5:uint8+zstd")
SIZES = (1_000, 100_000, 1_000_000, 10_000_000)
ROUNDS = 400
LIMIT_MS = 2.0
LIMIT = 1.05


def run(quick: bool = False) -> list[Row]:
    """Rows of medians and 95th percentiles: direct, through the forwarder, and direct again."""
    rounds = 20 if quick else ROUNDS
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        bundle = package_lite0(folder / "model_store", {"lite0": {}}, ["_blocks.5"])["lite0"]
        do_nothing(folder, folder / "model_store")
        server = stack.enter_context(
            TorchServe(
                model_store=folder / "model_store",
                workdir=folder / "run",
                store=f"sqlite:///{folder / 'store.db'}",
                devices=True,
            )
        )
        url = stack.enter_context(_forwarder(folder))
        token = issue(read_secret(server.secret_path), "benchmark", days=1)
        rows = []
        for cut in CUTS:
            rows += _prediction(server, url, token, bundle, cut, rounds)
        for size in SIZES:
            rows += _nothing(server, url, token, size, rounds if size < 10**7 else rounds // 4)
        return rows


@contextmanager
def _forwarder(folder: Path) -> Iterator[str]:
    """The address of `isplit forward` beside the server."""
    properties = (folder / "run" / "config.properties").read_text().splitlines()
    addresses = dict(line.split("=", 1) for line in properties if "=" in line)
    command = [sys.executable, "-m", "isplit_plugin", "forward", "--json", "--port", "0"]
    command += ["--model", "lite0", "--model", "do_nothing", "--workdir", str(folder / "run")]
    command += ["--to", addresses["inference_address"]]
    command += ["--management-url", addresses["management_address"]]
    command += ["--rate", "100000", "--burst", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _prediction(  # noqa: PLR0917
    server: TorchServe, url: str, token: str, bundle: Path, cut: str, rounds: int
) -> list[Row]:
    photo = labelled_photos()[0].path
    options = {"model": "lite0", "head": bundle, "raw_scores": False, "device_token": token}
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(SplitClient(address, **options, **more))  # type: ignore[arg-type]
            for name, address, more in (
                ("direct", server.inference_url, {"token": server.token}),
                ("forwarder", url, {}),
                ("direct again", server.inference_url, {"token": server.token}),
            )
        }

        def predict(client: SplitClient) -> Callable[[], object]:
            return lambda: client.predict(photo, cut=cut)

        jobs = {name: predict(client) for name, client in clients.items()}
        return _rows(f"predict, {cut}", interleaved(jobs, rounds=rounds, warmup=10))


def _nothing(server: TorchServe, url: str, token: str, size: int, rounds: int) -> list[Row]:
    payload = b"\0" * size
    path = "/predictions/do_nothing"
    with requests.Session() as session:

        def post(address: str, bearer: str) -> Callable[[], object]:
            headers = {
                "Authorization": f"Bearer {bearer}",
                "Content-Type": "application/octet-stream",
            }

            def send() -> bytes:
                answer = session.post(address + path, data=payload, headers=headers, timeout=60)
                answer.raise_for_status()
                return answer.content

            return send

        jobs = {
            "direct": post(server.inference_url, server.token()),
            "forwarder": post(url, token),
            "direct again": post(server.inference_url, server.token()),
        }
        times = interleaved(jobs, rounds=rounds, warmup=10)
    return _rows(f"no network, {size:,} bytes", times)


def _rows(name: str, times: dict[str, list[float]]) -> list[Row]:
    rows = []
    for label, share in (("p50", 0.50), ("p95", 0.95)):
        direct, ours, again = (
            _quantile(times[job], share) for job in ("direct", "forwarder", "direct again")
        )
        rows.append(
            row(
                f"{name}: {label} through the forwarder",
                ours,
                "ms",
                rival=f"direct, {direct:.3g} ms (again: {again:.3g} ms)",
                rival_value=direct,
                again_value=again,
                ratio=ours / direct,
                added_ms=ours - direct,
                rounds=len(times["direct"]),
                expected=f"{ours - direct:+.2f} ms; < {LIMIT_MS:g} ms"
                + (f" and < {LIMIT:g} x" if name.startswith("predict") else ""),
            )
        )
    return rows


def _quantile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]
