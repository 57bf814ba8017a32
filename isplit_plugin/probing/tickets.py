"""Tickets: the signed strings that carry the tail's half of a curve from one request to the next.

The server keeps nothing of a probe between its two requests. So any worker with the operator's
secret can join both halves of the curve. The device can read a ticket but not change it.
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
    """A ticket.

    Attributes:
        probe: 32 random hexadecimal digits. Each may be used once.
        device: the hash of the device that asked for the probe, ``None`` without a device token.
        expires: epoch seconds.
        tail: the importance of ``class_id`` at the cut and after it, float64.
    """

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
        """A ticket with a new id and expiry, and these other fields."""
        return cls(probe=os.urandom(16).hex(), expires=math.ceil(clock() + TICKET_S), **fields)

    def seal(self, secret: bytes) -> str:
        """The ticket as the device gets it: printable ASCII."""
        tail = base64.b64encode(self.tail.astype("<f8").tobytes()).decode()
        fields = [
            _FORMAT,
            self.probe,
            self.network_hash,
            str(self.cut),
            self.class_id,
            self.group,
        ]
        return seal(secret, _LABEL, [*fields, self.device, self.expires, tail])

    @classmethod
    def read(cls, secret: bytes, sealed: str, *, clock: Callable[[], float] = time.time) -> Self:
        """Read a ticket.

        Raises:
            TicketError: ``details["reason"]`` is "malformed", "forged" or "expired".
        """
        try:
            number, *values, tail = unseal(secret, _LABEL, sealed)
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
            curve = np.frombuffer(base64.b64decode(tail), "<f8").astype(np.float64)
            fields = dict(zip(names, values, strict=True))
            fields["cut"] = Cut.parse(fields["cut"])
            ticket = cls(**fields, tail=curve)
        except (ValueError, TypeError, AttributeError, QueryError) as error:
            reason = "forged" if str(error) == "forged" else "malformed"
            refuse(reason, "expected a ticket that this server signed, unchanged")
        if clock() >= ticket.expires:
            refuse("expired", f"a ticket is valid for {TICKET_S} s")
        return ticket


def refuse(reason: str, why: str) -> NoReturn:
    """Raise a TicketError. ``reason`` is one word for programs, ``why`` a sentence."""
    raise TicketError(f"probe ticket: {reason}; {why}", reason=reason)
