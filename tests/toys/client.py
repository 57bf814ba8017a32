"""A network small enough to compute by hand, its head bundle, and an HTTP server whose network
misbehaves on demand.

x (N, 3, 4, 4) -> `double` = 2 x -> `pool` = mean over the pixels (N, 3) -> scores = pool W + b (N,
4).
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isplit_plugin import image
from isplit_plugin.client import HeadRuntime
from isplit_plugin.errors import IsplitError
from isplit_plugin.schema import (
    Cut,
    Macs,
    Manifest,
    Preprocessing,
    RatedCut,
    Recommendation,
    SplitPoint,
)
from isplit_plugin.wire import (
    CODECS,
    TailResponse,
    decode_request,
    find_header,
    header_length,
    http_headers,
)

WEIGHT = np.array([[1, 0, 0, -1], [0, 2, 0, -1], [0, 0, 3, -1]], np.float32)
BIAS = np.array([0, 0, 0, 0.5], np.float32)
CLASSES = ("red", "green", "blue", "dark")
PREPROCESSING = Preprocessing((4, 4), resize=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
TOKEN = "s3cret-token"


def scores_of(x: np.ndarray) -> np.ndarray:
    """The whole network on inputs (N, 3, 4, 4)."""
    return tail("input", x)


def tail(split_point: str, a: np.ndarray) -> np.ndarray:
    if split_point == "input":
        a = 2 * a
    if split_point != "pool":
        a = a.mean(axis=(2, 3))
    return (a @ WEIGHT + BIAS).astype(np.float32)


def photo(red: int, green: int, blue: int) -> np.ndarray:
    """Uint8 pixels of one colour."""
    return np.broadcast_to(np.array([red, green, blue], np.uint8), (4, 4, 3)).copy()


def make_manifest(**changes: Any) -> Manifest:
    points = (
        SplitPoint(
            "double", ("double.out",), (3, 4, 4), "float32", 192, Macs(0, 12), 1, (0, 1, 2, 3), True
        ),
        SplitPoint("pool", (), (3,), "float32", 12, Macs(0, 12), 1, (0, 1), True),
    )
    usual = Manifest(
        model="toy",
        version="1.0",
        network_hash="feed",
        input_shape=(3, 4, 4),
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        split_points=points,
        deployed=("double", "pool"),
        codecs=CODECS,
        default=Cut("double", "fp32"),
    )
    return replace(usual, **changes)


def onnx_head(split_point: str, *, out_shape: tuple[int, ...] | None = None) -> bytes:
    """The head of a split point (``output``: the whole network) as ONNX, written by hand."""
    shape = out_shape or {"double": (3, 4, 4), "pool": (3,), "output": (4,)}[split_point]
    nodes = [helper.make_node("Mul", ["input", "two"], ["double"])]
    initializers = [numpy_helper.from_array(np.array(2, np.float32), "two")]
    if split_point != "double":
        nodes.append(helper.make_node("ReduceMean", ["double"], ["pool"], axes=[2, 3], keepdims=0))
    if split_point == "output":
        nodes.append(helper.make_node("Gemm", ["pool", "weight", "bias"], ["output"]))
        initializers += [
            numpy_helper.from_array(WEIGHT, "weight"),
            numpy_helper.from_array(BIAS, "bias"),
        ]
    graph = helper.make_graph(
        nodes,
        split_point,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info(split_point, TensorProto.FLOAT, ["batch", *shape])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def bundle_files(
    heads: tuple[str, ...] = ("double", "pool", "output"),
    extra: dict[str, bytes] | None = None,
    **changes: Any,
) -> dict[str, bytes]:
    """The files of a bundle, the manifest with the right hashes."""
    files = {f"heads/{name}.onnx": onnx_head(name) for name in heads} | (extra or {})
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = make_manifest(**{"files": hashes, **changes})
    return {"manifest.json": json.dumps(manifest.to_json()).encode(), **files}


def shared_bundle_files(**changes: Any) -> dict[str, bytes]:
    """A bundle whose head `output` has its weights in a file of their own."""
    model = onnx.load_from_string(onnx_head("output"))
    part = onnx.ModelProto()
    part.graph.initializer.extend(model.graph.initializer)
    del model.graph.initializer[:]
    extra = {
        "heads/output.onnx": model.SerializeToString(),
        "weights/1.onnx": part.SerializeToString(),
    }
    return bundle_files(("double",), extra, **({"weights": {"output": ("1.onnx",)}} | changes))


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return path


def recommendation(cut: Cut = Cut("pool", "uint8"), **changes: Any) -> Recommendation:  # noqa: B008
    use = RatedCut(
        cut,
        0.99,
        0.9,
        1.0,
        100.0,
        "profile",
        120.0,
        5.0,
        "profile",
        2.0,
        1.0,
        12,
        "picked",
        "it is the smallest",
    )
    usual = Recommendation(
        model="toy",
        version="1.0",
        network_hash="feed",
        revision="r1",
        as_of=None,
        source="profile",
        mix="uniform",
        group="all",
        classes=(),
        use=use,
        cuts=(use,),
        rule="maxima",
        candidate_set="blocks",
        predictor="cui",
        best_candidate=None,
        candidates=(),
        curve=(),
        confidence=0.9,
        observations=0,
        reason="it is the smallest",
    )
    return replace(usual, **changes)


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Fault = Callable[["Handler"], None]


@dataclass
class State:
    manifest: Manifest
    faults: list[Fault] = field(
        default_factory=list
    )  # one for each of the next requests, then none
    always: Fault | None = None
    seen: list[Seen] = field(default_factory=list)
    advice: Recommendation = field(default_factory=recommendation)
    connections: set[Any] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)  # a connection came to its end
    token: str | None = None
    versions: tuple[str, ...] = ("1.0",)  # that are registered; all are of ``manifest``


class Server(ThreadingHTTPServer):
    daemon_threads = False  # joined at the end: no socket stays open behind a test
    request_queue_size = 16

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.state = State(make_manifest())
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    """A tail in numpy over this package's wire, and faults."""

    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 30
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def finish(self) -> None:
        super().finish()
        self.server.state.ended.set()

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_PUT(self) -> None:
        self.serve()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def serve(self) -> None:
        state = self.server.state
        body = self.body()
        state.seen.append(Seen(self.command, self.path, dict(self.headers), body))
        state.connections.add(self.client_address)
        if state.faults:
            state.faults.pop(0)(self)
        elif state.always is not None:
            state.always(self)
        elif (
            state.token is not None and self.headers.get("Authorization") != f"Bearer {state.token}"
        ):
            torchserve_error(
                400, "InvalidKeyException", "Token Authorization failed. Token either incorrect"
            )(self)
        elif self.path.startswith("/predictions/isplit"):
            self.answer(
                200,
                json.dumps(state.advice.to_json()).encode(),
                {"Content-Type": "application/json"},
            )
        elif self.path in ("/predictions/toy", *(f"/predictions/toy/{v}" for v in state.versions)):
            self.predict(body)
        elif self.path.startswith("/predictions/toy/"):
            version = self.path.rpartition("/")[2]
            message = f"Model version: {version} does not exist for model: toy"
            torchserve_error(404, "ModelVersionNotFoundException", message)(self)
        else:
            torchserve_error(404, "ModelNotFoundException", f"Model not found: {self.path}")(self)

    def predict(self, body: bytes) -> None:
        manifest = self.server.state.manifest
        headers = dict(self.headers)
        try:
            request = decode_request(
                body, header_length(headers), find_header(headers, "Content-Type"), manifest
            )
            if request.codec == "file":
                x = np.stack([image.preprocess(bytes(f), PREPROCESSING) for f in request.images()])
            elif request.is_image:
                x = np.stack(
                    [image.normalize(image.load(bytes(f)), PREPROCESSING) for f in request.images()]
                )
            else:
                x = request.activation()
            answer = TailResponse.from_scores(
                tail(request.split_point, x),
                manifest.classes,
                k=request.top_k,
                with_scores=request.scores,
                split_point=request.split_point,
                network_hash=manifest.network_hash,
                request_id="s-1",
                decode_ms=0.25,
                tail_ms=1.5,
            )
        except IsplitError as error:
            self.answer(
                error.status,
                json.dumps(error.to_json()).encode(),
                {"Content-Type": "application/json"},
            )
            return
        data, length = answer.encode(request.binary_outputs)
        self.answer(200, data, http_headers(length))

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.lower(), value)
        self.end_headers()
        self.wfile.write(body)


