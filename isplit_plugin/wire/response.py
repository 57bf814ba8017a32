"""A tail's answer: the top k classes of every item, and the raw scores on request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import WireError
from ..schema import FloatArray
from . import message
from .answer_bounds import AnswerBounds
from .message import InferResponse
from .parameters import (
    P_AUDIT,
    P_DECODE_MS,
    P_DEVICE,
    P_EXIT,
    P_NETWORK,
    P_PROBE_RATE,
    P_QUEUE_MS,
    P_REFINE,
    P_REQUEST_ID,
    P_SPLIT_POINT,
    P_TAIL_MS,
    Scalar,
    read_number,
    read_text,
)
from .reader import Buffer
from .refined import read_items, write_numbers
from .request import SCORES
from .stamps import read_stamp
from .tensor import Tensor

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TailResponse:
    """The answer for N items.

    Attributes:
        top_class: Class ids (N, k), int64, best first.
        top_score: Their raw scores (N, k), float32.
        top_probability: Their softmax probabilities (N, k), float32.
        top_label: Their labels, N rows of k.
        scores: The raw scores of all classes (N, C), float32, or ``None``.
        split_point: The split point of the request.
        network_hash: The tail's network hash.
        request_id: The server's id for the request.
        decode_ms: How long decoding the activation took.
        tail_ms: How long the tail took.
        queue_ms: How long the request waited in the worker for others of its batch.
        model: The model that answers.
        version: Its version.
        id: The client's id, as the request has it.
        device: "ok" or "invalid: <reason>", the verdict on the device token. Empty where none was
            sent, or where nothing can verify it.
        probe_rate: The share of its requests, 0 to 1, that the device should follow with a probe.
        release: The release of the cut's exit that is in force; "none" where none is. Empty where
            the tail does not know, or has no exits.
        refine: To a first request, the items that are to be sent again: those whose answer is not
            sure, and ``audit``.
        audit: Those of them whose answer is sure.
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
    queue_ms: float = 0.0
    model: str = ""
    version: str = ""
    id: str = ""
    device: str = ""
    probe_rate: float = 0.0
    release: str = ""
    refine: tuple[int, ...] = ()
    audit: tuple[int, ...] = ()

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
        """Build the answer from raw class scores.

        Parameters:
            scores: Raw scores (N, C).
            classes: The labels of the classes.
            k: The number of classes to answer.
            with_scores: Whether the answer carries the raw scores too.
            fields: The other attributes, ``split_point`` and ``network_hash`` at least.

        Raises WireError for scores that are not finite.
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
        """The body, and the length of its JSON; ``None``: all of it is JSON.

        Parameters:
            binary_outputs: The outputs that are written in binary, as the request wants them.
        """
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
            P_SPLIT_POINT: self.split_point,
            P_NETWORK: self.network_hash,
            P_REQUEST_ID: self.request_id,
            P_DECODE_MS: round(self.decode_ms, 3),
            P_TAIL_MS: round(self.tail_ms, 3),
        }
        if self.queue_ms:
            parameters[P_QUEUE_MS] = round(self.queue_ms, 3)
        if self.device:
            parameters[P_DEVICE] = self.device
        if self.probe_rate:
            parameters[P_PROBE_RATE] = round(self.probe_rate, 4)
        if self.release:
            parameters[P_EXIT] = self.release
        if self.refine:
            parameters[P_REFINE] = write_numbers(self.refine)
        if self.audit:
            parameters[P_AUDIT] = write_numbers(self.audit)
        response = InferResponse(tuple(outputs), self.model, self.version, self.id, parameters)
        binary = [tensor.name in binary_outputs for tensor in outputs]
        return message.encode_infer_response(response, binary=binary)


def decode_response(
    body: Buffer, json_length: int | None, bounds: AnswerBounds | None = None
) -> TailResponse:
    """Read an answer. Raises WireError, and nothing else. Times that cannot be read as 0.

    ``bounds``: what the answer may hold, by the request. Without them anything that is consistent.
    """
    response = message.decode_infer_response(body, json_length)
    outputs = {tensor.name: tensor for tensor in response.outputs}
    parameters = response.parameters
    top_class = _read_array(outputs, "top_class", "INT64")
    shape = top_class.shape
    if top_class.min() < 0:
        raise WireError("top_class holds negative class ids")
    if bounds is not None:
        bounds.check_shape(shape)
    top_score = _read_array(outputs, "top_score", "FP32", shape)
    top_probability = _read_array(outputs, "top_probability", "FP32", shape)
    scores = _read_scores(outputs, shape[0]) if SCORES in outputs else None
    if bounds is not None:
        bounds.check_top(top_class, top_score, top_probability)
        if scores is not None:
            bounds.check_scores(scores.shape)
    return TailResponse(
        top_class=top_class,
        top_score=top_score,
        top_probability=top_probability,
        top_label=_read_labels(outputs, shape),
        scores=scores,
        split_point=read_text(parameters.get(P_SPLIT_POINT), P_SPLIT_POINT),
        network_hash=read_text(parameters.get(P_NETWORK), P_NETWORK),
        request_id=read_text(parameters.get(P_REQUEST_ID), P_REQUEST_ID),
        decode_ms=read_stamp(parameters, P_DECODE_MS),
        tail_ms=read_stamp(parameters, P_TAIL_MS),
        queue_ms=read_stamp(parameters, P_QUEUE_MS),
        model=response.model_name,
        version=response.model_version,
        id=response.id,
        device=read_text(parameters.get(P_DEVICE, ""), P_DEVICE),
        probe_rate=read_number(parameters, P_PROBE_RATE, "a share", high=1, default=0.0),
        release=read_text(parameters.get(P_EXIT, ""), P_EXIT),
        refine=read_items(parameters, P_REFINE, shape[0]),
        audit=read_items(parameters, P_AUDIT, shape[0]),
    )


def top_k(scores: FloatArray, k: int) -> tuple[IntArray, FloatArray, FloatArray]:
    """The best classes of scores (N, C), best first; among equals the lower id first.

    Returns class ids, scores and softmax probabilities, each (N, min(k, C)).

    Raises WireError for scores that are not (N, C), or not finite.
    """
    if scores.ndim != 2 or scores.size == 0:
        raise WireError(f"expected class scores of shape (N, classes), got {scores.shape}")
    best = [_best_of(row, k) for row in scores]
    ids, values, probabilities = (np.array(rows) for rows in zip(*best, strict=True))
    return ids, values.astype(np.float32), probabilities.astype(np.float32)


def _best_of(scores: FloatArray, k: int) -> tuple[list[int], list[float], list[float]]:
    """The best of some scores (C,): ids, scores, probabilities.

    A tail has just filled the processor's caches, so what costs is the number of different
    functions rather than their work: k times the largest is half as long as a partition and a sort.
    """
    highest, lowest = float(scores.max()), float(scores.min())
    if not (math.isfinite(highest) and math.isfinite(lowest)):
        raise WireError("the network's scores are not finite: its input is out of range")
    # Relative to the best score, in double precision: nothing overflows, and the sum of many small
    # terms keeps its digits.
    weights = scores.astype(np.float64)
    weights -= highest
    np.exp(weights, out=weights)
    total = float(weights.sum())
    rest = scores.copy()
    ids: list[int] = []
    for _ in range(min(k, len(scores))):
        best = int(rest.argmax())  # among equals the lowest
        ids.append(best)
        rest[best] = -math.inf
    values = [float(scores[i]) for i in ids]
    return ids, values, [float(weights[i]) / total for i in ids]


def margins_of(scores: FloatArray) -> FloatArray:
    """The margin of each answer (N,): the probability of the first class less the second's.

    ``scores``: raw, (N, C). It is 1 where there is one class. Scores that are not finite give NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        weights = scores.astype(np.float64)
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        if scores.shape[1] == 1:
            return np.ones(len(scores), np.float32)
        best = np.partition(weights, -2, axis=1)[:, -2:]
        margins: FloatArray = ((best[:, 1] - best[:, 0]) / weights.sum(axis=1)).astype(np.float32)
    return margins


