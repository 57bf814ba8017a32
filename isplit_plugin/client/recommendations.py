"""Asks the endpoint `isplit` what a device should use now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from ..errors import ArtifactError, ProtocolError, QueryError, WireError
from ..schema import Recommendation
from ..wire import load_json
from .transport import DEFAULT_TIMEOUT, Token, Transport

ENDPOINT: Final = "/predictions/isplit"
"""Path of the endpoint behind the inference address."""
MAX_IN_PATH: Final = 200
Constraint = float | str | bool | None


def fetch_recommendation(
    url: str,
    model: str,
    token: Token = None,
    classes: Iterable[int] | None = None,
    group: str | None = None,
    *,
    timeout: tuple[float, float] = DEFAULT_TIMEOUT,
    **constraints: Constraint,
) -> Recommendation:
    """One question without a client and without a head bundle.

    ``classes``: class ids to recommend for, instead of the live mix; ``group``: one device group; ``constraints``:
    ``bandwidth_mbps``, ``rtt_ms``, ``max_latency_ms``, ``max_bytes``, ``max_head_macs``, ``accuracy_tolerance``,
    ``device_slowdown``, ``objective`` ("latency" or "bytes"). ``predictor``: what ranks the places for a bottleneck,
    "cui" (the default), "depth", or one that the model's profile holds.
    Raises QueryError, UnknownNameError and the errors of :meth:`Transport.post`.
    """
    transport = Transport(url, token=token, timeout=timeout)
    try:
        return ask(transport, model, classes, group, constraints)
    finally:
        transport.close()


def ask(
    transport: Transport,
    model: str,
    classes: Iterable[int] | None,
    group: str | None,
    constraints: Mapping[str, Constraint],
) -> Recommendation:
    """The same over a connection that is there already."""
    ids = None if classes is None else _ids(classes)
    limits = {name: value for name, value in constraints.items() if value is not None}
    predictor = limits.pop("predictor", None)  # not a limit, but asked for in the same breath
    # TorchServe's request line is bounded: a long list of classes travels in a body.
    if group is None and predictor is None and not limits and len(ids or ()) <= MAX_IN_PATH:
        path = f"{ENDPOINT}/1.0/recommendations/{quote(model, safe='')}"
        reply = transport.get(path if ids is None else f"{path}/classes/{','.join(map(str, ids))}")
    else:
        question = {
            "model": model,
            "classes": ids,
            "group": group,
            "predictor": predictor,
            "constraints": limits,
        }
        try:
            text = json.dumps(
                {k: v for k, v in question.items() if v not in (None, {})}, allow_nan=False
            )
        except (TypeError, ValueError) as error:
            raise QueryError(
                f"constraints: expected finite numbers, got {limits!r:.200}"
            ) from error
        reply = transport.post(ENDPOINT, text.encode(), {"Content-Type": "application/json"})
    try:
        raw = load_json(reply.body, "recommendation")
        if not isinstance(raw, dict):
            raise ProtocolError(f"expected a recommendation, got JSON of type {type(raw).__name__}")
        return Recommendation.from_json(raw)
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
