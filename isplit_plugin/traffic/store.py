"""The store: statistics of live traffic in SQLite or PostgreSQL, for all workers and hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from ..advice import LiveView, PickChange, StandingState
from ..closing import Closing
from ..errors import ProbeError, QueryError, StoreError
from ..profile import Profile
from ..schema import Manifest
from .aggregates.delta import Delta
from .aggregates.moments import DEFAULT_HALF_LIFE_S, F64
from .aggregates.samples import ImportanceSample
from .database import BUSY_TIMEOUT_S, Database
from .exits import ExitStore
from .flush import Written, write_delta, write_timed
from .forgetting import Forgotten, choose_versions, forget, look_up
from .labels import Label, LabelResult, take_labels
from .lifecycle import ForkAware
from .live_rows import LiveRowsCache
from .repair import read_future, repair_network
from .rows import tables
from .rows.clock import skew_of, store_time
from .rows.networks import (
    NetworkEntry,
    NetworkReader,
    has_network,
    last_entry,
    mean0_of,
    put_network,
)
from .rows.request import read_label
from .rows.revisions import read_revision
from .rows.served import Group, read_drops, read_groups
from .rows.standing import read_changes, read_standing, write_standing
from .rows.ticket import TicketUse, use_ticket
from .rows.versions import StoredNetwork, has_version, list_networks, note_requests
from .upkeep import check_rows, export_rows, roll_up_all, size_bytes, vacuum
from .view import read_view


class StandingSnapshot(NamedTuple):
    """A live view, and the standing pick of the same moment (``None`` before the first)."""

    live: LiveView
    state: StandingState | None


class Store(ForkAware, Closing):
    """Statistics of live traffic, and the manifests and profiles they belong to.

    Every method raises StoreError where the store is locked, full, read-only, damaged, of another
    schema, deleted while in use, or unreachable; the error names the URL without its password.
    Other errors are named where they occur. Safe for several threads. A forked child gets
    connections of its own.

    Parameters:
        url: ``sqlite:////absolute/path.db``, a bare path, or
            ``postgresql+psycopg://user:password@host/name``.
        create: create the store where there is none.
        half_life_s: seconds after which an observation weighs half. An existing store keeps the
            half-life that it was made with, see :attr:`half_life_s`.
        busy_timeout_s: how long a call waits for another writer.

    Attributes:
        exits: what the store has of exits.
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
        self.exits = ExitStore(self._db)
        self._networks = NetworkReader()
        self._live_rows = LiveRowsCache()
        self._viewing = threading.Lock()
        super().__init__()

    @property
    def url(self) -> str:
        """Where the store is, without password."""
        return self._db.url

    @property
    def half_life_s(self) -> int:
        """The half-life of the weights in seconds."""
        return self._db.half_life_s

    @property
    def opened(self) -> int:
        """How often the database was opened. A replaced file counts its revisions from 0 again."""
        return self._db.opened

    @property
    def schema(self) -> int:
        """The number of the store's schema."""
        return tables.SCHEMA

    def close(self) -> None:
        """Close all connections."""
        self._db.close()

    # ----------------------------------------------------------------------------------- networks

    def put_network(self, manifest: Manifest, profile: Profile | bytes | None) -> None:
        """Put a manifest and a profile (or the bytes of its file) into the store.

        Putting the same again changes nothing. A profile with another shift moves the sums to it.
        Raises StoreError for a profile that is unreadable or of another network.
        """
        with self._db.read() as connection:
            entry = NetworkEntry.of(manifest, profile)
            if has_network(connection, entry):
                return
        with self._db.write() as (connection, revision):
            if has_network(connection, entry):  # another worker was first
                connection.rollback()
                return
            put_network(connection, revision, entry)

    def networks(self) -> tuple[StoredNetwork, ...]:
        """All versions of all models, by name and version."""
        with self._db.read() as connection:
            return list_networks(connection)

    def manifest(
        self, model: str, version: str | None = None, network_hash: str | None = None
    ) -> Manifest:
        """The manifest of a model.

        Without ``version`` and ``network_hash`` it is that of the current version: the one that
        answered most of the recent requests, and the lowest before any was answered. With
        ``network_hash`` alone it is the current one of the versions that have this network.

        Raises:
            UnknownModelError: no version of the model is in the store.
            UnknownVersionError: others are, but not this version or network.
            NetworkMismatchError: the version is there with another network.
        """
        with self._db.read() as connection:
            return self._networks.manifest(connection, self.opened, model, version, network_hash)

    def has_version(self, manifest: Manifest) -> bool:
        """Whether the store has this version of a model with this network."""
        with self._db.read() as connection:
            return has_version(connection, manifest.model, manifest.version, manifest.network_hash)

    def profile(self, network_hash: str) -> Profile | None:
        """The profile of a network; ``None`` if it was put without. Raises UnknownVersionError."""
        with self._db.read() as connection:
            return self._networks.profile(connection, self.opened, network_hash)

    def last_entry(self, network_hash: str) -> tuple[Manifest, bytes | None]:
        """The manifest of a network that was put last, and its profile: what putting it takes."""
        with self._db.read() as connection:
            return last_entry(connection, network_hash)

    def mean0(self, network_hash: str) -> F64:
        """The shift (P,) of a network's sums."""
        with self._db.read() as connection:
            return mean0_of(connection, network_hash)

    # ------------------------------------------------------------------------------------ reading

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What this thread reads inside is of one moment, and costs one transaction.

        What is written meanwhile, even by this thread, is seen after its end.
        """
        with self._db.reading():
            yield

    def view(self, network_hash: str, group: str | None = None) -> LiveView:
        """The live view of a network, for one device group or for all (``None`` or "all").

        It is empty for a network without traffic, and for one that is not in the store.
        """
        with self._db.read() as connection:
            return self._read_view(connection, network_hash, group)

    def groups(self, network_hash: str) -> tuple[Group, ...]:
        """The device groups of the last 90 days; ``other`` holds all above the limit."""
        with self._db.read() as connection:
            return read_groups(connection, network_hash)

    def drops(self, network_hash: str) -> int:
        """Observations of the last 90 days that were dropped before they could be counted."""
        with self._db.read() as connection:
            return read_drops(connection, network_hash)

    def revision(self, network_hash: str | None = None) -> int:
        """A number that rises with every change of the store, or of one network's contents."""
        with self._db.read() as connection:
            return read_revision(connection, network_hash)

    # ------------------------------------------------------------------------------------ writing

    def add(self, network_hash: str, delta: Delta, manifest: Manifest | None = None) -> Written:
        """Add a delta that this process counted, in one transaction.

        Where the clock of this host is more than five minutes ahead of the store's, or behind it,
        the times of the delta are moved by the difference.

        ``manifest``: of the version that answered these requests; by default they count for every
        version that has this network.
        """
        version = None if manifest is None else (manifest.model, manifest.version)
        with self._db.write() as (connection, revision):
            written = write_timed(connection, revision, network_hash, delta)
            requests = sum(counts.requests for counts in delta.served.values())
            if requests:
                as_of = delta.as_of - written.skew_s
                note_requests(connection, network_hash, version, requests, as_of)
            return written

    def add_probe(
        self, network_hash: str, ticket: TicketUse, sample: ImportanceSample, *, classes: int
    ) -> None:
        """Add the curve of a probe, and note the use of its ticket, in one transaction.

        ``classes``: the number of classes of the network. The time of the curve is bounded
        by the store's clock.

        Raises TicketError for a ticket that was used before, ProbeBudgetError where the device or
        the network has no probes left, ProbeError for an impossible curve. Nothing is added then.
        """
        with self._db.write() as (connection, revision):
            at = sample.at - skew_of(connection, sample.at)
            use_ticket(connection, network_hash, ticket, sample.device, at)
            mean0 = mean0_of(connection, network_hash)
            delta = Delta(mean0, self.half_life_s, classes, by_device=True)
            try:
                delta.add_importance(replace(sample, at=at))
            except (ValueError, TypeError, OverflowError) as error:
                raise ProbeError(f"probe: {error}") from error
            write_delta(connection, revision, network_hash, delta)

    def add_labels(self, labels: Sequence[Label]) -> tuple[LabelResult, ...]:
        """Join labels with their requests, and count them in one transaction.

        Returns what became of each, in the same order. A label that is refused does not affect the
        others.
        """
        with self._db.write() as (connection, revision):
            results = take_labels(connection, revision, labels, self.half_life_s)
            if all(result.error is not None for result in results):
                connection.rollback()
            return results

    def label_of(self, request_id: str) -> int | None:
        """The label of a request; ``None`` where there is none yet."""
        with self._db.read() as connection:
            return read_label(connection, request_id)

    # ------------------------------------------------------------------------------ standing picks

    def standing_snapshot(self, manifest: Manifest, group: str) -> StandingSnapshot:
        """The live view of a device group and its standing pick, as of one moment."""
        with self._db.read() as connection:
            live = self._read_view(connection, manifest.network_hash, group)
            state = read_standing(connection, manifest, group)
            return StandingSnapshot(live, state)

    def put_standing(
        self,
        manifest: Manifest,
        group: str,
        before: StandingState | None,
        after: StandingState,
        changes: Sequence[PickChange],
    ) -> bool:
        """Replace the standing pick ``before``; ``False`` if another one stands by now.

        ``False``, too, if the version was forgotten.
        """
        version = (manifest.model, manifest.version, manifest.network_hash)
        with self._db.write() as (connection, _):
            replaced = has_version(connection, *version) and write_standing(
                connection, manifest, group, before, after, changes
            )
            if not replaced:
                connection.rollback()
            return replaced

    def changes(self, manifest: Manifest, group: str) -> tuple[PickChange, ...]:
        """The last changes of the standing pick, the newest first."""
        with self._db.read() as connection:
            return read_changes(connection, manifest, group)

    # ------------------------------------------------------------------------------------- upkeep

    def check(self) -> dict[str, int]:
        """Read everything, and return the number of rows by table. Raises StoreError for damage."""
        with self._db.read() as connection:
            return check_rows(connection)

    def export(self) -> Iterator[dict[str, Any]]:
        """All rows of one moment as JSON types (:mod:`.upkeep`)."""
        with self._db.read() as connection:
            yield from export_rows(connection)

    def forget(
        self,
        model: str,
        *,
        version: str | None = None,
        network_hash: str | None = None,
        dry_run: bool = False,
    ) -> Forgotten:
        """Delete a version with its standing picks, and the statistics of its network.

        The statistics stay where another version has the same network. A worker that still serves
        the version puts it into the store again within seconds, with statistics that begin anew.

        Parameters:
            version, network_hash: what to forget, at least one of them; of the hash, the first
                digits are enough.
            dry_run: delete nothing.

        Raises:
            UnknownModelError: the model is not in the store.
            UnknownVersionError: it has no such version or network.
            QueryError: neither is given, or the digits are those of several networks.
        """
        if version is None and network_hash is None:
            raise QueryError("forget: expected a version or a network hash, got neither")
        if dry_run:
            with self._db.read() as connection:
                chosen = choose_versions(connection, model, version, network_hash)
                return look_up(connection, chosen)
        with self._db.write() as (connection, _):
            return forget(connection, choose_versions(connection, model, version, network_hash))

    def size(self) -> int:
        """Bytes on disk, with indices."""
        with self._db.read() as connection:
            return size_bytes(connection)

    def future(self) -> dict[str, float]:
        """By network: how many seconds its newest time is ahead of the store's clock.

        Networks whose times are not ahead by more than five minutes are missing.
        """
        with self._db.read() as connection:
            return read_future(connection, store_time(connection))

    def repair(self) -> dict[str, float]:
        """Bring times in the future back to the store's clock. Returns what :meth:`future` did.

        No observation weighs more than one of now afterwards (:mod:`.repair`).
        """
        with self._db.write() as (connection, revision):
            now = store_time(connection)
            future = read_future(connection, now)
            for network in future:
                repair_network(connection, revision, network, now, self.half_life_s)
            if not future:
                connection.rollback()
            return future

    def compact(self) -> tuple[int, int]:
        """Roll up old rows and give free room back. Returns the bytes before and after.

        Writers wait meanwhile. It takes as much free room as the store takes.
        """
        before = self.size()
        with self._db.write() as (connection, _):
            roll_up_all(connection)
        with self._db.maintain() as connection:
            vacuum(connection)
        return before, self.size()

    def _read_view(self, connection: Connection, network: str, group: str | None) -> LiveView:
        with self._viewing:
            rows = partial(self._live_rows.read, connection, self.opened, network)
            return read_view(connection, rows, network, group, self.half_life_s)

    def _after_fork(self) -> None:
        self._viewing = threading.Lock()
        self._live_rows.clear()
        self._db.after_fork()