class SlowRuntime:
    """The heads of another runtime, with a pause before the whole network: a slow device.

    ``begun``: set when the whole network begins to run. ``stop``: ends all pauses.
    """

    def __init__(self, runtime: HeadRuntime, local_ms: float) -> None:
        self._runtime = runtime
        self._local_ms = local_ms
        self.begun = threading.Event()
        self.stop = threading.Event()

    def has(self, split_point: str) -> bool:
        return self._runtime.has(split_point)

    def run(self, split_point: str, x: np.ndarray) -> np.ndarray:
        if split_point == "output":
            self.begun.set()
            self.stop.wait(self._local_ms / 1000)
        return self._runtime.run(split_point, x)


def answering(status: int, body: bytes = b"", **headers: str) -> Fault:
    return lambda handler: handler.answer(
        status, body, {k.replace("_", "-"): v for k, v in headers.items()}
    )


def torchserve_error(status: int, kind: str, message: str) -> Fault:
    return answering(
        status, json.dumps({"code": status, "type": kind, "message": message}).encode()
    )


def reset(handler: Handler) -> None:
    """Ends the connection with a TCP reset before an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def hang_up(handler: Handler) -> None:
    """Ends the connection in good order, without an answer."""
    handler.close_connection = True


def hang(handler: Handler) -> None:
    """Never answers, until the test is over."""
    handler.server.state.stop.wait(100)
    handler.close_connection = True


def truncated(handler: Handler) -> None:
    handler.answer(200, b"half", {"Content-Length": "4000"})
    handler.close_connection = True


BUSY = torchserve_error(
    503,
    "ServiceUnavailableException",
    'Model "toy" has no worker to serve inference request. Please use scale workers',
)
DIED = torchserve_error(500, "InternalServerException", "Worker died.")
KILLED = torchserve_error(
    507, "InternalServerException", "Worker died."
)  # by SIGKILL: TorchServe takes it for memory
