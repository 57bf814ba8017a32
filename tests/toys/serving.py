"""For the tests of serving: a small network and its profile, and TorchServe's worker protocol
without TorchServe.
"""

from __future__ import annotations

import json
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from isplit_plugin.network import CapturedNetwork, capture
from isplit_plugin.profile import CutMeasurement, Profile
from isplit_plugin.schema import Cut, Preprocessing
from isplit_plugin.wire import (
    HEADER,
    TailRequest,
    TailResponse,
    decode_response,
    encode_activation,
    http_headers,
)

PREPROCESSING = Preprocessing(
    crop=(16, 16), resize=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)
CLASSES = ("ant", "bee", "cat", "dog", "eel")


def toy_network(seed: int = 0) -> CapturedNetwork:
    """(3, 16, 16) -> conv1 (4, 8, 8) -> conv2 (8, 4, 4) -> 5 classes, with seeded weights."""
    torch.manual_seed(seed)
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 4, 3, stride=2, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(4, 8, 3, stride=2, padding=1),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(8, len(CLASSES)),
    )
    return capture(nn.Sequential(layers).eval(), torch.randn(1, 3, 16, 16))


def decided_network() -> CapturedNetwork:
    """The same with answers that depend on the input, as those of a trained network do."""
    net = toy_network()
    with torch.no_grad():
        for parameter in net.model.parameters():
            if tuple(parameter.shape) == (len(CLASSES), 8):
                parameter.mul_(60)
    return net


