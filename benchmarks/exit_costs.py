"""What exits cost where nothing is answered yet: the device, the tail and the store.

``python -m benchmarks exit_costs`` takes EfficientNet-Lite0 at its full size, 224 x 224, with exits
of twenty classes. Heads run in onnxruntime, tails in torch, one core each; the two sides of a ratio
take turns. Expected are less than 1 % of the head on the device, and less than 1 % of the tail for
each request.

**Device**: decoding its own activation as the tail does, pooling it, and the exit's answer, beside
the head.

**Tail**: what a request waits for, and the processor time that the recorder's thread needs for it
later, its statement counted and a quarter of the photos in the sums, beside the tail.

**Store**: bytes and statements that write, in SQLite, for each flush (every 5 s; sums every 30 s).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
import sqlalchemy as sa
import torch

from isplit_plugin.exits import NONE, Exit, ExitStatement, new_keys, pool, read_private_key
from isplit_plugin.network import CapturedNetwork, capture, efficientnet_lite0, export_head
from isplit_plugin.schema import Cut
from isplit_plugin.traffic import ExitPolicy, ExitRecorder, Store, look, read_version
from isplit_plugin.wire import decode_activation, encode_activation

from .harness import Row, against, interleaved, row, table

POINTS: Final = ("_blocks.4", "_blocks.10", "_blocks.14")
CODEC: Final = "uint8+zstd"
CLASSES: Final = 20
PHOTOS: Final = 40
"""Of each class, before there is an exit."""
SAMPLING: Final = 0.25
REQUESTS: Final = 256
EXPECTED: Final = "below 1 %"

F32 = npt.NDArray[np.float32]


def run(quick: bool = False) -> list[Row]:
    """Rows for each split point."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            loaded = efficientnet_lite0()
            net = capture(loaded.model, loaded.example_input)
            rows = []
            for point in POINTS:
                rows += _point_rows(Path(folder), point, net, rounds=5 if quick else 41)
                print(table(rows[-8:]), file=sys.stderr, flush=True)
            return rows
    finally:
        torch.set_num_threads(threads)


def _head(net: CapturedNetwork, point: str, folder: Path) -> Callable[[F32], F32]:
    """The head in onnxruntime, on one core."""
    file = folder / f"{point}.onnx"
    export_head(net, point, file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"input": x})[0])


def _point_rows(folder: Path, point: str, net: CapturedNetwork, *, rounds: int) -> list[Row]:
    head = _head(net, point, folder)
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    axis = net.split_point(point).channel_axis
    cut = Cut(point, CODEC)
    activation = head(x)
    sent = encode_activation(activation, CODEC, channel_axis=axis)
    tail = net.bisect(point)[1]
    z = torch.from_numpy(activation)
    with _Server(folder / f"{point}.db", cut, activation[0], axis) as server:
        exit_ = server.exit

        def on_device() -> None:
            decoded = decode_activation(sent, shape=activation.shape[1:])
            exit_.answer(pool(decoded[0], axis, exit_.pooling))

        device = interleaved({"exit": on_device, "head": lambda: head(x)}, rounds=rounds, warmup=3)
        statement = server.statement()
        with torch.inference_mode():
            served = interleaved(
                {"offer": lambda: server.offer(1, statement), "tail": lambda: tail(z)},
                rounds=rounds,
                warmup=3,
            )
        tail_ms = statistics.median(served["tail"])
        later_ms, written = server.cost_of(REQUESTS)
        return [
            row(f"{point}: features of an exit", exit_.features, "features"),
            row(f"{point}: bytes of an exit", len(exit_.to_bytes()), "bytes"),
            against(f"{point}: exit on the device", device, "exit", "head", expected=EXPECTED),
            against(f"{point}: a request in the tail", served, "offer", "tail", expected=EXPECTED),
            row(
                f"{point}: a request in the recorder's thread", later_ms, "ms", rival="tail",
                rival_value=tail_ms, ratio=later_ms / tail_ms, expected=EXPECTED,
            ),
            *(row(f"{point}: {words}", value, unit) for words, value, unit in written),
        ]  # fmt: skip


