"""Outcome rows: predictions and labels by cut, device group and predicted class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ...advice import ALL_GROUPS, ClassCounts, OutcomeRows
from ...schema import Cut
from ..aggregates.counts import OUTCOME_SUMS, OutcomeCounts
from ..aggregates.keys import OutcomeKey
from ..aggregates.moments import rescale_array, shift_of
from . import tables
from .sql import chunks, cut_columns, rows_by, upsert

_CHANGED: Final = sa.select(tables.outcome).where(
    tables.outcome.c.network == sa.bindparam("network"),
    tables.outcome.c.revision > sa.bindparam("since"),
)


def write_outcomes(
    connection: Connection,
    network: str,
    outcomes: dict[OutcomeKey, OutcomeCounts],
    revision: int,
) -> None:
    """Add outcomes to their rows. Changes ``outcomes``. ``revision``: that of the transaction."""
    table = tables.outcome
    places: dict[tuple[Cut, str], dict[int, OutcomeCounts]] = {}
    for key, outcome in outcomes.items():
        places.setdefault((key.cut, key.group), {})[key.class_id] = outcome
    rows: list[dict[str, Any]] = []
    for (cut, group), by_class in places.items():
        columns = {"network": network, **cut_columns(cut), "device_group": group}
        for ids in chunks(sorted(by_class)):
            query = rows_by(table, *columns, among="class_id")
            for row in connection.execute(query, {**columns, "among": ids}):
                by_class[row.class_id].add(outcome_of(row))
        rows += [
            {
                **columns,
                "class_id": class_id,
                "epoch": outcome.epoch,
                "number": outcome.count,
                **outcome.sums(),
                "revision": revision,
            }
            for class_id, outcome in by_class.items()
        ]
    upsert(connection, table, rows)


def outcome_of(row: Row[Any]) -> OutcomeCounts:
    """The counts in a row."""
    return OutcomeCounts(row.epoch, row.number, *(getattr(row, name) for name in OUTCOME_SUMS))


class OutcomeTable:
    """The outcome rows of a network as arrays, brought up to date row by row."""

    def __init__(self) -> None:
        self._keys: list[_Key] = []
        self._positions: dict[_Key, int] = {}
        self._epochs = np.zeros(0, np.int64)
        self._numbers = np.zeros(0)
        self._sums = np.zeros((len(OUTCOME_SUMS), 0))
        self._layouts: dict[str, _Layout] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def update(self, connection: Connection, network: str, since: int) -> None:
        """Read the rows that changed after the revision ``since``. Raises StoreError."""
        rows = connection.execute(_CHANGED, {"network": network, "since": since}).all()
        if not rows:
            return
        keys = [_Key(row.split_point, row.codec, row.device_group, row.class_id) for row in rows]
        self._make_places(keys)
        at = [self._positions[key] for key in keys]
        self._epochs[at] = [row.epoch for row in rows]
        self._numbers[at] = [row.number for row in rows]
        sums = [[getattr(row, name) for name in OUTCOME_SUMS] for row in rows]
        self._sums[:, at] = np.array(sums, np.float64).T

    def outcomes(self, group: str, epoch: int, unit: float) -> tuple[OutcomeRows, ClassCounts]:
        """Outcomes added over device groups, and predicted classes added over cuts as well.

        ``unit``: the weight, relative to the landmark ``epoch``, that becomes 1.
        """
        if group not in self._layouts:
            self._layouts[group] = _Layout(self._keys, group)
        layout = self._layouts[group]
        if not len(layout.at):
            return OutcomeRows((), (), np.zeros((len(OUTCOME_SUMS), 0))), ClassCounts()
        shifts = shift_of(self._epochs[layout.at], epoch)
        weights = rescale_array(self._sums[:, layout.at], shifts) / unit
        weights[-1] = rescale_array(weights[-1], shifts) / unit  # of squared weights
        totals = np.array([np.bincount(layout.outcome, weights=part) for part in weights])
        outcomes = OutcomeRows(layout.cuts, layout.classes, totals)
        weight = np.bincount(layout.class_number, weights=weights[0]).astype(np.float64)
        numbers = self._numbers[layout.at]
        count = np.bincount(layout.class_number, weights=numbers).astype(np.float64)
        predicted = count > 0
        return outcomes, ClassCounts(
            layout.class_ids[predicted], weight[predicted], count[predicted]
        )

    def _make_places(self, keys: list[_Key]) -> None:
        """Places for new keys. The order is that of the keys: equal contents give equal sums."""
        new = {key for key in keys if key not in self._positions}
        if not new:
            return
        before = self._keys
        self._keys = sorted([*before, *new])
        self._positions = {key: i for i, key in enumerate(self._keys)}
        at = [self._positions[key] for key in before]
        for name in ("_epochs", "_numbers", "_sums"):
            array = getattr(self, name)
            larger = np.zeros((*array.shape[:-1], len(self._keys)), array.dtype)
            larger[..., at] = array
            setattr(self, name, larger)
        self._layouts.clear()


class _Key(NamedTuple):
    split_point: str
    codec: str
    group: str
    class_id: int


class _Layout:
    """Which rows of a table add up, for one group or for all.

    Attributes:
        at: (R,) the rows of the group.
        outcome: (R,) the number of the outcome that a row adds to.
        cuts, classes: of each outcome.
        class_number: (R,) the number of the class.
        class_ids: (S,) the classes, sorted.
    """

    def __init__(self, keys: Sequence[_Key], group: str) -> None:
        chosen = [i for i, key in enumerate(keys) if group in (ALL_GROUPS, key.group)]
        self.at = np.array(chosen, np.int64)
        if not chosen:
            return
        pairs = [((keys[i].split_point, keys[i].codec), keys[i].class_id) for i in chosen]
        outcomes = sorted(set(pairs))
        numbers = {pair: i for i, pair in enumerate(outcomes)}
        self.outcome = np.array([numbers[pair] for pair in pairs])
        cuts = {name: Cut.of(*name) for name, _ in outcomes}
        self.cuts = [cuts[name] for name, _ in outcomes]
        self.classes = [class_id for _, class_id in outcomes]
        self.class_ids, self.class_number = np.unique(
            np.array([class_id for _, class_id in pairs], np.int64), return_inverse=True
        )
