"""For back offices: tell the server what requests really showed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import IsplitError, ProtocolError, QueryError, WireError, from_json
from ..wire import load_json
from .recommendations import ENDPOINT
from .transport import DEFAULT_TIMEOUT, Token, Transport

MAX_LABELS: Final = 1000
"""Labels in one call; more are sent in several."""


@dataclass(frozen=True)
class LabelReport:
    """What became of labels: how many were ``taken``, how many of those agree with the prediction (``correct``), and
    the error of each other one by its request id."""

    taken: int = 0
    correct: int = 0
    errors: Mapping[str, IsplitError] = field(default_factory=dict)


def send_labels(
    url: str,
    labels: Mapping[str, int | str] | Iterable[tuple[str, int | str]],
    secret: str,
    token: Token = None,
    *,
    timeout: tuple[float, float] = DEFAULT_TIMEOUT,
) -> LabelReport:
    """Send true classes by request id (``Prediction.request_id``), under the labels' own secret.

    A class is an id, or a label of the network. A label that is refused harms no other: see ``errors``; a call that is
    repeated because its answer was lost finds its labels taken already (LabelledBeforeError).
    Raises LabelSecretError, QueryError, StoreError and the errors of :meth:`Transport.post`.
    """
    pairs = list(labels.items() if isinstance(labels, Mapping) else labels)
    for request_id, class_id in pairs:
        if (
            not isinstance(request_id, str)
            or isinstance(class_id, bool)
            or not isinstance(class_id, int | str)
        ):
            raise QueryError(
                f"labels: expected a request id and a class, got {(request_id, class_id)!r:.80}"
            )
    transport = Transport(url, token=token, timeout=timeout)
    taken = correct = 0
    errors: dict[str, IsplitError] = {}
    try:
        for at in range(0, len(pairs), MAX_LABELS):
            some = [{"request_id": r, "class": c} for r, c in pairs[at : at + MAX_LABELS]]
            body = json.dumps({"labels": some, "token": secret}).encode()
            reply = transport.post(ENDPOINT, body, {"Content-Type": "application/json"})
            for row in _rows(reply.body, len(some)):
                if "code" in row:
                    errors[str(row.get("request_id"))] = from_json(row, status=400)
                else:
                    taken += 1
                    correct += bool(row.get("correct"))
    finally:
        transport.close()
    return LabelReport(taken, correct, errors)


def _rows(body: bytes | memoryview, count: int) -> list[dict[str, Any]]:
    try:
        raw = load_json(body, "labels")
    except WireError as error:
        raise ProtocolError(f"the endpoint's answer: {error.message}") from error
    rows = raw.get("labels") if isinstance(raw, dict) else None
    if (
        not isinstance(rows, list)
        or len(rows) != count
        or not all(isinstance(row, dict) for row in rows)
    ):
        raise ProtocolError(f"expected an answer for each of {count} labels")
    return rows