def label(classes: Sequence[str], class_id: int) -> str:
    """The label of a class, or its number where there are fewer labels."""
    return classes[class_id] if class_id < len(classes) else str(class_id)


def _read_output(
    outputs: Mapping[str, Tensor], name: str, shape: tuple[int, ...] | None = None
) -> Tensor:
    tensor = outputs.get(name)
    if tensor is None:
        raise WireError(f"the answer lacks the output {name!r}")
    if len(tensor.shape) != 2 or (shape is not None and tensor.shape != shape):
        raise WireError(
            f"output {name!r} has shape {list(tensor.shape)}, expected {shape or '[N, k]'}"
        )
    return tensor


def _read_array(
    outputs: Mapping[str, Tensor], name: str, datatype: str, shape: tuple[int, ...] | None = None
) -> Any:
    tensor = _read_output(outputs, name, shape)
    if tensor.datatype != datatype:
        raise WireError(f"output {name!r} is {tensor.datatype}, expected {datatype}")
    if not np.isfinite(tensor.array).all():
        raise WireError(f"output {name!r} holds values that are not finite")
    return tensor.array


def _read_labels(
    outputs: Mapping[str, Tensor], shape: tuple[int, ...]
) -> tuple[tuple[str, ...], ...]:
    items = _read_output(outputs, "top_label", shape).items
    try:
        labels = [bytes(item).decode() for item in items]
    except UnicodeDecodeError:
        raise WireError("top_label is not UTF-8") from None
    rows, k = shape
    return tuple(tuple(labels[row * k : (row + 1) * k]) for row in range(rows))


def _read_scores(outputs: Mapping[str, Tensor], items: int) -> FloatArray:
    scores: FloatArray = _read_array(outputs, SCORES, "FP32")
    if scores.shape[0] != items:
        raise WireError(
            f"output {SCORES!r}: expected scores of {items} items, got shape {scores.shape}"
        )
    return scores
