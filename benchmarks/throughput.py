"""Throughput with everything on, against everything off: recording, sampling, identity of devices,
requests kept for labels and labels, probes.

EfficientNet-Lite0 in a real TorchServe, one worker each, two connections. Three models take turns in
blocks of some tens of requests, in a new order each round: `on`, `off` and `off` once more. A round
gives one ratio, in which the machine's other work is nearly the same above and below. The second
`off` against the first (A/A) shows the noise that is left. Printed is the median ratio with its
95 % interval (bootstrap over rounds), of requests a second and of CPU seconds a request: those of
the worker and of TorchServe's Java part, which other work on the machine hardly changes.

Importance is computed while a worker is idle, so it falls into all three blocks alike; its budget
of CPU (here 1 % of a core, as shipped) bounds it.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from isplit_plugin.client import send_labels
from isplit_plugin.device_tokens import issue, new_secret, read_secret
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.wire import TailRequest, http_headers

from .harness import Row, row
from .overhead import Connection, prepared_request
from .packaged import package_lite0

ROUNDS: Final = 60
BLOCK: Final = 20
"""Requests of one connection in one block."""
CONNECTIONS: Final = 2
LABELS: Final = 2
"""Labels for the requests of one block."""
CUT: Final = "_blocks.12:uint8+zstd"
MODELS: Final[Mapping[str, Mapping[str, Any]]] = {
    "on": {
        "isplit": {
            "sampling": 0.05,
            "cpu_budget": 0.01,
            "probes": {"enabled": True, "per_hour": 100_000},
        }
    },
    "off": {"isplit": {"statistics": False}},
    "off_again": {"isplit": {"statistics": False}},
}


@dataclass(frozen=True, slots=True)
class Block:
    """What one block showed."""

    requests_per_s: float
    cpu_s: float


class Load:
    """Blocks of requests to one model.

    Parameters:
        probes: whether devices follow the advised rate of probes.
    """

    def __init__(
        self, server: TorchServe, model: str, request: TailRequest, *, probes: bool
    ) -> None:
        self._model = model
        self._request = _on_wire(request)
        self._probe = _on_wire(replace(request, probe=True)) if probes else None
        self._connections = [
            Connection(server.inference_url, server.token()) for _ in range(CONNECTIONS)
        ]
        worker = server.status(model).pids[0]
        self._processes = (worker, psutil.Process(worker).ppid())
        self.ids: list[str] = []
        self.probes = 0

    def block(self, pool: ThreadPoolExecutor) -> Block:
        """Send the requests of a block over all connections."""
        before, started = self._cpu_s(), time.perf_counter()
        list(pool.map(self._send, self._connections))
        seconds = time.perf_counter() - started
        count = BLOCK * CONNECTIONS
        return Block(count / seconds, (self._cpu_s() - before) / count)

    def _send(self, connection: Connection) -> None:
        for number in range(BLOCK):
            answer = connection.post(self._model, *self._request, read=number == 0)
            if answer.response is not None and self._probe is not None:
                self.ids.append(answer.response.request_id)
                if random.random() < answer.response.probe_rate * BLOCK:
                    connection.post(self._model, *self._probe, read=False)
                    self.probes += 1

    def _cpu_s(self) -> float:
        """Of all threads, in nanoseconds' resolution: `times` counts in steps of 10 ms."""
        nanoseconds = 0
        for process in self._processes:
            for task in Path(f"/proc/{process}/task").iterdir():
                with suppress(OSError):  # a thread that just ended
                    nanoseconds += int((task / "schedstat").read_text().split()[0])
        return nanoseconds / 1e9


def run(quick: bool = False) -> list[Row]:
    """Rows of A/A, and of on against off."""
    rounds = 5 if quick else ROUNDS
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        model_store = folder / "model_store"
        bundles = package_lite0(model_store, MODELS, [CUT.partition(":")[0]])
        label_secret = new_secret(folder / "labels.secret")
        server = stack.enter_context(
            TorchServe(
                model_store=model_store,
                store=f"sqlite:///{folder / 'store.db'}",
                devices=True,
                environment={"ISPLIT_LABEL_SECRET_FILE": str(label_secret)},
            )
        )
        request = prepared_request(bundles["on"], CUT)
        token = issue(read_secret(server.secret_path), "benchmark", days=1)
        loads = {
            "on": Load(server, "on", replace(request, device_token=token), probes=True),
            "off": Load(server, "off", request, probes=False),
            "off_again": Load(server, "off_again", request, probes=False),
        }
        secret = read_secret(label_secret).decode()
        blocks = _rounds(server, loads, secret, rounds)
        return [*_rows(blocks), row("probes sent", loads["on"].probes, "")]


def _rounds(
    server: TorchServe, loads: Mapping[str, Load], label_secret: str, rounds: int
) -> dict[str, list[Block]]:
    """Blocks by model. The first two rounds warm up."""
    blocks: dict[str, list[Block]] = {name: [] for name in loads}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for number in range(rounds + 2):
            for name in random.sample(list(loads), len(loads)):
                labels = loads[name].ids[:LABELS]
                loads[name].ids.clear()
                office = threading.Thread(target=_label, args=(server, labels, label_secret))
                office.start()
                block = loads[name].block(pool)
                office.join()
                if number >= 2:
                    blocks[name].append(block)
    return blocks


def _label(server: TorchServe, ids: list[str], secret: str) -> None:
    """What a back office does: the true class of a few requests."""
    if ids:
        send_labels(server.inference_url, dict.fromkeys(ids, 1), secret, server.token)


def _rows(blocks: Mapping[str, list[Block]]) -> list[Row]:
    rows = []
    for name, ours in (("A/A: off again against off", "off_again"), ("everything on", "on")):
        for what, unit, read in (
            ("throughput", "requests/s", _rate),
            ("CPU of worker and TorchServe", "ms/request", _cpu_ms),
        ):
            values, rivals = list(map(read, blocks[ours])), list(map(read, blocks["off"]))
            ratios = np.array(values) / np.array(rivals)
            if read is _cpu_ms:
                ratios = 1 / ratios  # as throughput: more is better
            low, high = _interval(ratios)
            rows.append(
                row(
                    f"{name}: {what}",
                    statistics.median(values),
                    unit,
                    rival="off",
                    rival_value=statistics.median(rivals),
                    ratio=float(np.median(ratios)),
                    ratio_interval=[low, high],
                    rounds=len(ratios),
                    expected=f"{low:.3f} to {high:.3f}" + ("; >= 0.98" if ours == "on" else ""),
                )
            )
    return rows


def _rate(block: Block) -> float:
    return block.requests_per_s


def _cpu_ms(block: Block) -> float:
    return block.cpu_s * 1e3


def _interval(ratios: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """The 95 % interval of the median, by resampling rounds."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def _on_wire(request: TailRequest) -> tuple[bytes, dict[str, str]]:
    body, length = request.encode()
    return body, http_headers(length)
