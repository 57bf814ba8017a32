"""Labels: each is joined with its request, and counted at the time of the prediction or refused.

A label changes no importance value. It changes the outcome of the predicted class.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ..errors import (
    IsplitError,
    LabelledBeforeError,
    QueryError,
    UnknownClassError,
    UnknownRequestError,
)
from ..schema import Manifest
from .aggregates.delta import Delta
from .flush import write_delta
from .rows import tables
from .rows.networks import mean0_of
from .rows.request import KEEP_S, MAX_REQUESTS, StoredRequest, read_requests, write_labels

MAX_LABELS: Final = 1000
"""Labels in one call."""
MAX_REQUEST_ID: Final = 200
"""Characters of a request id."""


class Label(NamedTuple):
    """The true class of a request. ``class_id``: a class id, or the name of a class."""

    request_id: str
    class_id: int | str


@dataclass(frozen=True, slots=True)
class LabelResult:
    """What became of one label: ``error`` where it was refused, else the other attributes."""

    request_id: str
    class_id: int | None = None
    predicted: int | None = None
    model: str | None = None
    error: IsplitError | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types; an error in the form of an error answer."""
        if self.error is not None:
            return {"request_id": self.request_id, **self.error.to_json()}
        return {
            "request_id": self.request_id,
            "model": self.model,
            "class": self.class_id,
            "predicted": self.predicted,
            "correct": self.class_id == self.predicted,
        }


class _Network(NamedTuple):
    model: str
    classes: tuple[str, ...]


def take_labels(
    connection: Connection, revision: int, labels: Sequence[Label], half_life_s: float
) -> tuple[LabelResult, ...]:
    """Count the labels of known requests. Returns what became of each, in the same order."""
    requests = read_requests(connection, [label.request_id for label in labels])
    networks = _read_networks(connection, {request.network for request in requests.values()})
    deltas: dict[str, Delta] = {}
    accepted: dict[str, int] = {}
    results = []
    for label in labels:
        try:
            stored, network = _join(label, requests, networks)
            class_id = _true_class(label, network.classes)
            _check_first(label, stored, accepted)
        except IsplitError as error:
            results.append(LabelResult(label.request_id, error=error))
            continue
        if stored.network not in deltas:
            mean0 = mean0_of(connection, stored.network)
            deltas[stored.network] = Delta(mean0, half_life_s, len(network.classes))
        deltas[stored.network].add_label(
            stored.request, correct=class_id == stored.request.class_id
        )
        accepted[label.request_id] = class_id
        results.append(
            LabelResult(label.request_id, class_id, stored.request.class_id, network.model)
        )
    for network_hash, delta in deltas.items():
        write_delta(connection, revision, network_hash, delta)
    write_labels(connection, accepted)
    return tuple(results)


def _read_networks(connection: Connection, hashes: Iterable[str]) -> dict[str, _Network]:
    table = tables.model
    query = sa.select(table.c.network, table.c.manifest).where(table.c.network.in_(sorted(hashes)))
    networks = {}
    for network_hash, raw in connection.execute(query.order_by(table.c.revision)):
        manifest = Manifest.from_json(json.loads(raw))
        networks[network_hash] = _Network(manifest.model, manifest.classes)
    return networks


def _join(
    label: Label, requests: Mapping[str, StoredRequest], networks: Mapping[str, _Network]
) -> tuple[StoredRequest, _Network]:
    """The request of a label and its network. Raises UnknownRequestError."""
    request = requests.get(label.request_id)
    if request is None or request.network not in networks:
        raise UnknownRequestError(
            f"request {label.request_id[:100]!r}: expected the id of a request of the last "
            f"{KEEP_S / 3600:.0f} hours, as in isplit_request_id of its answer; none is known "
            "(a request is known a second after it was answered, and of a network with more than "
            f"{MAX_REQUESTS:,} the devices with the most lose their oldest)"
        )
    return request, networks[request.network]


def _true_class(label: Label, classes: Sequence[str]) -> int:
    """The id of the label's class. Raises UnknownClassError, QueryError."""
    if not isinstance(label.class_id, str):
        if not 0 <= label.class_id < len(classes):
            raise UnknownClassError.of(label.class_id, range(len(classes)))
        return label.class_id
    ids = [i for i, name in enumerate(classes) if name == label.class_id]
    if not ids:
        raise UnknownClassError.of(label.class_id, classes)
    if len(ids) > 1:
        raise QueryError(
            f"class: expected a class id, because {label.class_id[:100]!r} is the name of "
            f"the classes {ids[:10]}"
        )
    return ids[0]


def _check_first(label: Label, stored: StoredRequest, accepted: Mapping[str, int]) -> None:
    """Raise LabelledBeforeError for the second label of a request."""
    name = f"request {label.request_id[:100]!r}"
    if stored.label is not None:
        raise LabelledBeforeError(
            f"{name}: expected a request without label, it has class {stored.label}",
            label=stored.label,
        )
    if label.request_id in accepted:
        raise LabelledBeforeError(f"{name}: expected one label, got two in this call")
