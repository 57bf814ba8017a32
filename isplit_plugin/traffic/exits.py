"""Exits in the store: their sums, their versions, and what was counted of their answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from ..exits import ExitSums
from ..schema import Cut
from .aggregates.sketch import DeviceSketch
from .database import Database
from .rows.clock import skew_of, store_time
from .rows.exit_sums import (
    ClassEvidence,
    delete_stale,
    has_stale,
    list_sums,
    read_classes,
    read_sums,
    write_classes,
    write_sums,
)
from .rows.exits import (
    CountedAnswer,
    ExitCount,
    ExitVersion,
    delete_old,
    has_old,
    insert_version,
    list_versions,
    read_content,
    read_counts,
    update_version,
    write_answers,
)


@dataclass(slots=True)
class ExitBatch:
    """What one worker counted since its last flush.

    Attributes:
        sums: by cut.
        classes: photos and devices by cut and class.
        answers: of exits.
        as_of: the newest time among them.
    """

    sums: dict[Cut, ExitSums] = field(default_factory=dict)
    classes: dict[Cut, dict[int, tuple[int, DeviceSketch]]] = field(default_factory=dict)
    answers: list[CountedAnswer] = field(default_factory=list)
    as_of: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.sums or self.answers)


class ExitEvidence(NamedTuple):
    """The sums of a cut, and what is behind each class."""

    sums: ExitSums
    classes: Mapping[int, ClassEvidence]


class ExitStore:
    """The part of a store that exits have. Every method raises StoreError as the store's do."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Read inside what may fail: the rest of ``Store.reading`` goes on without it."""
        with self._db.apart():
            yield

    def now(self) -> float:
        """The time by the store's clock, in epoch seconds."""
        with self._db.read() as connection:
            return store_time(connection)

    def add(self, network_hash: str, batch: ExitBatch) -> frozenset[Cut]:
        """Add what a worker counted, in one transaction.

        Returns the cuts whose sums were left out, because they do not fit those of the store or
        there are too many cuts.
        """
        refused = set()
        with self._db.write() as (connection, _):
            skew_s = skew_of(connection, batch.as_of)
            now = store_time(connection) if batch.sums else 0.0
            for cut, sums in sorted(batch.sums.items()):
                if not write_sums(connection, network_hash, cut, sums, now, self._db.half_life_s):
                    refused.add(cut)
                    continue
                write_classes(connection, network_hash, cut, batch.classes.get(cut, {}))
            answers = [answer._replace(at=answer.at - skew_s) for answer in batch.answers]
            write_answers(connection, network_hash, answers)
        return frozenset(refused)

    def sums(self, network_hash: str, cut: Cut) -> ExitSums | None:
        """The sums of a cut; ``None`` before the first photo."""
        with self._db.read() as connection:
            return read_sums(connection, network_hash, cut)

    def evidence(self, network_hash: str, cut: Cut) -> ExitEvidence | None:
        """Sums and classes of one moment; ``None`` before the first photo."""
        with self._db.read() as connection:
            sums = read_sums(connection, network_hash, cut)
            if sums is None:
                return None
            return ExitEvidence(sums, read_classes(connection, network_hash, cut))

    def classes(self, network_hash: str, cut: Cut) -> dict[int, ClassEvidence]:
        """Photos and devices behind each class of a cut."""
        with self._db.read() as connection:
            return read_classes(connection, network_hash, cut)

    def photos(self) -> dict[tuple[str, Cut], int]:
        """The photos in the sums of each network and cut, not decayed."""
        with self._db.read() as connection:
            return list_sums(connection)

    def versions(self, network_hash: str | None = None) -> tuple[ExitVersion, ...]:
        """The versions of a network or of all, the newest first."""
        with self._db.read() as connection:
            return list_versions(connection, network_hash)

    def content(self, network_hash: str, exit_hash: str) -> bytes | None:
        """The content of a version; ``None`` where there is none."""
        with self._db.read() as connection:
            return read_content(connection, network_hash, exit_hash)

    def counts(self, network_hash: str, exit_hash: str) -> tuple[ExitCount, ...]:
        """Answers of a version by kind, class and bin."""
        with self._db.read() as connection:
            return read_counts(connection, network_hash, exit_hash)

    def put(self, version: ExitVersion, content: bytes) -> bool:
        """Write a new version; ``False`` where its cut has one that is alive."""
        with self._db.write() as (connection, _):
            done = insert_version(connection, version, content, store_time(connection))
            if not done:
                connection.rollback()
            return done

    def replace(self, before: ExitVersion, after: ExitVersion) -> bool:
        """Replace state, release and end of a version; ``False`` where another was first."""
        with self._db.write() as (connection, _):
            done = update_version(connection, before, after)
            if not done:
                connection.rollback()
            return done

    def delete_old(self) -> int:
        """Delete versions that expired more than a day ago, voices of earlier hours, stale sums.

        The newest version of each cut stays.

        Returns how many versions went.
        """
        half_life_s = self._db.half_life_s
        with self._db.read() as connection:
            now = store_time(connection)
            if not has_old(connection, now) and not has_stale(connection, now, half_life_s):
                return 0
        with self._db.write() as (connection, _):
            delete_stale(connection, now, half_life_s)
            return delete_old(connection, now)
