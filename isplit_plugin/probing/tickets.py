"""A probe's ticket: what the tail found, signed, for the device to bring back with its part of the curve.

The server keeps nothing of a probe between its two requests. The ticket carries the tail's half of the curve, so that
any worker with the operator's secret can join both halves; the device can read it, and cannot change a bit of it.
"""

from __future__ import annotations

import base64
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self

import numpy as np
import numpy.typing as npt

from ..device_tokens import seal, unseal
from ..errors import QueryError, TicketError
from ..schema import Cut

TICKET_S: Final = 600
"""Seconds that a ticket is valid."""

_LABEL: Final = "isplit probe ticket"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Ticket:
    """``tail``: float64, the values at the cut and after it, for ``class_id``; ``device``: the hash that the probe was
    asked by, ``None`` unsigned; ``expires``: epoch seconds; ``probe``: random, 32 hexadecimal digits, for one use."""

    probe: str
    network_hash: str
    cut: Cut
    class_id: int
    group: str
    device: str | None
    expires: int
    tail: npt.NDArray[np.float64]

    @classmethod
    def new(cls, *, clock: Callable[[], float] = time.time, **fields: Any) -> Self:
        """A ticket with an id and an expiry of its own; ``fields``: the others."""
        return cls(probe=os.urandom(16).hex(), expires=math.ceil(clock() + TICKET_S), **fields)

    def seal(self, secret: bytes) -> str:
        """The ticket as the device gets it: printable ASCII."""
        tail = base64.b64encode(self.tail.astype("<f8").tobytes()).decode()
        told = [
            _FORMAT,
            self.probe,
            self.network_hash,
            str(self.cut),
            self.class_id,
            self.group,
        ]
        return seal(secret, _LABEL, [*told, self.device, self.expires, tail])

    @classmethod
    def read(cls, secret: bytes, sealed: str, *, clock: Callable[[], float] = time.time) -> Self:
        """Read a ticket of ours. Raises TicketError whose ``details["reason"]`` is "malformed", "forged", "expired"."""
        try:
            number, *told, tail = unseal(secret, _LABEL, sealed)
            if number != _FORMAT:
                raise ValueError("malformed")
            names = (
                "probe",
                "network_hash",
                "cut",
                "class_id",
                "group",
                "device",
                "expires",
            )
            values = np.frombuffer(base64.b64decode(tail), "<f8").astype(np.float64)
            fields = dict(zip(names, told, strict=True))
            fields["cut"] = Cut.parse(fields["cut"])
            ticket = cls(**fields, tail=values)
        except (ValueError, TypeError, AttributeError, QueryError) as error:
            reason = "forged" if str(error) == "forged" else "malformed"
            refuse(reason, "expected a ticket that this server signed, unchanged")
        if clock() >= ticket.expires:
            refuse("expired", f"a ticket is valid for {TICKET_S} s")
        return ticket


def refuse(reason: str, why: str) -> NoReturn:
    """Raise the TicketError for ``reason``, one word."""
    raise TicketError(f"probe ticket: {reason}; {why}", reason=reason)