def toy_photos(count: int, *, seed: int = 1, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """uint8 (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def profile_of(
    net: CapturedNetwork,
    inputs: torch.Tensor,
    *,
    model: str = "toy",
    preprocessing: Preprocessing = PREPROCESSING,
    classes: Sequence[str] = CLASSES,
    nbytes: Mapping[tuple[str, str], float] | None = None,
) -> Profile:
    """A profile whose moments are those of ``inputs``; ``nbytes`` makes the measures, each with
    full agreement.
    """
    found = net.importance(inputs)
    values = np.asarray(found.values, np.float64)
    mean0 = values.mean(axis=0)
    ids, count = np.unique(found.target, return_counts=True)
    centred = values - mean0
    sum1 = np.stack([centred[found.target == c].sum(axis=0) for c in ids])
    sum2 = np.stack([(centred[found.target == c] ** 2).sum(axis=0) for c in ids])
    within = np.concatenate(
        [
            centred[found.target == c] - centred[found.target == c].mean(axis=0, keepdims=True)
            for c in ids
        ]
    )
    names = ["input", *(p.name for p in net.split_points), "output"]
    all_seen = count.astype(np.int64)
    sizes = {("input", "jpeg@90"): 900.0, ("output", "none"): 0.0} | dict(nbytes or {})
    return Profile(
        model=model,
        network_hash=net.network_hash(preprocessing),
        classes=tuple(classes),
        split_points=net.split_points,
        preprocessing=preprocessing,
        target="predicted",
        class_ids=ids.astype(np.int64),
        count=all_seen,
        mean0=mean0,
        sum1=sum1,
        sum2=sum2,
        comoment=within.T @ within,
        comoment_dof=len(values) - len(ids),
        head_ms={n: float(i) for i, n in enumerate(names)},
        tail_ms={n: float(len(names) - 1 - i) for i, n in enumerate(names)},
        measurements=tuple(
            CutMeasurement(Cut.of(*pair), size, 0.1 * (pair[1] != "none"), 0.1, all_seen, all_seen)
            for pair, size in sizes.items()
        ),
        accuracy=None,
        provenance={"made": "by a test"},
    )


def tensor_request(
    values: np.ndarray,
    split_point: str,
    codec: str = "fp32",
    *,
    network_hash: str | None = None,
    **fields: Any,
) -> TailRequest:
    """A request with decoded ``values`` (N, ...); ``fields``: the other fields of a TailRequest."""
    tensor = encode_activation(
        values, codec, name="input" if split_point == "input" else "activation"
    )
    return TailRequest(
        cut=Cut(split_point, codec), tensor=tensor, network_hash=network_hash, **fields
    )


def head_of(net: CapturedNetwork, point: str, x: torch.Tensor) -> np.ndarray:
    """The activation (N, ...) that a device sends for inputs ``x``."""
    with torch.inference_mode():
        return np.asarray(x if point == "input" else net.bisect(point)[0](x))


def whole(net: CapturedNetwork, x: torch.Tensor) -> np.ndarray:
    """Class scores (N, C) of the whole network."""
    with torch.inference_mode():
        return np.asarray(net.model(x))


def scores_of(answer: TailResponse) -> np.ndarray:
    """Class scores (N, C) of the answer to a request that asked for them."""
    assert answer.scores is not None, "the answer has no scores"
    return answer.scores


def unpack(archive: Path, folder: Path) -> Path:
    """What TorchServe does with an archive before it loads it."""
    with zipfile.ZipFile(archive) as mar:
        mar.extractall(folder)
    return folder


@dataclass(frozen=True, slots=True)
class Reply:
    """One request's part of a worker's answer to a batch."""

    request_id: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a batch, as the frontend hands it to a worker.

    ``body=None``: no body at all.
    """

    body: bytes | None
    headers: Mapping[str, str]
    field: str = "body"
    content_type: str = "application/octet-stream"


def ask_of(request: TailRequest, *, explain: bool = False) -> Ask:
    """The request as the frontend hands it to a worker, to `/explanations` if ``explain``."""
    body, length = request.encode()
    headers = http_headers(length)
    content_type = headers.pop("Content-Type")
    return Ask(body, headers | ({"explain": "True"} if explain else {}), content_type=content_type)


def answer_of(reply: Reply) -> TailResponse:
    """The decoded answer of a request that succeeded."""
    assert reply.status == 200, reply.body
    length = reply.headers.get(HEADER)
    return decode_response(reply.body, int(length) if length else None)


class Worker:
    """TorchServe's own worker code around our handler, fed and read through its binary protocol."""

    def __init__(self, folder: Path, *, batch_size: int = 4, metrics: Path | None = None) -> None:
        from isplit_plugin.serving.resources import config_file

        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # TorchServe forgets to close its version file and yaml
            self._load(folder, batch_size, metrics or config_file("metrics.yaml"))

    def _load(self, folder: Path, batch_size: int, metrics: Path) -> None:
        from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
        from ts.model_loader import TsModelLoader

        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]
        cache = MetricsCacheYamlImpl(config_file_path=str(metrics))
        cache.initialize_cache()
        cache.model_name = manifest["modelName"]
        sys.path.insert(0, str(folder))
        sys.modules.pop(Path(manifest["handler"]).stem, None)
        try:
            self.service = TsModelLoader().load(
                manifest["modelName"],
                str(folder),
                manifest["handler"],
                None,
                batch_size,
                None,
                True,
                cache,
            )
        finally:
            sys.path.remove(str(folder))
        self.service.cl_socket = None
        (self.handler,) = self.service._entry_point.__globals__["_STATE"].values()

    def __call__(self, *asks: Ask) -> list[Reply]:
        return parse_replies(self.service.predict([_frame(i, ask) for i, ask in enumerate(asks)]))

    def close(self) -> None:
        self.handler.close()


def _frame(index: int, ask: Ask) -> dict[str, Any]:
    parameters = []
    if ask.body is not None:
        value: Any = bytearray(ask.body)
        if ask.content_type == "application/json":
            try:
                value = json.loads(ask.body)
            except ValueError:
                value = bytearray(ask.body)
        parameters = [{"name": ask.field, "contentType": ask.content_type, "value": value}]
    headers = {} if ask.body is None else {"Content-Type": ask.content_type}
    headers |= ask.headers
    return {
        "requestId": f"request-{index}".encode(),
        "headers": [{"name": k.encode(), "value": v.encode()} for k, v in headers.items()],
        "parameters": parameters,
    }


def parse_replies(message: bytes) -> list[Reply]:
    """Read a worker's answer as the Java frontend does."""
    at = 0

    def number() -> int:
        nonlocal at
        (value,) = struct.unpack_from("!i", message, at)
        at += 4
        return int(value)

    def take() -> bytes:
        nonlocal at
        size = number()
        at += size
        return bytes(message[at - size : at])

    code = number()
    take()
    replies = []
    while (size := number()) >= 0:
        request_id = bytes(message[at : at + size]).decode()
        at += size
        take()  # content type; it is among the headers too
        status = number()
        take()  # the phrase
        headers = {take().decode(): take().decode() for _ in range(number())}
        replies.append(Reply(request_id, status if code == 200 else code, headers, take()))
    return replies
