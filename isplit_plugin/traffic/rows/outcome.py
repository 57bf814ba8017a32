"""Outcome rows: predictions and labels by cut, device group and predicted class."""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from ...advice import ClassCounts, OutcomeRow
from ...schema import Cut
from ..aggregates.counts import OutcomeCounts
from ..aggregates.keys import OutcomeKey
from ..aggregates.moments import shift_of
from . import tables
from .sql import chunks, cut_columns, equals, in_group, upsert


def write_outcomes(
    connection: Connection, network: str, outcomes: dict[OutcomeKey, OutcomeCounts]
) -> None:
    """Add outcomes to their rows. Changes ``outcomes``."""
    table = tables.outcome
    places: dict[tuple[Cut, str], dict[int, OutcomeCounts]] = {}
    for key, outcome in outcomes.items():
        places.setdefault((key.cut, key.group), {})[key.class_id] = outcome
    rows: list[dict[str, Any]] = []
    for (cut, group), by_class in places.items():
        columns = {"network": network, **cut_columns(cut), "device_group": group}
        for ids in chunks(sorted(by_class)):
            query = sa.select(table).where(equals(table, columns), table.c.class_id.in_(ids))
            for row in connection.execute(query):
                stored = OutcomeCounts(
                    row.epoch, row.number, row.predictions, row.labelled, row.correct
                )
                by_class[row.class_id].add(stored)
        rows += [
            {
                **columns,
                "class_id": class_id,
                "epoch": outcome.epoch,
                "number": outcome.count,
                "predictions": outcome.predictions,
                "labelled": outcome.labelled,
                "correct": outcome.correct,
            }
            for class_id, outcome in by_class.items()
        ]
    upsert(connection, table, rows)


def read_outcomes(
    connection: Connection, network: str, group: str, epoch: int, unit: float
) -> tuple[tuple[OutcomeRow, ...], ClassCounts]:
    """Outcomes added over device groups, and the predicted classes added over cuts as well.

    ``unit``: the weight, relative to the landmark ``epoch``, that becomes 1.
    """
    table = tables.outcome
    query = sa.select(
        table.c.split_point,
        table.c.codec,
        table.c.class_id,
        table.c.epoch,
        table.c.number,
        table.c.predictions,
        table.c.labelled,
        table.c.correct,
    )
    query = query.where(in_group(table, network, group)).order_by(*table.primary_key)
    rows = connection.execute(query).all()
    if not rows:
        return (), ClassCounts()
    split_points, codecs, classes, epochs, numbers, *sums = zip(*rows, strict=True)
    weights = np.ldexp(np.array(sums, np.float64), shift_of(epochs, epoch)) / unit
    row_cuts = list(zip(split_points, codecs, strict=True))
    cut_names = sorted(set(row_cuts))
    cut_numbers = {name: i for i, name in enumerate(cut_names)}
    row_classes = np.array(classes, np.int64)
    lowest = row_classes.min()
    span = row_classes.max() - lowest + 1
    # Cut and class as one number: numpy's unique takes ten times as long for pairs.
    row_cut_numbers = np.array([cut_numbers[name] for name in row_cuts])
    keys, inverse = np.unique(row_cut_numbers * span + row_classes - lowest, return_inverse=True)
    key_cuts, key_classes = np.divmod(keys, span)
    totals = [np.bincount(inverse, weights=part).tolist() for part in weights]
    cuts = [Cut.of(*name) for name in cut_names]
    outcomes = tuple(
        map(
            OutcomeRow,
            [cuts[number] for number in key_cuts.tolist()],
            (key_classes + lowest).tolist(),
            *totals,
        )
    )
    class_ids, inverse = np.unique(row_classes, return_inverse=True)
    weight = np.bincount(inverse, weights=weights[0]).astype(np.float64)
    count = np.bincount(inverse, weights=np.array(numbers, np.float64)).astype(np.float64)
    predicted = count > 0
    return outcomes, ClassCounts(class_ids[predicted], weight[predicted], count[predicted])
