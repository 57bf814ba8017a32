"""Labels come in: each is joined with its request, counted as of its prediction's time, or refused on its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ..errors import IsplitError, LabelledBeforeError
from ..schema import Manifest
from . import tables
from .delta import Delta
from .flush import mean0_of, write_delta
from .labels import Label, LabelResult, check, mark, read_requests, unknown


class _Network(NamedTuple):
    model: str
    classes: tuple[str, ...]


def take_labels(
    connection: Connection, revision: int, labels: Sequence[Label], half_life_s: float
) -> tuple[LabelResult, ...]:
    """Count the labels of requests that wait for one; what became of each, in the order given."""
    found = read_requests(connection, [label.request_id for label in labels])
    networks = _networks(connection, {row.network for row in found.values()})
    deltas: dict[str, Delta] = {}
    given: dict[str, int] = {}
    out = []
    for label in labels:
        row = found.get(label.request_id)
        network = None if row is None else networks.get(row.network)
        try:
            if row is None or network is None:
                raise unknown(label.request_id)
            class_id = check(label, row, network.classes)
            if label.request_id in given:
                raise LabelledBeforeError(
                    f"request {label.request_id[:100]!r}: expected one label, got two in this call"
                )
        except IsplitError as error:
            out.append(LabelResult(label.request_id, error=error))
            continue
        if row.network not in deltas:
            mean0 = mean0_of(connection, row.network)
            deltas[row.network] = Delta(mean0, half_life_s, len(network.classes))
        w = row.waiting
        correct = class_id == w.class_id
        deltas[row.network].add_label(w.cut, w.class_id, w.group, w.at, correct=correct)
        given[label.request_id] = class_id
        out.append(LabelResult(label.request_id, class_id, w.class_id, network.model))
    for name, delta in deltas.items():
        write_delta(connection, revision, name, delta)
    mark(connection, given)
    return tuple(out)


def _networks(connection: Connection, hashes: Iterable[str]) -> dict[str, _Network]:
    table = tables.model
    query = sa.select(table.c.network, table.c.manifest).where(table.c.network.in_(sorted(hashes)))
    found = {}
    for network, raw in connection.execute(query.order_by(table.c.revision)):
        manifest = Manifest.from_json(json.loads(raw))
        found[network] = _Network(manifest.model, manifest.classes)
    return found
