"""The store: what was seen, shared by all workers and hosts, in SQLite or PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import sqlalchemy as sa

from ..advice import LiveView, PickChange, StandingState
from ..errors import ArtifactError, ProfileError, StoreError, UnknownModelError
from ..profile import Profile
from ..schema import Manifest
from . import tables
from .database import BUSY_TIMEOUT_S, Database, value_of
from .delta import Delta
from .flush import mean0_of, write_delta
from .labelling import take_labels
from .labels import Label, LabelResult, label_of
from .moments import DEFAULT_HALF_LIFE_S, F64
from .networks import StoredNetwork, is_put, list_networks, put
from .standing import read_changes, read_standing, write_standing
from .upkeep import export_rows, read_all, roll_up_all, size_bytes, vacuum
from .view import read_view


class Group(NamedTuple):
    """A device group: its requests and failed ones, and the epoch second at which the bucket of its newest began."""

    name: str
    requests: int
    errors: int
    newest: float


class StandingSnapshot(NamedTuple):
    """A live view, and the standing pick of the same moment (``None`` before the first)."""

    live: LiveView
    state: StandingState | None


class Store:
    """Statistics of live traffic, and the manifests and profiles they belong to.

    ``url``: ``sqlite:////absolute/path.db``, a bare path, or ``postgresql+psycopg://user:password@host/name``.
    ``create``: make the SQLite file where there is none. ``half_life_s``: after how many seconds an observation weighs
    half; fixed when the store is made, later values are ignored (:attr:`half_life_s` tells the one that holds).
    ``busy_timeout_s``: how long a call waits for another writer.

    Raises StoreError alone, naming the URL without its password: the store is locked, full, read-only, damaged, of a
    newer schema, deleted while in use, or unreachable. :meth:`manifest` and :meth:`profile` raise UnknownModelError
    besides. Safe to use from several threads; a child process needs its own, or :meth:`after_fork`.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        create: bool = True,
        half_life_s: int = DEFAULT_HALF_LIFE_S,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        if half_life_s <= 0:
            raise StoreError(f"half_life_s: expected seconds above 0, got {half_life_s}")
        self._db = Database(
            url, create=create, half_life_s=int(half_life_s), busy_timeout_s=busy_timeout_s
        )
        self._profiles: dict[str, tuple[tuple[int, int], Profile | None]] = {}
        self._manifests: dict[tuple[str, str], tuple[tuple[int, int], Manifest]] = {}

    @property
    def url(self) -> str:
        """Where the store is, without password."""
        return self._db.url

    @property
    def half_life_s(self) -> int:
        return self._db.half_life_s

    @property
    def opened(self) -> int:
        """How often the database was opened: revisions of a file that took another's place count from zero again."""
        return self._db.opened

    @property
    def schema(self) -> int:
        """The schema of the tables; of an older store, once it was migrated."""
        return tables.SCHEMA

    def put_network(self, manifest: Manifest, profile: Profile | bytes | None) -> None:
        """Make a served network known: its manifest, and its profile (or the bytes of its file).

        Putting the same again changes nothing. A profile with another shift moves the sums kept so far to it.
        Raises StoreError where profile and manifest are of different networks.
        """
        try:
            told = Profile.from_bytes(profile) if isinstance(profile, bytes) else profile
        except ProfileError as error:
            raise self._db.error(f"expected a profile of {manifest.model}: {error}") from error
        points = len(manifest.split_points)
        if told is not None and (told.network_hash, len(told.split_points)) != (
            manifest.network_hash,
            points,
        ):
            raise self._db.error(
                f"expected a profile of network {manifest.network_hash} with {points} points, "
                f"got one of {told.network_hash} with {len(told.split_points)}"
            )
        raw = profile if isinstance(profile, bytes) else (None if told is None else told.to_bytes())
        with self._db.read() as connection:
            if is_put(connection, manifest, raw):
                return
        with self._db.write() as (connection, revision):
            if is_put(connection, manifest, raw):  # another worker was first
                connection.rollback()
                return
            put(connection, revision, manifest, raw, None if told is None else told.mean0)

    def networks(self) -> tuple[StoredNetwork, ...]:
        """All models and versions, the last one put first."""
        with self._db.read() as connection:
            return list_networks(connection)

    def manifest(self, model: str, version: str | None = None) -> Manifest:
        """The manifest of a model; of the version that was put last where none is asked for.

        Raises UnknownModelError, StoreError.
        """
        table = tables.model
        query = sa.select(table.c.version, table.c.revision).where(table.c.model == model)
        if version is not None:
            query = query.where(table.c.version == version)
        with self._db.read() as connection:
            row = connection.execute(query.order_by(table.c.revision.desc()).limit(1)).first()
            if row is None:
                asked = model if version is None else f"{model}/{version}"
                known = [
                    f"{n.model}/{n.version}" if version else n.model
                    for n in list_networks(connection)
                ]
                raise UnknownModelError.of(asked, known)
            key, age = (model, row.version), (self.opened, row.revision)
            if key in self._manifests and self._manifests[key][0] == age:
                return self._manifests[key][1]
            this = (table.c.model == model, table.c.version == row.version)
            raw = connection.scalar(sa.select(table.c.manifest).where(*this))
        try:
            found = Manifest.from_json(json.loads(str(raw)), where=f"manifest of {model}")
        except (ArtifactError, ValueError) as error:
            raise self._db.error(f"expected a manifest of {model}, found {error}") from error
        self._manifests[key] = age, found
        return found

    def profile(self, network_hash: str) -> Profile | None:
        """The profile of a network, ``None`` where it was put without one. Raises UnknownModelError, StoreError."""
        table = tables.network
        with self._db.read() as connection:
            revision = connection.scalar(
                sa.select(table.c.revision).where(table.c.network == network_hash)
            )
            if revision is None:
                raise UnknownModelError.of(
                    network_hash, [n.network_hash for n in list_networks(connection)]
                )
            age = self.opened, int(revision)
            known = self._profiles.get(network_hash)
            if known is not None and known[0] == age:
                return known[1]
            raw = connection.scalar(
                sa.select(table.c.profile).where(table.c.network == network_hash)
            )
        try:
            found = (
                None if raw is None else Profile.from_bytes(raw, where=f"profile of {network_hash}")
            )
        except ProfileError as error:
            raise self._db.error(f"expected a readable profile, found {error}") from error
        self._profiles[network_hash] = age, found
        return found

    def view(self, network_hash: str, group: str | None = None) -> LiveView:
        """What live traffic told about a network, in one device group or in all (``None`` or "all").

        A network without traffic, or one that nobody put, has an empty view. Raises StoreError.
        """
        with self._db.read() as connection:
            return read_view(connection, network_hash, group, self.half_life_s)

    def drops(self, network_hash: str) -> int:
        """Observations that were lost before they could be counted, over the days that are kept."""
        table = tables.served
        query = sa.select(sa.func.sum(table.c.drops)).where(table.c.network == network_hash)
        with self._db.read() as connection:
            return int(connection.scalar(query) or 0)

    def revision(self, network_hash: str | None = None) -> int:
        """A number that rises with every change of the store, or of one network's contents."""
        query = value_of("revision")
        if network_hash is not None:
            table = tables.progress
            query = sa.select(table.c.revision).where(table.c.network == network_hash)
        with self._db.read() as connection:
            return int(connection.scalar(query) or 0)

    def add(self, network_hash: str, delta: Delta) -> dict[str, set[str]]:
        """Add what a worker aggregated, in one transaction, and return the names known by now, by kind.

        Raises StoreError, and has then added nothing.
        """
        with self._db.write() as (connection, revision):
            return write_delta(connection, revision, network_hash, delta)

    def add_labels(self, labels: Sequence[Label]) -> tuple[LabelResult, ...]:
        """Join labels with their requests; what became of each, in the order given (see :mod:`.labelling`).

        A label that cannot be taken is told with its error, and the others are not affected. Raises StoreError, and
        has then taken none.
        """
        with self._db.write() as (connection, revision):
            told = take_labels(connection, revision, labels, self.half_life_s)
            if all(label.error is not None for label in told):
                connection.rollback()
            return told

    def label_of(self, request_id: str) -> int | None:
        """The label that a request has by now. Raises StoreError."""
        with self._db.read() as connection:
            return label_of(connection, request_id)

    def groups(self, network_hash: str) -> tuple[Group, ...]:
        """The device groups that were seen in the days that are kept, by name; ``other`` holds those above the cap."""
        table = tables.served
        sums = (
            sa.func.sum(table.c.requests),
            sa.func.sum(table.c.errors),
            sa.func.max(table.c.bucket),
        )
        query = sa.select(table.c.device_group, *sums).where(table.c.network == network_hash)
        with self._db.read() as connection:
            rows = connection.execute(
                query.group_by(table.c.device_group).order_by(table.c.device_group)
            )
            return tuple(
                Group(name, int(n), int(errors), float(last)) for name, n, errors, last in rows
            )

    def standing_snapshot(self, manifest: Manifest, group: str) -> StandingSnapshot:
        """The view of a group and its standing pick, both as of one moment. Raises StoreError."""
        network = manifest.network_hash
        with self._db.read() as connection:
            live = read_view(connection, network, group, self.half_life_s)
            state = read_standing(connection, manifest.model, manifest.version, group)
            return StandingSnapshot(live, state)

    def put_standing(
        self,
        manifest: Manifest,
        group: str,
        before: StandingState | None,
        after: StandingState,
        changes: Sequence[PickChange],
    ) -> bool:
        """Put picks into force; ``False`` where others than ``before`` are in force by now. Raises StoreError."""
        with self._db.write() as (connection, _):
            done = write_standing(
                connection, manifest.model, manifest.version, group, before, after, changes
            )
            if not done:
                connection.rollback()
            return done

    def changes(self, manifest: Manifest, group: str) -> tuple[PickChange, ...]:
        """The last changes of the picks in force, the newest first. Raises StoreError."""
        with self._db.read() as connection:
            return read_changes(connection, manifest.model, manifest.version, group)

    def mean0(self, network_hash: str) -> F64:
        """The shift (P,) that the network's sums are about. Raises StoreError, also where nobody put the network."""
        with self._db.read() as connection:
            return mean0_of(connection, network_hash)

    def kept(self, network_hash: str) -> tuple[Manifest, bytes | None]:
        """The last manifest of a network and its profile's bytes: what it takes to put it again. Raises StoreError."""
        table = tables.model
        query = (
            sa.select(table.c.manifest)
            .where(table.c.network == network_hash)
            .order_by(table.c.revision.desc())
        )
        kept = sa.select(tables.network.c.profile).where(tables.network.c.network == network_hash)
        with self._db.read() as connection:
            raw, profile = connection.scalar(query.limit(1)), connection.scalar(kept)
        if raw is None:
            raise self._db.error(
                f"expected network {network_hash[:80]}, found none: put_network comes first"
            )
        try:
            return Manifest.from_json(json.loads(raw)), profile
        except (ArtifactError, ValueError) as error:
            raise self._db.error(
                f"expected a manifest of network {network_hash}, found {error}"
            ) from error

    def check(self) -> dict[str, int]:
        """Read everything there is and return the number of rows by table. Raises StoreError naming what is damaged."""
        with self._db.read() as connection:
            if connection.dialect.name == "sqlite":
                found = [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check(3)")]
                if found != ["ok"]:
                    raise self._db.error(f"expected a sound file, found: {'; '.join(found)[:300]}")
            read_all(connection)
            count = sa.func.count()
            every = tables.metadata.sorted_tables
            return {
                table.name: int(connection.scalar(sa.select(count).select_from(table)) or 0)
                for table in every
            }

    def export(self) -> Iterator[dict[str, Any]]:
        """Everything in the store as rows of JSON types, at one moment (see :mod:`.upkeep`). Raises StoreError."""
        with self._db.read() as connection:
            yield from export_rows(connection)

    def size(self) -> int:
        """Bytes on disk, indices included. Raises StoreError."""
        with self._db.read() as connection:
            return size_bytes(connection)

    def compact(self) -> tuple[int, int]:
        """Roll old rows up and give free room back. Returns the bytes before and after. Raises StoreError.

        Writers wait meanwhile, and it needs as much free room as the store takes.
        """
        before = self.size()
        with self._db.write() as (connection, _):
            roll_up_all(connection)
        with self._db.alone() as connection:
            vacuum(connection)
        return before, self.size()

    def close(self) -> None:
        """Close all connections."""
        self._db.close()

    def after_fork(self) -> None:
        """In a child process: forget the parent's connections. SQLite must not carry them across a fork."""
        self._db.after_fork()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
