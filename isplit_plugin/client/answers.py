"""From the tail's answer to predictions."""

from __future__ import annotations

from ..errors import ProtocolError, WireError
from ..printable import printable
from ..schema import Cut, Manifest, Prediction, Timings, TopClass
from ..wire import (
    MAX_LABEL,
    AnswerBounds,
    TailRequest,
    TailResponse,
    decode_response,
    header_length,
)
from .transport import Reply


def bounds_of(request: TailRequest, images: int, manifest: Manifest | None) -> AnswerBounds:
    """What the answer to ``request`` may hold. ``manifest``: of the head bundle, if there is one."""
    classes = None if manifest is None else len(manifest.classes)
    return AnswerBounds(images, request.top_k, classes, request.scores)


def read_answer(reply: Reply, request: TailRequest, bounds: AnswerBounds) -> TailResponse:
    """The tail's answer to ``request``. Raises ProtocolError for anything else."""
    try:
        answer = decode_response(reply.body, header_length(reply.headers), bounds)
    except WireError as error:
        raise ProtocolError(f"the tail's answer: {error.message}") from error
    check_answer(answer, request, bounds.items)
    return answer


def check_answer(answer: TailResponse, request: TailRequest, images: int) -> None:
    """Raise ProtocolError unless ``answer`` belongs to ``request``, for this many images."""
    content = (answer.split_point, len(answer.top_class), answer.scores is not None)
    expected = (request.split_point, images, request.scores)
    if content != expected:
        raise ProtocolError(
            f"the tail answered (split point, items, scores) {content}, expected {expected}"
        )
    if answer.refine and (request.first is not None or not request.cut.is_refining):
        raise ProtocolError(f"the tail asked for a second request of {request.cut}")
    if not {*answer.audit} <= {*answer.refine}:
        raise ProtocolError(
            f"the tail audits items {answer.audit}, and asks for {answer.refine} again"
        )
    if request.network_hash not in (None, answer.network_hash):
        raise ProtocolError(
            f"network {answer.network_hash} answered, expected {request.network_hash}"
        )


def predictions(
    answer: TailResponse,
    cut: Cut,
    timings: Timings,
    *,
    bytes_sent: int = 0,
    bytes_received: int = 0,
    fallback: bool = False,
    round_trips: int = 1,
) -> list[Prediction]:
    """One prediction for each image of an answer. Each gets an equal share of the bytes."""
    images = len(answer.top_class)
    rows = zip(
        answer.top_class, answer.top_label, answer.top_score, answer.top_probability, strict=True
    )
    return [
        Prediction(
            top=tuple(
                # Not only the server's: the labels of a bundle may come from anywhere, too.
                TopClass(
                    int(class_id),
                    printable(label, limit=MAX_LABEL),
                    float(score),
                    float(probability),
                )
                for class_id, label, score, probability in zip(*row, strict=True)
            ),
            scores=None if answer.scores is None else answer.scores[i],
            cut=cut,
            bytes_sent=share(bytes_sent, images, i),
            bytes_received=share(bytes_received, images, i),
            timings=timings,
            request_id=answer.request_id,
            device=answer.device,
            probe_rate=answer.probe_rate,
            fallback=fallback,
            round_trips=round_trips,
        )
        for i, row in enumerate(rows)
    ]


def share(total: int, parts: int, part: int) -> int:
    """Whole bytes of one of ``parts`` shares. All shares sum to ``total``."""
    return total // parts + (part < total % parts)
