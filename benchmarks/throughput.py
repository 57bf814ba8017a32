"""Throughput with everything on, against everything off: recording, sampling, identity of devices,
requests kept for labels and labels, probes.

EfficientNet-Lite0 in a real TorchServe, two connections, at a cut with a light tail and at one with a
heavier tail: what statistics cost a request is the same, its share is not. **One** worker does it all: two workers of
the same model differ by up to a fifth, by where their memory lies, and keep that difference until
they end. Requests say whether they are counted (:mod:`benchmarks.switched_handler`). Blocks of a
second take turns in a new order each round: `on`, `off` and `off` once more. Each block ends with a
flush in place of the one a second that workers make, so that what it counted is written on its own
time. A round gives one ratio, in which the
machine's other work is nearly the same above and below. The second `off` against the first (A/A)
shows the noise that is left. Printed is the median ratio with its 95 % interval (bootstrap over
rounds), of requests a second and of CPU seconds a request: those of TorchServe's Java part and of
all workers, the endpoint's included, which other work on the machine hardly changes.

A hundredth of the requests gets a label, as from a back office that checks some answers. Probes come
at the shipped rate of one a minute, once the 60 are sent that a device may send at once; a row says
what one costs. Importance is computed while the worker
is idle, in all three blocks alike; its budget of CPU (1 % of a core, as shipped) bounds it.
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
from .packaged import package_lite0, replace_handler

ROUNDS: Final = 60
BLOCK: Final = 100
"""Requests of one connection in one block."""
CONNECTIONS: Final = 2
MAX_PROBES: Final = 200
LABELS: Final = 2
"""Labels for the requests of one block."""
MODEL: Final = "switched"
CUTS: Final = ("_blocks.12:uint8+zstd", "_blocks.5:uint8+zstd")
SWITCHED: Final = Path(__file__).with_name("switched_handler.py")
CONFIG: Final[Mapping[str, Any]] = {
    "isplit": {"sampling": 0.05, "cpu_budget": 0.01, "probes": {"enabled": True}}
}
_SWITCH: Final = "X-Statistics"


@dataclass(frozen=True, slots=True)
class Block:
    """What one block showed."""

    requests_per_s: float
    cpu_s: float


class Load:
    """Blocks of requests to the model.

    Parameters:
        request: the request, sent again and again.
        on: whether it is counted. Then devices follow the advised rate of probes, too.
    """

    def __init__(self, server: TorchServe, request: TailRequest, *, on: bool) -> None:
        self._on = on
        body, headers = _on_wire(request)
        self._request = (body, headers if on else {**headers, _SWITCH: "off"})
        self._flush = (body, {**headers, _SWITCH: "flush"})
        self._probe = _on_wire(replace(request, probe=True))
        self._connections = [
            Connection(server.inference_url, server.token()) for _ in range(CONNECTIONS)
        ]
        java = psutil.Process(server.status(MODEL).pids[0]).parent()
        assert java is not None
        self._processes = [java.pid, *(child.pid for child in java.children())]
        self.ids: list[str] = []
        self.probes = 0

    def block(self, pool: ThreadPoolExecutor) -> Block:
        """Send the requests of a block over all connections, and have what they counted written."""
        before, started = self._cpu_s(), time.perf_counter()
        list(pool.map(self._send, self._connections))
        self._connections[0].post(MODEL, *self._flush, read=False)
        seconds = time.perf_counter() - started
        count = BLOCK * CONNECTIONS
        return Block(count / seconds, (self._cpu_s() - before) / count)

    def spend_probes(self) -> list[float]:
        """Send probes until the server takes no more of this device; the CPU seconds of each."""
        spent: list[float] = []
        while len(spent) < MAX_PROBES:
            before = self._cpu_s()
            answer = self._connections[0].post(MODEL, *self._probe, read=False)
            if answer.status != 200:
                break
            spent.append(self._cpu_s() - before)
        return spent

    def _send(self, connection: Connection) -> None:
        for number in range(BLOCK):
            answer = connection.post(MODEL, *self._request, read=number == 0)
            if answer.response is not None and self._on:
                self.ids.append(answer.response.request_id)
                if random.random() < answer.response.probe_rate * BLOCK:
                    self.probes += connection.post(MODEL, *self._probe, read=False).status == 200

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
        points = [cut.partition(":")[0] for cut in CUTS]
        bundle = package_lite0(model_store, {MODEL: CONFIG}, points)[MODEL]
        replace_handler(model_store / f"{MODEL}.mar", SWITCHED)
        label_secret = new_secret(folder / "labels.secret")
        server = stack.enter_context(
            TorchServe(
                model_store=model_store,
                store=f"sqlite:///{folder / 'store.db'}",
                devices=True,
                environment={"ISPLIT_LABEL_SECRET_FILE": str(label_secret)},
            )
        )
        secret = read_secret(label_secret).decode()
        return [
            measured
            for number, cut in enumerate(CUTS)
            for measured in _at_cut(server, prepared_request(bundle, cut), secret, number, rounds)
        ]


def _at_cut(
    server: TorchServe, request: TailRequest, label_secret: str, number: int, rounds: int
) -> list[Row]:
    """Rows of one cut. Each cut has a device of its own, which has not sent a probe yet."""
    token = issue(read_secret(server.secret_path), f"benchmark-{number}", days=1)
    loads = {
        "on": Load(server, replace(request, device_token=token), on=True),
        "off": Load(server, request, on=False),
        "off_again": Load(server, request, on=False),
    }
    probes = loads["on"].spend_probes()
    blocks = _rounds(server, loads, label_secret, rounds)
    cut = str(request.cut)
    return [
        *_rows(cut, blocks),
        row(f"{cut}: probes sent", loads["on"].probes, ""),
        row(f"{cut}: one probe: CPU", statistics.median(probes) * 1e3, "ms", rounds=len(probes)),
    ]


def _rounds(
    server: TorchServe, loads: Mapping[str, Load], label_secret: str, rounds: int
) -> dict[str, list[Block]]:
    """Blocks by load. The first two rounds warm up."""
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


def _rows(cut: str, blocks: Mapping[str, list[Block]]) -> list[Row]:
    rows = []
    for name, ours in (("off again against off (A/A)", "off_again"), ("everything on", "on")):
        for what, unit, read in (
            ("throughput", "requests/s", _rate),
            ("CPU of TorchServe and its workers", "ms/request", _cpu_ms),
        ):
            values, rivals = list(map(read, blocks[ours])), list(map(read, blocks["off"]))
            ratios = np.array(values) / np.array(rivals)
            if read is _cpu_ms:
                ratios = 1 / ratios  # as throughput: more is better
            low, high = _interval(ratios)
            rows.append(
                row(
                    f"{cut}, {name}: {what}",
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
