"""What the tail handler adds to a handler that does nothing with the same payload, part by part.

EfficientNet-Lite0 in a real TorchServe, loopback, one connection, one request at a time. Requests
are prepared once and sent by a plain HTTP client, so that nothing of the device counts. Models take
turns. The tail's own computing is subtracted; everything else is ours to explain. A handler that
writes down the milliseconds of its parts says where they go. It times itself a little slower than
the handler that it stands for; the last part, TorchServe and the noise, is what is left.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch
from urllib.parse import urlsplit

from isplit_plugin.client import SplitClient
from isplit_plugin.demo.photos import labelled_photos
from isplit_plugin.errors import IsplitError
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.wire import (
    TailRequest,
    TailResponse,
    decode_response,
    header_length,
    http_headers,
)

from .harness import Row, row
from .packaged import POINTS, do_nothing, package_lite0, replace_handler

ROUNDS: Final = 300
EXPECTED: Final = "at most 1.9, half of the first version's 3.7 to 3.9"
CONFIG: Final[Mapping[str, Any]] = {"isplit": {"sampling": 0.05, "cpu_budget": 0.01}}
MODELS: Final[Mapping[str, Mapping[str, Any]]] = {
    "tail": CONFIG,
    "traced": CONFIG,
    "batches": {**CONFIG, "batchSize": 4, "maxBatchDelay": 1},
}
TRACED: Final = Path(__file__).with_name("traced_handler.py")


class Answer(NamedTuple):
    """One round trip. ``response``: ``None`` of a handler that does nothing."""

    round_trip_ms: float
    response: TailResponse | None
    parts: Mapping[str, float]
    status: int = 200

    @property
    def tail_ms(self) -> float:
        """The tail's computing."""
        return 0.0 if self.response is None else self.response.tail_ms


class Connection:
    """A kept connection."""

    def __init__(self, url: str, token: str) -> None:
        address = urlsplit(url)
        self._http = HTTPConnection(str(address.hostname), address.port, timeout=30)
        self._token = {"Authorization": f"Bearer {token}"}

    def post(
        self, model: str, body: bytes, headers: Mapping[str, str], *, read: bool = True
    ) -> Answer:
        """Send a request, and wait for its answer. Without ``read`` it is not decoded."""
        started = time.perf_counter()
        self._http.request("POST", f"/predictions/{model}", body, {**self._token, **headers})
        response = self._http.getresponse()
        content = response.read()
        round_trip_ms = (time.perf_counter() - started) * 1e3
        if response.status == 429:  # a probe beyond its budget
            return Answer(round_trip_ms, None, {}, response.status)
        if response.status != 200:
            raise RuntimeError(f"{model}: {response.status} {content[:300]!r}")
        answer_headers = dict(response.getheaders())
        decoded = None
        if read and not model.startswith("nothing"):
            decoded = decode_response(content, header_length(answer_headers))
        parts = json.loads(answer_headers.get("X-Parts", "{}"))
        return Answer(round_trip_ms, decoded, parts)


def run(quick: bool = False) -> list[Row]:
    """Rows of each split point: what is added, and the parts of it."""
    rounds = 20 if quick else ROUNDS
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        model_store = folder / "model_store"
        bundles = package_lite0(model_store, MODELS)
        replace_handler(model_store / "traced.mar", TRACED)
        do_nothing(folder, model_store, name="nothing")
        do_nothing(folder, model_store, name="nothing_in_batches", batch_size=4)
        server = stack.enter_context(
            TorchServe(model_store=model_store, store=f"sqlite:///{folder / 'store.db'}")
        )
        connection = Connection(server.inference_url, server.token())
        rows = []
        for point in POINTS:
            body, length = prepared_request(bundles["tail"], f"{point}:uint8+zstd").encode()
            answers = _interleaved(connection, body, http_headers(length), rounds)
            rows += [{**one, "name": f"{point}: {one['name']}"} for one in _parts(answers)]
        return rows


def prepared_request(bundle: Path, cut: str) -> TailRequest:
    """The request that the client sends for a photo."""
    sent: list[TailRequest] = []
    encode = TailRequest.encode

    def kept(request: TailRequest, *, binary: bool = True) -> tuple[bytes, int | None]:
        sent.append(request)
        return encode(request, binary=binary)

    with (
        patch.object(TailRequest, "encode", kept),
        SplitClient("http://127.0.0.1:9", model="tail", head=bundle, raw_scores=False) as client,
        suppress(IsplitError),  # nothing listens there
    ):
        client.predict(labelled_photos()[0].path, cut)
    return sent[-1]


def _interleaved(
    connection: Connection, body: bytes, headers: Mapping[str, str], rounds: int
) -> dict[str, list[Answer]]:
    """Answers by model. The models take turns; the first rounds warm them up."""
    models = [*MODELS, "nothing", "nothing_in_batches"]
    answers: dict[str, list[Answer]] = {model: [] for model in models}
    for turn in range(rounds + 10):
        first = turn % len(models)
        for model in models[first:] + models[:first]:
            answer = connection.post(model, body, headers)
            if turn >= 10:
                answers[model].append(answer)
    return answers


def _parts(answers: Mapping[str, list[Answer]]) -> list[Row]:
    """What is added, and its parts: medians, and beside them the quiet tenth of the rounds."""
    nothing = [answer.round_trip_ms for answer in answers["nothing"]]
    traced = answers["traced"]

    def added(model: str) -> list[float]:
        """Round trips without the tail's computing."""
        return [answer.round_trip_ms - answer.tail_ms for answer in answers[model]]

    def part(*names: str, less: tuple[str, ...] = ()) -> list[float]:
        return [
            sum(answer.parts.get(name, 0.0) for name in names)
            - sum(answer.parts.get(name, 0.0) for name in less)
            for answer in traced
        ]

    parts = {
        "read and check the request, verify its token": part("read"),
        "decode the activation": part("decode"),
        "find the best classes": part("top classes"),
        "encode the answer": part("answer", less=("top classes", "record")),
        "count: metrics": part("metrics"),
        "count: recorder and sampler": part("record", less=("metrics",)),
        "the rest of the handler": part("handler", less=("read", "decode", "tail", "answer")),
    }
    outside = [answer.round_trip_ms - answer.parts["handler"] for answer in traced]
    return [
        _row("handler that does nothing, round trip", nothing),
        _row("added by the tail handler", added("tail"), nothing, expected=EXPECTED),
        *(_row(f"part: {name}", values) for name, values in parts.items()),
        _row("part: TorchServe, outside of the handler", outside, nothing),
        _row("added with batchSize 4 and maxBatchDelay 1", added("batches"), nothing),
        _row(
            "batchSize 4 and maxBatchDelay 1, handler that does nothing",
            [answer.round_trip_ms for answer in answers["nothing_in_batches"]],
            nothing,
        ),
    ]


def _row(
    name: str, values: list[float], less: list[float] | None = None, *, expected: str = ""
) -> Row:
    """The median, and the lower decile: what the machine's other work does not reach.

    ``less``: values that are subtracted, after the statistic is taken.
    """
    subtracted = [0.0] if less is None else less
    median = statistics.median(values) - statistics.median(subtracted)
    quiet = _lower_decile(values) - _lower_decile(subtracted)
    return row(name, median, "ms", quiet_ms=quiet, rounds=len(values), expected=expected)


def _lower_decile(values: list[float]) -> float:
    return sorted(values)[len(values) // 10]
