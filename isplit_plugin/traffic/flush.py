"""Writing a delta: read the rows it changes, add, and write them, within one transaction."""

from __future__ import annotations

import math
from typing import NamedTuple

from sqlalchemy import Connection

from ..errors import StoreError
from .aggregates.counts import OutcomeCounts
from .aggregates.delta import Delta
from .aggregates.devices import oldest_open_bucket
from .names import NetworkNames
from .rows.clock import skew_of
from .rows.device import close_buckets, write_device_sums
from .rows.device_label import close_device_labels, write_device_labels
from .rows.importance import write_moments
from .rows.mix import close_votes, write_votes
from .rows.networks import mean0_of
from .rows.outcome import write_outcomes
from .rows.request import write_requests
from .rows.revisions import Progress, note_change, note_moved, read_progress
from .rows.served import write_served


class Written(NamedTuple):
    """What a worker learns when its delta was written.

    Attributes:
        names: the names of the network by kind.
        skew_s: the seconds by which the times of the delta were moved back, because they were ahead
            of the store's clock by more than the limit. Negative where they were behind.
    """

    names: dict[str, set[str]]
    skew_s: float


def write_timed(connection: Connection, revision: int, network: str, delta: Delta) -> Written:
    """Add a delta that this process counted, with its times bounded by the store's clock.

    Raises what :func:`write_delta` raises.
    """
    skew_s = skew_of(connection, delta.as_of)
    if skew_s:
        delta = delta.moved(-skew_s)
    names = write_delta(connection, revision, network, delta)
    if skew_s:
        note_moved(connection, network)
    return Written(names, skew_s)


def write_delta(
    connection: Connection, revision: int, network: str, delta: Delta
) -> dict[str, set[str]]:
    """Add a delta to the rows of a network, and return the network's names by kind.

    Raises StoreError for a network that is not in the store, or has another number of points.
    """
    mean0 = mean0_of(connection, network)
    if mean0.shape != delta.mean0.shape:
        raise StoreError(f"network {network}: expected {len(mean0)} points, got {len(delta.mean0)}")
    before = read_progress(connection, network)
    progress = before.after(delta.as_of)
    names = NetworkNames(connection, network)
    names.add(delta, len(mean0), -math.inf if progress.as_of is None else progress.as_of)
    fitted = delta.renamed(names.fit()).about(mean0)
    _write_devices(connection, network, fitted, before, progress)
    write_moments(connection, network, fitted.moments, revision)
    write_served(connection, network, fitted.served, progress.horizon)
    write_outcomes(connection, network, fitted.outcomes, revision)
    waiting = write_requests(
        connection, network, fitted.requests, progress.horizon, progress.requests
    )
    note_change(connection, network, revision, progress._replace(requests=waiting))
    return names.names


def _write_devices(
    connection: Connection, network: str, delta: Delta, before: Progress, after: Progress
) -> None:
    """Write what the delta has of devices, and add to it what closed buckets had."""
    if after.as_of is None or after.horizon is None:
        return
    oldest = -math.inf
    if before.as_of is not None:
        oldest = oldest_open_bucket(before.as_of, delta.half_life_s)
    write_votes(connection, network, delta.device_classes, oldest)
    write_device_labels(connection, network, delta.device_labels, oldest)
    write_device_sums(connection, network, delta.device_sums, len(delta.mean0), oldest)
    if oldest_open_bucket(after.as_of, delta.half_life_s) <= oldest:
        return  # nothing has closed since the last flush
    close_votes(connection, network, delta.half_life_s, after.as_of)
    labels = close_device_labels(connection, network, delta.half_life_s, after.as_of)
    for key, opinions in labels.items():
        delta.outcomes.setdefault(key, OutcomeCounts(opinions.epoch)).add(opinions)
    closed = close_buckets(
        connection, network, delta.mean0, delta.half_life_s, after.as_of, after.horizon
    )
    for population, means in closed.items():
        for class_id, moments in means.moments().items():
            delta.add_moments(population, class_id, moments)
