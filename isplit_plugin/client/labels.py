"""Labels: a back office tells the server the true classes of requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import IsplitError, ProtocolError, QueryError, WireError, from_json
from ..printable import printable_json
from ..wire import load_json
from .budget import DEFAULT_TIMEOUT, Timeout
from .recommendations import ENDPOINT
from .transport import Token, Transport

MAX_LABELS: Final = 1000
"""Labels in one request; more are sent in several requests."""
MAX_RESULT_BYTES: Final = 8 * 1024
"""The longest answer to one label."""
MAX_RESULT_VALUES: Final = 200
"""The most values in the answer to one label: an error lists up to 60 names."""


@dataclass(frozen=True)
class LabelReport:
    """What became of the labels of one call.

    Attributes:
        taken: labels that the server stored.
        correct: those of them that equal the predicted class.
        errors: the error of every other label, by request id.
    """

    taken: int = 0
    correct: int = 0
    errors: Mapping[str, IsplitError] = field(default_factory=dict)


def send_labels(
    url: str,
    labels: Mapping[str, int | str] | Iterable[tuple[str, int | str]],
    secret: str,
    token: Token = None,
    *,
    timeout: Timeout = DEFAULT_TIMEOUT,
    deadline: float | None = None,
) -> LabelReport:
    """Send the true classes of requests.

    A label that is refused does not affect the others; see :attr:`LabelReport.errors`. It is safe
    to repeat a call whose answer was lost: labels that were taken before come back as
    LabelledBeforeError.

    Parameters:
        labels: the true class by request id (:attr:`Prediction.request_id`). A class is an id or a
            label of the network.
        secret: the secret for labels.
        token: the inference token.
        timeout, deadline: seconds for an attempt, and for each request; see :class:`Transport`.

    Raises:
        LabelSecretError: the server refuses ``secret``.
        QueryError: a label is not a request id with a class.
        StoreError: the server cannot use its store; StoreBusyError: another writer holds it, after
            retries within the deadline.
        TransportError: see :meth:`Transport.post`.
    """
    rows = list(labels.items() if isinstance(labels, Mapping) else labels)
    for request_id, class_id in rows:
        if (
            not isinstance(request_id, str)
            or isinstance(class_id, bool)
            or not isinstance(class_id, int | str)
        ):
            raise QueryError(
                f"labels: expected a request id and a class, got {(request_id, class_id)!r:.80}"
            )
    transport = Transport(url, token=token, timeout=timeout, deadline=deadline)
    taken = correct = 0
    errors: dict[str, IsplitError] = {}
    try:
        for start in range(0, len(rows), MAX_LABELS):
            batch = [{"request_id": r, "class": c} for r, c in rows[start : start + MAX_LABELS]]
            body = json.dumps({"labels": batch, "token": secret}).encode()
            reply = transport.post(
                ENDPOINT,
                body,
                {"Content-Type": "application/json"},
                max_bytes=MAX_RESULT_BYTES * (len(batch) + 1),
            )
            for result in _results(reply.body, [row["request_id"] for row in batch]):
                if "code" in result:
                    errors[result["request_id"]] = from_json(printable_json(result), status=400)
                else:
                    taken += 1
                    correct += result.get("correct") is True
    finally:
        transport.close()
    return LabelReport(taken, correct, errors)


def _results(body: bytes | memoryview, sent: list[str]) -> list[dict[str, Any]]:
    """The result for each request id that was sent, in any order. Raises ProtocolError."""
    count = len(sent)
    try:
        raw = load_json(body, "labels", max_values=MAX_RESULT_VALUES * (count + 1))
    except WireError as error:
        raise ProtocolError(f"the endpoint's answer: {error.message}") from error
    results = raw.get("labels") if isinstance(raw, dict) else None
    if (
        not isinstance(results, list)
        or len(results) != count
        or not all(isinstance(result, dict) for result in results)
    ):
        raise ProtocolError(f"expected an answer for each of {count} labels")
    answered = [result.get("request_id") for result in results]
    if not all(isinstance(name, str) for name in answered) or sorted(answered) != sorted(sent):
        raise ProtocolError("expected answers for the request ids that were sent, got others")
    return results
