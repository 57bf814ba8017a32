"""Questions to the endpoint: where should this device cut?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

from ..errors import ArtifactError, ProtocolError, QueryError, WireError
from ..printable import printable_json
from ..schema import Recommendation
from ..wire import load_json
from .budget import DEFAULT_TIMEOUT, Timeout
from .names import check_model, check_version
from .transport import Token, Transport

ENDPOINT: Final = "/predictions/isplit"
"""The path of the endpoint."""
MAX_ANSWER_BYTES: Final = 6_553_500
"""The longest answer of the endpoint: TorchServe's usual ``max_response_size``."""
MAX_ANSWER_VALUES: Final = 300_000
"""The most values in a recommendation. Parsed, a value takes 50 to 150 bytes."""
MAX_IN_PATH: Final = 200
"""The most class ids in a path. TorchServe bounds the request line, so more travel in a body."""
Constraint = float | str | bool | None


def fetch_recommendation(
    url: str,
    model: str,
    token: Token = None,
    classes: Iterable[int] | None = None,
    group: str | None = None,
    *,
    version: str | None = None,
    network_hash: str | None = None,
    timeout: Timeout = DEFAULT_TIMEOUT,
    deadline: float | None = None,
    **constraints: Constraint,
) -> Recommendation:
    """Ask where to cut, without a client and without a head bundle.

    Parameters:
        classes: ids of the classes to ask for; by default the live mix.
        group: a device group; by default all devices.
        version: of the model; by default the current one, which answers most requests.
        network_hash: the network to ask for, such as that of a head bundle.
        timeout, deadline: seconds for an attempt and for the call; see :class:`Transport`.
        constraints: ``bandwidth_mbps``, ``rtt_ms``, ``max_latency_ms``, ``max_bytes``,
            ``max_head_macs``, ``accuracy_tolerance``, ``device_slowdown`` and ``objective``
            ("latency" or "bytes"); also ``predictor``, which ranks the candidates: "cui" (the
            default), "depth", or one from the model's profile. ``None`` is as if left out.

    Raises:
        QueryError: a class or a constraint is not valid.
        UnknownVersionError: the store has the model, but not this version or network.
        NetworkMismatchError: the store has the version with another network.
        UnknownNameError: the endpoint does not know the model, the group, a class or the predictor.
        TransportError: see :meth:`Transport.post`.
    """
    transport = Transport(url, token=token, timeout=timeout, deadline=deadline)
    try:
        subject = Subject(model, version, network_hash)
        return ask(transport, subject, classes, group, constraints)
    finally:
        transport.close()


class Subject(NamedTuple):
    """What a question is about. ``version``, ``network_hash``: ``None`` where it does not say."""

    model: str
    version: str | None = None
    network_hash: str | None = None

    def fields(self) -> dict[str, str]:
        """The fields of a question. Raises QueryError for what is no name."""
        fields = {"model": check_model(self.model)}
        if self.version is not None:
            fields["version"] = check_version(self.version)
        if self.network_hash is not None:
            fields["network_hash"] = self.network_hash
        return fields

    def path(self, topic: str) -> str:
        """The path of a question about this. Raises QueryError for what is no name."""
        model, *others = self.fields().items()
        parts = [topic, model[1], *(word for pair in others for word in pair)]
        return f"{ENDPOINT}/1.0/{'/'.join(quote(part, safe='') for part in parts)}"


def ask(
    transport: Transport,
    subject: Subject,
    classes: Iterable[int] | None,
    group: str | None,
    constraints: Mapping[str, Constraint],
) -> Recommendation:
    """As :func:`fetch_recommendation`, over an open connection."""
    ids = None if classes is None else _ids(classes)
    limits = {name: value for name, value in constraints.items() if value is not None}
    predictor = limits.pop("predictor", None)  # a field of its own in the request
    if group is None and predictor is None and not limits and len(ids or ()) <= MAX_IN_PATH:
        path = subject.path("recommendations")
        if ids is not None:
            path += f"/classes/{','.join(map(str, ids))}"
        reply = transport.get(path, max_bytes=MAX_ANSWER_BYTES)
    else:
        body = _question(subject, ids, group, predictor, limits)
        headers = {"Content-Type": "application/json"}
        reply = transport.post(ENDPOINT, body, headers, max_bytes=MAX_ANSWER_BYTES)
    return _recommendation(reply.body)


def _question(
    subject: Subject,
    ids: list[int] | None,
    group: str | None,
    predictor: Constraint,
    limits: Mapping[str, Constraint],
) -> bytes:
    """The body of a question. What is not asked is left out."""
    fields = {
        **subject.fields(),
        "classes": ids,
        "group": group,
        "predictor": predictor,
        "constraints": dict(limits) or None,
    }
    question = {name: value for name, value in fields.items() if value is not None}
    try:
        return json.dumps(question, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise QueryError(f"constraints: expected finite numbers, got {limits!r:.200}") from error


def _recommendation(body: bytes) -> Recommendation:
    try:
        raw = load_json(body, "recommendation", max_values=MAX_ANSWER_VALUES)
        if not isinstance(raw, dict):
            raise ProtocolError(f"expected a recommendation, got JSON of type {type(raw).__name__}")
        return Recommendation.from_json(printable_json(raw))
    except (WireError, ArtifactError) as error:
        raise ProtocolError(f"the endpoint's answer: {error.message}") from error


def _ids(classes: Iterable[int]) -> list[int]:
    ids = list(classes)
    for class_id in ids:
        if type(class_id) is not int or class_id < 0:
            raise QueryError(
                f"classes: expected class ids, whole numbers from 0, got {class_id!r:.80}"
            )
    if not ids:
        raise QueryError("classes: expected at least one class id, got none")
    return ids
