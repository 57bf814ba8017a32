"""Importance and outcome rows that a process keeps between two views.

Nearly all rows are as they were at the last view, and every row has the revision of its last
change. So a view reads those that changed, and adds up what it keeps. Where rows were deleted, all
are read again. Reading all and reading the changes go through the same code, and give the same
sums to the last bit.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from sqlalchemy import Connection

from .rows.importance import ImportanceTable
from .rows.outcome import OutcomeTable
from .rows.revisions import ViewHead

MAX_BYTES: Final = 64 << 20
"""About the memory that the kept rows of all networks take."""
_OUTCOME_BYTES: Final = 500


class LiveRows:
    """The importance and outcome rows of one network.

    Attributes:
        revision: of the store, up to which the rows are read.
        rewritten: the revision of the last loss of rows, as of then.
    """

    def __init__(self, points: int, rewritten: int) -> None:
        self.revision = -1
        self.rewritten = rewritten
        self.points = points
        self.importance = ImportanceTable(points)
        self.outcomes = OutcomeTable()

    @property
    def nbytes(self) -> int:
        """About the memory that the rows take."""
        return self.importance.nbytes + _OUTCOME_BYTES * len(self.outcomes)

    def update(self, connection: Connection, network: str, revision: int) -> None:
        """Read what changed up to the revision of the connection's transaction."""
        self.importance.update(connection, network, self.revision)
        self.outcomes.update(connection, network, self.revision)
        self.revision = revision


class _Kept(NamedTuple):
    opened: int
    rows: LiveRows


class LiveRowsCache:
    """The rows of several networks; those that were not used for longest go first.

    For one thread at a time, which holds the rows until it has added them up.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._networks: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._networks)

    def read(
        self, connection: Connection, opened: int, network: str, head: ViewHead, points: int
    ) -> LiveRows:
        """The rows of a network as the connection's transaction sees them. Raises StoreError.

        Parameters:
            opened: how often the database was opened; a replaced file counts its revisions anew.
            head: of the network, in the same transaction.
        """
        kept = self._networks.pop(network, None)
        now = (opened, head.rewritten, points)
        if (
            kept is not None
            and (kept.opened, kept.rows.rewritten, kept.rows.points) == now
            and kept.rows.revision <= head.revision
        ):
            rows = kept.rows
        else:
            rows = LiveRows(points, head.rewritten)
        rows.update(connection, network, head.revision)
        self._networks[network] = _Kept(opened, rows)
        while sum(other.rows.nbytes for other in self._networks.values()) > self._max_bytes:
            self._networks.popitem(last=False)
        return rows

    def clear(self) -> None:
        """Keep nothing."""
        self._networks.clear()
