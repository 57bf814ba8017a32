"""A tail's answer, typed: the top k classes of every item, and the raw scores on request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from ..schema import FloatArray
from . import message
from .message import InferResponse
from .request import SCORES
from .tensor import Buffer, Scalar, Tensor, text

IntArray = npt.NDArray[np.int64]

_SPLIT_POINT: Final = "isplit_split_point"
_NETWORK: Final = "isplit_network"
_REQUEST_ID: Final = "isplit_request_id"
_DECODE_MS: Final = "isplit_decode_ms"
_TAIL_MS: Final = "isplit_tail_ms"
_DEVICE: Final = "isplit_device"
_PROBE_RATE: Final = "isplit_probe_rate"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TailResponse:
    """The answer for N items.

    ``top_class`` (N, k) int64, ``top_score`` and ``top_probability`` (N, k) float32, best first; ``top_label`` N rows
    of k; ``scores`` (N, C) float32, or ``None``. ``request_id`` is the server's, ``id`` the client's.
    ``device``: what came of the device's token, "ok" or "invalid: <reason>", empty where none was sent or nothing can
    verify it. ``probe_rate``: the share of its requests, in [0, 1], that the device is advised to follow with a probe.
    """

    top_class: IntArray
    top_score: FloatArray
    top_probability: FloatArray
    top_label: tuple[tuple[str, ...], ...]
    scores: FloatArray | None
    split_point: str
    network_hash: str
    request_id: str = ""
    decode_ms: float = 0.0
    tail_ms: float = 0.0
    model: str = ""
    version: str = ""
    id: str = ""
    device: str = ""
    probe_rate: float = 0.0

    @classmethod
    def from_scores(
        cls,
        scores: npt.NDArray[Any],
        classes: Sequence[str],
        *,
        k: int,
        with_scores: bool,
        **fields: Any,
    ) -> TailResponse:
        """Build the answer from raw class scores (N, C). Raises WireError where they are not finite.

        ``fields``: the other fields of the class, ``split_point`` and ``network_hash`` at least.
        """
        raw = np.ascontiguousarray(scores, np.float32)
        ids, best, probabilities = top_k(raw, k)
        return cls(
            top_class=ids,
            top_score=best,
            top_probability=probabilities,
            top_label=tuple(tuple(label(classes, i) for i in row) for row in ids.tolist()),
            scores=raw if with_scores else None,
            **fields,
        )

    def encode(self, binary_outputs: Set[str] = frozenset()) -> tuple[bytes, int | None]:
        """The body and the length of its JSON (``None``: all JSON). ``binary_outputs``: from the request."""
        labels = [name.encode(errors="replace") for row in self.top_label for name in row]
        outputs = [
            Tensor.of("top_class", self.top_class),
            Tensor.of("top_score", self.top_score),
            Tensor.of("top_probability", self.top_probability),
            Tensor.of_bytes("top_label", labels, shape=tuple(self.top_class.shape)),
        ]
        if self.scores is not None:
            outputs.append(Tensor.of(SCORES, self.scores))
        parameters: dict[str, Scalar] = {
            _SPLIT_POINT: self.split_point,
            _NETWORK: self.network_hash,
            _REQUEST_ID: self.request_id,
            _DECODE_MS: round(self.decode_ms, 3),
            _TAIL_MS: round(self.tail_ms, 3),
        }
        if self.device:
            parameters[_DEVICE] = self.device
        if self.probe_rate:
            parameters[_PROBE_RATE] = round(self.probe_rate, 4)
        answer = InferResponse(tuple(outputs), self.model, self.version, self.id, parameters)
        return message.encode_response(answer, binary=[t.name in binary_outputs for t in outputs])


def decode_response(body: Buffer, json_length: int | None) -> TailResponse:
    """Read an answer. Raises WireError, and nothing else."""
    answer = message.decode_response(body, json_length)
    found = {tensor.name: tensor for tensor in answer.outputs}
    ids = _array(found, "top_class", "INT64")
    shape = ids.shape
    if ids.min() < 0:
        raise WireError("top_class holds negative class ids")
    try:
        names = [bytes(item).decode() for item in _output(found, "top_label", shape).items]
    except UnicodeDecodeError:
        raise WireError("top_label is not UTF-8") from None
    k = shape[1]
    scores = found.get(SCORES)
    return TailResponse(
        top_class=ids,
        top_score=_array(found, "top_score", "FP32", shape),
        top_probability=_array(found, "top_probability", "FP32", shape),
        top_label=tuple(tuple(names[row * k : (row + 1) * k]) for row in range(shape[0])),
        scores=None if scores is None else _scores(found, shape[0]),
        split_point=_name(answer.parameters, _SPLIT_POINT),
        network_hash=_name(answer.parameters, _NETWORK),
        request_id=_name(answer.parameters, _REQUEST_ID),
        decode_ms=_ms(answer.parameters, _DECODE_MS),
        tail_ms=_ms(answer.parameters, _TAIL_MS),
        model=answer.model_name,
        version=answer.model_version,
        id=answer.id,
        device=text(answer.parameters.get(_DEVICE, ""), _DEVICE),
        probe_rate=_rate(answer.parameters),
    )


def top_k(scores: FloatArray, k: int) -> tuple[IntArray, FloatArray, FloatArray]:
    """Class ids, scores and softmax probabilities, each (N, min(k, C)), best first, the lower id first among equals.

    Raises WireError for scores that are not (N, C) or not finite.
    """
    if scores.ndim != 2 or scores.size == 0:
        raise WireError(f"expected class scores of shape (N, classes), got {scores.shape}")
    if not np.isfinite(scores).all():
        raise WireError("the network answers scores that are not finite: its input is out of range")
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)
    best = np.take_along_axis(scores, ids, axis=1)
    # Against the best score, in double: nothing overflows, and the sum of many small terms keeps its digits.
    weights = np.exp(scores.astype(np.float64) - best[:, :1])
    probabilities = np.take_along_axis(weights, ids, axis=1) / weights.sum(axis=1, keepdims=True)
    return ids, best, probabilities.astype(np.float32)


def label(classes: Sequence[str], class_id: int) -> str:
    """The label of a class, or its number where the labels end before it."""
    return classes[class_id] if class_id < len(classes) else str(class_id)


def _output(found: Mapping[str, Tensor], name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    tensor = found.get(name)
    if tensor is None:
        raise WireError(f"the answer lacks the output {name!r}")
    if len(tensor.shape) != 2 or (shape is not None and tensor.shape != shape):
        raise WireError(
            f"output {name!r} has shape {list(tensor.shape)}, expected {shape or '[N, k]'}"
        )
    return tensor


def _array(
    found: Mapping[str, Tensor], name: str, datatype: str, shape: tuple[int, ...] | None = None
) -> Any:
    tensor = _output(found, name, shape)
    if tensor.datatype != datatype:
        raise WireError(f"output {name!r} is {tensor.datatype}, expected {datatype}")
    if not np.isfinite(tensor.array).all():
        raise WireError(f"output {name!r} holds values that are not finite")
    return tensor.array


def _scores(found: Mapping[str, Tensor], items: int) -> FloatArray:
    scores: FloatArray = _array(found, SCORES, "FP32")
    if scores.shape[0] != items:
        raise WireError(
            f"output {SCORES!r}: expected scores of {items} items, got shape {scores.shape}"
        )
    return scores


def _name(parameters: Mapping[str, Scalar], key: str) -> str:
    return text(parameters.get(key), key)


def _ms(parameters: Mapping[str, Scalar], key: str) -> float:
    value = parameters.get(key)
    if isinstance(value, bool | str) or value is None or not (math.isfinite(value) and value >= 0):
        raise WireError(f"{key}: expected milliseconds, got {str(value)[:40]!a}")
    return float(value)


def _rate(parameters: Mapping[str, Scalar]) -> float:
    value = parameters.get(_PROBE_RATE, 0.0)
    if isinstance(value, bool | str) or not 0 <= value <= 1:
        raise WireError(f"{_PROBE_RATE}: expected a share from 0 to 1, got {str(value)[:40]!a}")
    return float(value)
