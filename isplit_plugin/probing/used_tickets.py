"""Curves that probes completed: each ticket is good for one, and each device for so many an hour.

The id of a used ticket is written in the transaction that adds its curve, so that it counts once whatever is lost or
sent again, and remembered until it has expired (and an hour at least, for the count by device). The number of ids is
bounded by ``MAX_TICKETS`` of a network; above it probes are refused, and nothing else is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy.typing as npt
import sqlalchemy as sa

from ..errors import ProbeBudgetError, ProbeError, TicketError
from ..traffic import tables
from ..traffic.delta import Delta
from ..traffic.devices import device_of
from ..traffic.flush import mean0_of, write_delta
from ..traffic.store import Store

MAX_TICKETS: Final = 100_000
HOUR_S: Final = 3600


def redeem(
    store: Store,
    network: str,
    probe: str,
    class_id: int,
    curve: npt.ArrayLike,
    *,
    classes: int,
    expires: float,
    device: str | None,
    group: str = "all",
    per_hour: int,
    clock: Callable[[], float] = time.time,
) -> None:
    """Add one whole curve (P,) of ``class_id`` with the source "probe", once for each ``probe`` (a ticket's id).

    ``classes``: of the network; ``expires``: of the ticket, epoch seconds; ``device``: the hash of a verified id;
    ``per_hour``: curves that one device may add within an hour.

    Raises TicketError where the ticket was used before, ProbeBudgetError where the device or the table is full,
    ProbeError where the curve is none, StoreError; nothing is stored then.
    """
    now, who = clock(), device_of(device)
    table = tables.ticket
    mine = table.c.network == network
    count = sa.select(sa.func.count()).select_from(table).where(mine)
    with store._db.write() as (connection, revision):
        old = (table.c.used_at < int(now) - HOUR_S, table.c.expires <= int(now))
        connection.execute(table.delete().where(mine, *old))
        if connection.scalar(count.where(table.c.probe == probe)):
            raise TicketError(
                "probe ticket: used before; each is good for one curve", reason="replayed"
            )
        recent = count.where(table.c.device == who, table.c.used_at >= int(now) - HOUR_S)
        if (connection.scalar(recent) or 0) >= per_hour:
            raise ProbeBudgetError(
                f"expected at most {per_hour} probes of a device an hour", per_hour=per_hour
            )
        if (connection.scalar(count) or 0) >= MAX_TICKETS:
            raise ProbeBudgetError(
                f"expected at most {MAX_TICKETS} probes an hour", limit=MAX_TICKETS
            )
        row = {
            "network": network,
            "probe": probe,
            "device": who,
            "used_at": int(now),
            "expires": int(expires),
        }
        connection.execute(table.insert(), [row])
        delta = Delta(mean0_of(connection, network), store.half_life_s, classes, identity=True)
        added = {
            "source": "probe",
            "target": "predicted",
            "group": group,
            "at": now,
            "device": device,
        }
        try:
            bad = delta.add_importance([class_id], [curve], **added)  # type: ignore[arg-type]
        except ValueError as error:
            raise ProbeError(f"not a curve: {error}") from error
        if bad:
            raise ProbeError(
                f"expected a curve of finite values of a class from 0 to {classes - 1}"
            )
        write_delta(connection, revision, network, delta)
