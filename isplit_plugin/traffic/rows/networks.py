"""The networks of a store: manifests by model and version, profiles and shifts by network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from ...errors import ArtifactError, ProfileError, StoreError, UnknownVersionError
from ...profile import Profile
from ...schema import Manifest
from ..aggregates.moments import F64
from . import tables
from .importance import move_shift
from .revisions import note_change
from .sql import equals, upsert
from .versions import find_version


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """A manifest and a profile to put into the store; ``profile`` is the content of its file."""

    manifest: Manifest
    profile: bytes | None
    mean0: F64 | None

    @classmethod
    def of(cls, manifest: Manifest, profile: Profile | bytes | None) -> Self:
        """Raises StoreError for a profile that is unreadable or of another network."""
        if profile is None:
            return cls(manifest, None, None)
        raw = profile if isinstance(profile, bytes) else profile.to_bytes()
        try:
            parsed = Profile.from_bytes(profile) if isinstance(profile, bytes) else profile
        except ProfileError as error:
            raise StoreError(f"expected a profile of {manifest.model}: {error}") from error
        expected = (manifest.network_hash, len(manifest.split_points))
        if (parsed.network_hash, len(parsed.split_points)) != expected:
            raise StoreError(
                f"expected a profile of network {expected[0]} with {expected[1]} points, "
                f"got one of {parsed.network_hash} with {len(parsed.split_points)}"
            )
        return cls(manifest, raw, parsed.mean0)


def has_network(connection: Connection, entry: NetworkEntry) -> bool:
    """Whether the store already has this entry."""
    models = tables.model
    manifest = entry.manifest
    query = sa.select(models.c.manifest).where(
        models.c.model == manifest.model,
        models.c.version == manifest.version,
        models.c.network == manifest.network_hash,
    )
    if connection.scalar(query) != _canonical(manifest):
        return False
    networks = tables.network
    profiles = sa.select(networks.c.profile).where(networks.c.network == manifest.network_hash)
    row = connection.execute(profiles).first()
    return row is not None and (entry.profile is None or row.profile == entry.profile)


def put_network(connection: Connection, revision: int, entry: NetworkEntry) -> None:
    """Write a manifest, and its profile if that is new. A new shift moves the sums.

    Raises StoreError for another number of points than before.
    """
    table = tables.network
    manifest = entry.manifest
    network = manifest.network_hash
    points = len(manifest.split_points)
    stored = connection.execute(sa.select(table).where(table.c.network == network)).first()
    if stored is not None and stored.points != points:
        raise StoreError(
            f"network {network}: expected {stored.points} points as kept so far, got {points}"
        )
    if stored is None or (entry.profile is not None and entry.profile != stored.profile):
        mean0 = np.zeros(points) if entry.mean0 is None else entry.mean0
        row = {
            "network": network,
            "points": points,
            "mean0": mean0.astype("<f8").tobytes(),
            "profile": entry.profile,
            "revision": revision,
        }
        upsert(connection, table, [row])
        if stored is not None:
            old = np.frombuffer(stored.mean0, "<f8").astype(np.float64)
            if not np.array_equal(old, mean0):
                move_shift(connection, network, old, mean0)
    _put_version(connection, revision, manifest)
    note_change(connection, network, revision)


def _put_version(connection: Connection, revision: int, manifest: Manifest) -> None:
    """Write the row of a version. Its requests so far remain."""
    table = tables.model
    key = {
        "model": manifest.model,
        "version": manifest.version,
        "network": manifest.network_hash,
    }
    stored = connection.execute(sa.select(table).where(equals(table, key))).first()
    row = {
        **key,
        "manifest": _canonical(manifest),
        "revision": revision,
        "as_of": None if stored is None else stored.as_of,
        "recent": 0.0 if stored is None else stored.recent,
    }
    upsert(connection, table, [row])


def mean0_of(connection: Connection, network: str) -> F64:
    """The shift (P,) of a network. Raises StoreError for a network that is not in the store."""
    raw = connection.scalar(_MEAN0, {"network": network})
    if raw is None:
        raise StoreError(
            f"network {network[:80]}: expected to be in the store, is not: put_network comes first"
        )
    return np.frombuffer(raw, "<f8").astype(np.float64)


def last_entry(connection: Connection, network: str) -> tuple[Manifest, bytes | None]:
    """The manifest of a network that was put last, and the network's profile. Raises StoreError."""
    models = tables.model
    query = sa.select(models.c.manifest).where(models.c.network == network)
    raw = connection.scalar(query.order_by(models.c.revision.desc()).limit(1))
    if raw is None:
        raise StoreError(f"expected network {network[:80]}, found none: put_network comes first")
    networks = tables.network
    profile = connection.scalar(sa.select(networks.c.profile).where(networks.c.network == network))
    return _parse_manifest(raw, f"network {network}"), profile


_PUT: Final = sa.select(tables.network.c.revision).where(
    tables.network.c.network == sa.bindparam("network")
)
_MEAN0: Final = sa.select(tables.network.c.mean0).where(
    tables.network.c.network == sa.bindparam("network")
)


class NetworkReader:
    """Reads manifests and profiles, and keeps those that it read.

    ``opened``: how often the database was opened; a replaced file counts its revisions anew.
    """

    def __init__(self) -> None:
        self._manifests: dict[tuple[str, str, str], tuple[Any, Manifest]] = {}
        self._profiles: dict[str, tuple[Any, Profile | None]] = {}

    def manifest(
        self,
        connection: Connection,
        opened: int,
        model: str,
        version: str | None,
        network: str | None,
    ) -> Manifest:
        """The manifest that :func:`.versions.find_version` names. Raises as it, and StoreError."""
        row = find_version(connection, model, version, network)
        key = (model, row.version, row.network)
        age = (opened, row.put)
        if key in self._manifests and self._manifests[key][0] == age:
            return self._manifests[key][1]
        table = tables.model
        columns = dict(zip(("model", "version", "network"), key, strict=True))
        raw = connection.scalar(sa.select(table.c.manifest).where(equals(table, columns)))
        manifest = _parse_manifest(str(raw), model)
        self._manifests[key] = (age, manifest)
        return manifest

    def profile(self, connection: Connection, opened: int, network: str) -> Profile | None:
        """The profile of a network. Raises UnknownVersionError, StoreError."""
        table = tables.network
        of_network = table.c.network == network
        revision = connection.scalar(_PUT, {"network": network})
        if revision is None:
            names = sa.select(table.c.network).order_by(table.c.network).limit(60)
            known = list(connection.scalars(names))
            raise UnknownVersionError(
                f"no network {network[:80]} in the store; known: {', '.join(known) or 'none'}",
                known=known,
            )
        age = (opened, int(revision))
        if network in self._profiles and self._profiles[network][0] == age:
            return self._profiles[network][1]
        raw = connection.scalar(sa.select(table.c.profile).where(of_network))
        try:
            where = f"profile of {network}"
            profile = None if raw is None else Profile.from_bytes(raw, where=where)
        except ProfileError as error:
            raise StoreError(f"expected a readable profile, got {error}") from error
        self._profiles[network] = (age, profile)
        return profile


def _canonical(manifest: Manifest) -> str:
    return json.dumps(manifest.to_json(), sort_keys=True)


def _parse_manifest(raw: str, name: str) -> Manifest:
    try:
        return Manifest.from_json(json.loads(raw), where=f"manifest of {name}")
    except (ArtifactError, ValueError) as error:
        raise StoreError(f"expected a manifest of {name}, got {error}") from error