class _Server:
    """A recorder and a store with an exit."""

    def __init__(self, file: Path, cut: Cut, activation: F32, axis: int) -> None:
        self._cut, self._axis = cut, axis
        self._random = np.random.default_rng(1)
        self._centers = self._random.normal(0, 0.2, (CLASSES, activation.shape[axis - 1]))
        self._shape = [activation.shape[axis - 1] if i == axis - 1 else 1
                       for i in range(activation.ndim)]  # fmt: skip
        self._activation = activation
        self.store = Store(f"sqlite:///{file}")
        self._key = read_private_key(new_keys(file.with_suffix(".key"))[0])
        self.recorder = ExitRecorder(f"sqlite:///{file}", "network", sampling=1.0, flush_s=1e4)
        self.exit = self._fitted()
        self.recorder.close()
        self.recorder = ExitRecorder(f"sqlite:///{file}", "network", sampling=SAMPLING, flush_s=1e4)

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.close()
        self.store.close()

    def values(self, class_id: int) -> F32:
        """An activation of a class."""
        center = self._centers[class_id].reshape(self._shape)
        noise = self._random.normal(size=self._activation.shape)
        return np.asarray(self._activation + center + 0.3 * noise, np.float32)

    def _fitted(self) -> Exit:
        for _ in range(PHOTOS):
            for class_id in range(CLASSES):
                self._offer(self.values(class_id), class_id, None)
            assert self.recorder.flush(60.0)
        look(self.store.exits, self._key, ExitPolicy(min_photos=20, min_devices=0))
        (version,) = self.store.exits.versions("network")
        content = self.store.exits.content("network", version.exit)
        assert content is not None
        return read_version(content)

    def statement(self, class_id: int = 1, values: F32 | None = None) -> str | None:
        """What a device says of a photo."""
        values = self.values(class_id) if values is None else values
        said = self.exit.answer(pool(values, self._axis, self.exit.pooling))
        if said.class_id == NONE:
            return None
        return str(ExitStatement(self.exit.version, said.class_id, said.bin))

    def offer(self, class_id: int, statement: str | None) -> None:
        """One request, as the tail hands it over."""
        self._offer(self._activation, class_id, statement)

    def _offer(self, values: F32, class_id: int, statement: str | None) -> None:
        self.recorder.offer(
            self._cut, values, self._axis, class_id,
            at=time.time(), statement=statement,
        )  # fmt: skip

    def cost_of(self, requests: int) -> tuple[float, list[tuple[str, float, str]]]:
        """Processor milliseconds of the thread for each request, and what was written."""
        assert self.recorder.flush(60.0)
        photos = []
        for number in range(requests):
            values = self.values(number % CLASSES)
            photos.append((values, number % CLASSES, self.statement(0, values)))
        before = self.recorder.counters()
        spent = 0.0
        with _statements() as counted:
            for start in range(0, requests, 64):  # the queue is bounded
                for values, class_id, statement in photos[start : start + 64]:
                    self._offer(values, class_id, statement)
                started = time.process_time()
                assert self.recorder.flush(60.0)
                spent += time.process_time() - started
        after = self.recorder.counters()
        flushes = after["flushes"] - before["flushes"]
        sums = self.store.exits.sums("network", self._cut)
        assert sums is not None
        written = [
            ("statements that write, of a flush with sums", len(counted) / flushes, "statements"),
            ("bytes of the sums, written every 30 s", len(sums.to_bytes()), "bytes"),
            ("answers counted of the requests", (after["answers"] - before["answers"]) / requests,
             "share"),
        ]  # fmt: skip
        return 1e3 * spent / requests, written


@contextmanager
def _statements() -> Iterator[list[str]]:
    """The statements that write, of all engines of this process."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().split(" ", 1)[0].upper() in ("INSERT", "UPDATE", "DELETE"):
            seen.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
