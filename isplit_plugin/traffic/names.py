"""The names of a network that clients choose: which of a delta's names are counted as they are.

Names above a limit count as ``OTHER``. The limits hold for all workers together, so the store
decides. Groups that the operator signed have slots of their own; see :mod:`.rows.groups`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Connection

from .aggregates.counts import LimitedNames
from .aggregates.delta import Delta
from .aggregates.keys import HOUR_S, NAME_LIMITS
from .rows import tables
from .rows.groups import EXPIRE_S, expired_names, fold_group
from .rows.sql import upsert


class NetworkNames:
    """The names of a network by kind, and when each was last used.

    Attributes:
        names: the names by kind (:data:`.keys.NAME_LIMITS`).
    """

    def __init__(self, connection: Connection, network: str) -> None:
        table = tables.name
        self._connection = connection
        self._network = network
        self._seen: dict[str, dict[str, int]] = {kind: {} for kind in NAME_LIMITS}
        query = sa.select(table.c.kind, table.c.name, table.c.seen)
        for kind, name, seen in connection.execute(query.where(table.c.network == network)):
            self._seen.setdefault(kind, {})[name] = seen

    @property
    def names(self) -> dict[str, set[str]]:
        return {kind: set(seen) for kind, seen in self._seen.items()}

    def add(self, delta: Delta, points: int, now: float) -> None:
        """Take up the names of a delta, as far as there are slots, at the time ``now``."""
        used = _names_in(delta, set(self._seen["signed_group"]))
        promoted = used["signed_group"] & set(self._seen["group"])
        for name in promoted:
            del self._seen["group"][name]
        if promoted:
            table = tables.name
            is_promoted = sa.and_(table.c.kind == "group", table.c.name.in_(sorted(promoted)))
            self._connection.execute(
                table.delete().where(table.c.network == self._network, is_promoted)
            )
        hour = int(now // HOUR_S) * HOUR_S if math.isfinite(now) else 0
        rows = []
        for kind, names in used.items():
            if kind in EXPIRE_S:
                self._make_room(kind, names, points, now)
            limited = LimitedNames(self._seen[kind], limit=NAME_LIMITS[kind])
            for name in sorted(names):
                limited.fit(name)
            for name in sorted(names & limited.names):
                if self._seen[kind].get(name, -1) < hour:
                    self._seen[kind][name] = hour
                    rows.append(
                        {"network": self._network, "kind": kind, "name": name, "seen": hour}
                    )
        upsert(self._connection, tables.name, rows)

    def fit(self) -> dict[str, Callable[[str], str]]:
        """By kind of :meth:`.delta.Delta.renamed`: from a name to the one that it counts under."""
        groups = [*self._seen["group"], *self._seen["signed_group"]]
        return {
            "group": LimitedNames(groups, limit=0).fit,
            "split_point": LimitedNames(self._seen["split_point"], limit=0).fit,
            "codec": LimitedNames(self._seen["codec"], limit=0).fit,
        }

    def _make_room(self, kind: str, names: set[str], points: int, now: float) -> None:
        """Fold expired names, as many as there are new ones without a slot."""
        seen = self._seen[kind]
        unused = {name: time for name, time in seen.items() if name not in names}
        missing = len(seen) + len(names - set(seen)) - NAME_LIMITS[kind]
        for name in expired_names(unused, kind, now)[: max(0, missing)]:
            fold_group(self._connection, self._network, points, name)
            del seen[name]


def _names_in(delta: Delta, signed: set[str]) -> dict[str, set[str]]:
    """The names in the keys of a delta by kind. ``signed``: groups that are known to be signed."""
    cuts = {key.cut for key in delta.served} | {key.cut for key in delta.outcomes}
    groups = {key.group for key in delta.served} | {key.group for key in delta.outcomes}
    groups |= {population.group for population, _ in delta.moments}
    groups |= {sums.group for sums in delta.device_sums.values()}
    groups = {group for group in groups if not LimitedNames.is_free(group)}
    signed = signed | delta.signed_groups
    return {
        "group": groups - signed,
        "signed_group": groups & signed,
        "split_point": {cut.split_point for cut in cuts},
        "codec": {cut.coding for cut in cuts},
    }
