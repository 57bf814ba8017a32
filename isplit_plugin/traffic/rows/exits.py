"""Rows of exits: versions, and what was counted of their answers.

A version's content never changes, and its key is the content's hash. What devices may do with it is
its **release**, which is signed and numbered. A cut has at most one version that is alive: neither
ended nor expired. Versions are deleted with their counts ``KEEP_S`` after they expired, but for the
newest of each cut: its number says how much of alpha is spent.

An answer counts at most once for each **voice**, which is a device in an hour and for a class, or a
request where the device is not known. Above ``MAX_VOICES`` voices of a network within the last
hours, answers do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from ...schema import Cut
from ..aggregates.keys import DAY_S, HOUR_S
from . import tables
from .sql import chunks, cut_columns, cut_of, upsert

SHADOW: Final = "shadow"
AUDIT: Final = "audit"
KINDS: Final = (SHADOW, AUDIT)
WITHDRAWN: Final = "withdrawn"
SUPERSEDED: Final = "superseded"
KEEP_S: Final = DAY_S
MAX_VOICES: Final = 100_000
KEEP_VOICES_S: Final = 2 * HOUR_S


class CountedAnswer(NamedTuple):
    """What an exit said of one photo, compared with the full network's answer.

    Attributes:
        exit: the version.
        kind: "shadow", or "audit" where the device had answered by it already.
        class_id, bin: the exit's answer and the bin of its confidence.
        agrees: whether the full network says the same.
        voice: who says it: equal for equal voices.
        at: epoch seconds.
    """

    exit: str
    kind: str
    class_id: int
    bin: int
    agrees: bool
    voice: str
    at: float

    def voice_key(self) -> str:
        """The hash that stands for the voice: BLAKE2b with 128 bits, 32 hexadecimal digits."""
        hour = int(self.at // HOUR_S)
        text = f"{self.exit}\0{self.kind}\0{self.class_id}\0{self.voice}\0{hour}"
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


class ExitCount(NamedTuple):
    """Answers of an exit of one kind, class and bin, and those that agree."""

    kind: str
    class_id: int
    bin: int
    number: int
    agreeing: int


@dataclass(frozen=True, slots=True)
class ExitVersion:
    """One version of the exit of a cut.

    Attributes:
        exit: the hash of its content.
        created, expires: epoch seconds.
        photos: in the sums that it was made from.
        number: of releases so far.
        release: the present one, signed; empty before the first.
        state: of each class, as JSON.
        ended: why it ended before its time, "withdrawn" or "superseded"; empty while it lives.
    """

    network: str
    exit: str
    cut: Cut
    created: float
    expires: float
    photos: int
    number: int = 0
    release: bytes = field(default=b"", repr=False)
    state: str = "{}"
    ended: str = ""

    def is_alive(self, now: float) -> bool:
        """Whether devices may use it."""
        return not self.ended and now < self.expires


_VERSIONS: Final = sa.select(
    *(column for column in tables.exit_version.c if column.name != "content")
).order_by(tables.exit_version.c.created.desc(), tables.exit_version.c.exit)
_VERSIONS_OF: Final = _VERSIONS.where(tables.exit_version.c.network == sa.bindparam("network"))


def list_versions(connection: Connection, network: str | None = None) -> tuple[ExitVersion, ...]:
    """The versions of a network or of all, the newest first, without their content."""
    query = _VERSIONS if network is None else _VERSIONS_OF
    return tuple(_version(row) for row in connection.execute(query, {"network": network}))


def read_content(connection: Connection, network: str, exit_hash: str) -> bytes | None:
    """The content of a version; ``None`` where there is none."""
    table = tables.exit_version
    query = sa.select(table.c.content).where(table.c.network == network, table.c.exit == exit_hash)
    content: bytes | None = connection.scalar(query)
    return content


def insert_version(
    connection: Connection, version: ExitVersion, content: bytes, now: float
) -> bool:
    """Write a new version; ``False`` where the cut has one that is alive, or had this one."""
    for other in list_versions(connection, version.network):
        same_cut = other.cut == version.cut
        if other.exit == version.exit or (same_cut and other.is_alive(now)):
            return False
    row = {**_columns(version), "content": content}
    upsert(connection, tables.exit_version, [row])
    return True


def update_version(connection: Connection, before: ExitVersion, after: ExitVersion) -> bool:
    """Replace state, release and end; ``False`` where somebody else was first."""
    table = tables.exit_version
    changed = {
        "number": after.number,
        "release": after.release,
        "state": after.state,
        "ended": after.ended,
    }
    result = connection.execute(
        table.update()
        .where(
            table.c.network == before.network,
            table.c.exit == before.exit,
            table.c.number == before.number,
            table.c.state == before.state,
            table.c.ended == before.ended,
        )
        .values(**changed)
    )
    return result.rowcount == 1


def read_counts(connection: Connection, network: str, exit_hash: str) -> tuple[ExitCount, ...]:
    """All counts of a version, by kind, class and bin."""
    table = tables.exit_count
    query = (
        sa.select(table.c.kind, table.c.class_id, table.c.bin, table.c.number, table.c.agreeing)
        .where(table.c.network == network, table.c.exit == exit_hash)
        .order_by(table.c.kind, table.c.class_id, table.c.bin)
    )
    return tuple(ExitCount(*row) for row in connection.execute(query))


def write_answers(connection: Connection, network: str, answers: Sequence[CountedAnswer]) -> int:
    """Count answers of versions that are in the store, each voice once. Returns how many counted."""
    versions = {version.exit for version in list_versions(connection, network)}
    known = [answer for answer in answers if answer.exit in versions and answer.kind in KINDS]
    fresh = _new_voices(connection, network, known)
    more: dict[tuple[str, str, int, int], list[int]] = {}
    for answer in fresh:
        key = (answer.exit, answer.kind, answer.class_id, answer.bin)
        counts = more.setdefault(key, [0, 0])
        counts[0] += 1
        counts[1] += answer.agrees
    table = tables.exit_count
    rows = []
    for (exit_hash, kind, class_id, number_of_bin), (number, agreeing) in sorted(more.items()):
        key_columns = {
            "network": network,
            "exit": exit_hash,
            "kind": kind,
            "class_id": class_id,
            "bin": number_of_bin,
        }
        where = [table.c[name] == value for name, value in key_columns.items()]
        before = connection.execute(sa.select(table.c.number, table.c.agreeing).where(*where))
        stored = before.first()
        if stored is not None:
            number += stored.number  # noqa: PLW2901
            agreeing += stored.agreeing  # noqa: PLW2901
        rows.append({**key_columns, "number": number, "agreeing": agreeing})
    upsert(connection, table, rows)
    return len(fresh)


def delete_old(connection: Connection, now: float) -> int:
    """Delete versions that expired long ago, with their counts, and voices that count no more.

    The newest version of each cut stays.

    Returns how many versions went.
    """
    voices = tables.exit_voice
    connection.execute(voices.delete().where(voices.c.hour < now - KEEP_VOICES_S))
    old = _old_versions(connection, now)
    for version in old:
        for of_version in (tables.exit_version, tables.exit_count):
            connection.execute(
                of_version.delete().where(
                    of_version.c.network == version.network, of_version.c.exit == version.exit
                )
            )
    return len(old)


def has_old(connection: Connection, now: float) -> bool:
    """Whether :func:`delete_old` may have something to delete."""
    oldest = connection.scalar(sa.select(sa.func.min(tables.exit_voice.c.hour)))
    if oldest is not None and oldest < now - KEEP_VOICES_S:
        return True
    return bool(_old_versions(connection, now))


def _old_versions(connection: Connection, now: float) -> list[ExitVersion]:
    cuts: set[tuple[str, Cut]] = set()
    old = []
    for version in list_versions(connection):  # the newest first
        if (version.network, version.cut) in cuts and version.expires + KEEP_S < now:
            old.append(version)
        cuts.add((version.network, version.cut))
    return old


def _new_voices(
    connection: Connection, network: str, answers: Sequence[CountedAnswer]
) -> list[CountedAnswer]:
    """The answers whose voice was not heard before; they are heard from here on."""
    if not answers:
        return []
    table = tables.exit_voice
    of_network = table.c.network == network
    newest = max(answer.at for answer in answers)
    connection.execute(table.delete().where(of_network, table.c.hour < newest - KEEP_VOICES_S))
    number = sa.select(sa.func.count()).select_from(table).where(of_network)
    room = MAX_VOICES - int(connection.scalar(number) or 0)
    by_key: dict[str, CountedAnswer] = {}
    for answer in answers:
        if answer.at >= newest - HOUR_S:
            by_key.setdefault(answer.voice_key(), answer)
    heard: set[str] = set()
    for keys in chunks(list(by_key)):
        query = sa.select(table.c.voice).where(of_network, table.c.voice.in_(keys))
        heard.update(connection.scalars(query))
    fresh = [key for key in by_key if key not in heard][: max(0, room)]
    rows = [
        {
            "network": network,
            "voice": key,
            "hour": int(by_key[key].at // HOUR_S) * HOUR_S,
        }
        for key in fresh
    ]
    upsert(connection, table, rows)
    return [by_key[key] for key in fresh]


def _version(row: Row[Any]) -> ExitVersion:
    return ExitVersion(
        network=row.network,
        exit=row.exit,
        cut=cut_of(row),
        created=row.created,
        expires=row.expires,
        photos=row.photos,
        number=row.number,
        release=bytes(row.release),
        state=row.state,
        ended=row.ended,
    )


def _columns(version: ExitVersion) -> dict[str, object]:
    return {
        "network": version.network,
        "exit": version.exit,
        **cut_columns(version.cut),
        "created": version.created,
        "expires": version.expires,
        "photos": version.photos,
        "number": version.number,
        "release": version.release,
        "state": version.state,
        "ended": version.ended,
    }
