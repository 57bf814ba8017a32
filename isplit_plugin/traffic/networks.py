"""The networks of a store: manifests by model and version, profiles by network."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from ..errors import StoreError
from ..schema import Manifest
from . import tables
from .database import upsert
from .flush import move_shift, touch
from .moments import F64


class StoredNetwork(NamedTuple):
    """One model and version in the store. ``revision``: of the network's last change; ``as_of``: epoch seconds of its
    newest observation, ``None`` without traffic."""

    model: str
    version: str
    network_hash: str
    has_profile: bool
    revision: int
    as_of: float | None


def _canonical(manifest: Manifest) -> str:
    return json.dumps(manifest.to_json(), sort_keys=True)


def is_put(connection: Connection, manifest: Manifest, profile: bytes | None) -> bool:
    """Whether putting this would change nothing."""
    models, networks = tables.model, tables.network
    key = (models.c.model == manifest.model, models.c.version == manifest.version)
    if connection.scalar(sa.select(models.c.manifest).where(*key)) != _canonical(manifest):
        return False
    query = sa.select(networks.c.profile).where(networks.c.network == manifest.network_hash)
    row = connection.execute(query).first()
    return row is not None and (profile is None or row.profile == profile)


def put(
    connection: Connection,
    revision: int,
    manifest: Manifest,
    profile: bytes | None,
    mean0: F64 | None,
) -> None:
    """Write a manifest, and the profile that is not there yet. Raises StoreError where the points do not fit."""
    table, network = tables.network, manifest.network_hash
    known = connection.execute(sa.select(table).where(table.c.network == network)).first()
    points = len(manifest.split_points)
    if known is not None and known.points != points:
        raise StoreError(
            f"network {network}: expected {known.points} points as kept so far, got {points}"
        )
    old = None if known is None else np.frombuffer(known.mean0, "<f8").astype(np.float64)
    if known is None or (profile is not None and profile != known.profile):
        new = mean0 if mean0 is not None else np.zeros(points)
        row = {
            "network": network,
            "points": points,
            "mean0": new.astype("<f8").tobytes(),
            "profile": profile,
        }
        upsert(connection, table, [{**row, "revision": revision}])
        if old is not None and not np.array_equal(old, new):
            move_shift(connection, network, old, new)
    row = {
        "model": manifest.model,
        "version": manifest.version,
        "network": network,
        "revision": revision,
    }
    upsert(connection, tables.model, [{**row, "manifest": _canonical(manifest)}])
    touch(connection, network, revision)


def list_networks(connection: Connection) -> tuple[StoredNetwork, ...]:
    """All models and versions, the last one put first."""
    models, networks, progress = tables.model, tables.network, tables.progress
    query = (
        sa.select(
            models.c.model,
            models.c.version,
            models.c.network,
            networks.c.profile.is_not(None),
            progress.c.revision,
            progress.c.as_of,
        )
        .join(networks, networks.c.network == models.c.network)
        .join(progress, progress.c.network == models.c.network)
        .order_by(models.c.revision.desc())
    )
    return tuple(StoredNetwork(*row) for row in connection.execute(query))
