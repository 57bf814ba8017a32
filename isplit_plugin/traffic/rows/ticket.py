"""Ticket rows: each probe ticket is good for one curve, and each device for so many an hour.

The row of a used ticket is written in the transaction that adds its curve, so that a probe counts
once whatever is lost or sent again. It stays until the ticket has expired, and at least an hour,
for the count by device. Above ``MAX_TICKETS`` rows of a network, probes are refused.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ...errors import ProbeBudgetError, TicketError
from ..aggregates.devices import device_of
from ..aggregates.keys import HOUR_S
from . import tables

MAX_TICKETS: Final = 100_000


class TicketUse(NamedTuple):
    """The use of a ticket.

    Attributes:
        probe: the id of the ticket.
        expires: when the ticket expires, in epoch seconds.
        per_hour: the number of probes that one device may send within an hour.
    """

    probe: str
    expires: float
    per_hour: int


def use_ticket(
    connection: Connection, network: str, ticket: TicketUse, device: str | None, at: float
) -> None:
    """Note that a device used a ticket at the time ``at``, and delete the rows of old tickets.

    Raises TicketError for a ticket that has expired or was used before, and ProbeBudgetError where the device or
    the network has no probes left.
    """
    table = tables.ticket
    now = int(at)
    name = device_of(device)
    of_network = table.c.network == network
    is_old = sa.and_(table.c.used_at < now - HOUR_S, table.c.expires <= now)
    connection.execute(table.delete().where(of_network, is_old))
    count = sa.select(sa.func.count()).select_from(table).where(of_network)
    if ticket.expires <= now:  # by the store's clock: from here on its row may be gone
        raise TicketError(
            "probe ticket: expected one that is valid by the store's clock, "
            f"got one that expired {now - ticket.expires:.0f} s before",
            reason="expired",
        )
    if connection.scalar(count.where(table.c.probe == ticket.probe)):
        raise TicketError(
            "probe ticket: expected a new one, got one that was used before; "
            "each is good for one curve",
            reason="replayed",
        )
    recent = count.where(table.c.device == name, table.c.used_at >= now - HOUR_S)
    if (connection.scalar(recent) or 0) >= ticket.per_hour:
        raise ProbeBudgetError(
            f"expected at most {ticket.per_hour} probes of a device an hour",
            per_hour=ticket.per_hour,
        )
    if (connection.scalar(count) or 0) >= MAX_TICKETS:
        raise ProbeBudgetError(f"expected at most {MAX_TICKETS} probes an hour", limit=MAX_TICKETS)
    row = {
        "network": network,
        "probe": ticket.probe,
        "device": name,
        "used_at": now,
        "expires": int(ticket.expires),
    }
    connection.execute(table.insert(), [row])
