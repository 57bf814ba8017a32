"""The live view of a network: its rows, added over device groups and first known points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from ..advice import ALL_GROUPS, ClassCounts, ImportanceRows, LiveView, OutcomeRow
from ..schema import Cut
from .aggregates.counts import OutcomeCounts
from .aggregates.keys import Population
from .aggregates.moments import F64, HEADER, landmark
from .aggregates.sketch import DeviceSketch, count_devices, merge_sketches
from .live_rows import LiveRows
from .rows.device import DeviceMeans, DeviceSets, read_device_means, read_device_sets
from .rows.device_label import read_device_labels
from .rows.importance import ClassSums
from .rows.mix import Share, read_mix
from .rows.revisions import ViewHead, read_head
from .rows.served import read_served


def read_view(
    connection: Connection,
    rows: Callable[[ViewHead, int], LiveRows],
    network: str,
    group: str | None,
    half_life_s: float,
) -> LiveView:
    """The live view of a network for one device group, or for all (``None`` or "all").

    ``rows``: reads the rows of the network for its head and its number of points.

    Weights are relative to the newest observation, which weighs 1.
    """
    group = group or ALL_GROUPS
    head = read_head(connection, network)
    as_of = head.as_of
    if as_of is None or head.mean0 is None:
        return LiveView.empty(group, head.text)
    epoch, unit = landmark(as_of, half_life_s)
    mean0 = np.frombuffer(head.mean0, "<f8").astype(np.float64)
    live_rows = rows(head, len(mean0))
    outcomes: Sequence[OutcomeRow]
    outcomes, class_counts = live_rows.outcomes.outcomes(group, epoch, unit)
    means: dict[Population, DeviceMeans] = {}
    devices: dict[Population, DeviceSets] = {}
    if head.has_devices:
        means = read_device_means(connection, network, group, mean0, half_life_s)
        devices = read_device_sets(connection, network, group, means)
        open_labels = read_device_labels(connection, network, group, half_life_s)
        outcomes = _with_open_labels(outcomes, open_labels, epoch, unit)
        votes = read_mix(connection, network, group, half_life_s)
        if votes is not None:
            class_counts = _counts_of_devices(class_counts, votes, epoch, unit)
    sums = live_rows.importance.sums(group, epoch, means)
    served = read_served(connection, network, group, as_of)
    return LiveView(
        importance=_importance(sums, devices, len(mean0), unit),
        served=served,
        outcomes=outcomes,
        class_counts=class_counts,
        revision=head.text,
        as_of=as_of,
        observations=int(sum(row.requests for row in served)),
        group=group,
    )


def _with_open_labels(
    outcomes: Sequence[OutcomeRow],
    open_labels: Mapping[tuple[Cut, int], OutcomeCounts],
    epoch: int,
    unit: float,
) -> Sequence[OutcomeRow]:
    """The outcomes with the opinions of open buckets, whose labels they have already."""
    if not open_labels:
        return outcomes
    nothing = OutcomeCounts(epoch)
    rows = []
    for row in outcomes:
        more = open_labels.get((row.cut, row.class_id), nothing).at_epoch(epoch)
        rows.append(
            row._replace(
                weight=row.weight + more.weight / unit,
                weight_correct=row.weight_correct + more.weight_correct / unit,
                weight2=row.weight2 + more.weight2 / unit**2,
            )
        )
    return tuple(rows)


def _counts_of_devices(
    requests: ClassCounts, votes: Mapping[int, Share], epoch: int, unit: float
) -> ClassCounts:
    """The live mix by the votes of devices, with the number of requests of each class."""
    shares = {class_id: share.at_epoch(epoch) for class_id, share in votes.items()}
    nothing = Share(epoch, 0.0, 0.0)
    parts = [shares.get(class_id, nothing) for class_id in requests.class_ids.tolist()]
    return ClassCounts(
        requests.class_ids,
        np.array([part.weight for part in parts]) / unit,
        requests.count,
        np.array([part.weight2 for part in parts]) / unit**2,
    )


def _importance(
    sums: Mapping[Population, ClassSums],
    devices: Mapping[Population, DeviceSets],
    points: int,
    unit: float,
) -> tuple[ImportanceRows, ...]:
    """One set of rows for each source and target."""
    kinds = sorted({(population.source, population.target) for population in sums})
    return tuple(
        _importance_rows(
            source,
            target,
            [(p, part) for p, part in sums.items() if (p.source, p.target) == (source, target)],
            [(p, part) for p, part in devices.items() if (p.source, p.target) == (source, target)],
            points,
            unit,
        )
        for source, target in kinds
    )


def _importance_rows(  # noqa: PLR0917
    source: str,
    target: str,
    parts: Sequence[tuple[Population, ClassSums]],
    devices: Sequence[tuple[Population, DeviceSets]],
    points: int,
    unit: float,
) -> ImportanceRows:
    ids = parts[0][1].ids
    if len(parts) > 1:
        ids = np.unique(np.concatenate([classes.ids for _, classes in parts]))
    count, weight, weight2, sum1, sum2 = (np.zeros((len(ids), points)) for _ in range(5))
    for population, classes in parts:
        at: slice | npt.NDArray[np.int64] = slice(None)  # which takes a tenth of the time
        if len(classes.ids) < len(ids):
            at = np.searchsorted(ids, classes.ids)  # distinct, so += adds each of them once
        start = population.start
        vectors = classes.vectors
        count[at, start:] += vectors[:, 0, None]
        weight[at, start:] += vectors[:, 1, None] / unit
        weight2[at, start:] += vectors[:, 2, None] / unit**2
        sum1[at] += vectors[:, HEADER : HEADER + points] / unit
        sum2[at] += vectors[:, HEADER + points :] / unit
    return ImportanceRows(
        source,  # type: ignore[arg-type]
        target,  # type: ignore[arg-type]
        ids,
        count,
        weight,
        weight2,
        sum1,
        sum2,
        devices=_distinct_devices(devices, ids, count) if devices else None,
    )


def _distinct_devices(
    parts: Sequence[tuple[Population, DeviceSets]], ids: npt.NDArray[np.int64], count: F64
) -> F64:
    """Distinct devices behind each class and point (K, P).

    An observation that is no device mean counts as one device.
    """
    distinct = count.copy()
    for row, class_id in enumerate(ids.tolist()):
        sets = [(p.start, devices) for p, devices in parts if class_id in devices.means]
        sets.sort(key=lambda part: part[0])
        sketches: list[DeviceSketch] = []
        before = 0.0
        for start, group in groupby(sets, key=lambda part: part[0]):
            for _, devices in group:
                distinct[row, start:] -= devices.means[class_id]
                sketches += devices.sketches[class_id]
            merged = sketches[0] if len(sketches) == 1 else merge_sketches(sketches)
            sketches = [merged]
            devices_so_far = count_devices(merged)
            distinct[row, start:] += devices_so_far - before
            before = devices_so_far
    return distinct
