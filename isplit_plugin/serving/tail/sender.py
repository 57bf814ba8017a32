"""Who sent a request, as far as the operator's secret can tell."""

from __future__ import annotations

from typing import Final, NamedTuple

from ...device_tokens import verify
from ...errors import TokenError

OK: Final = "ok"


class Sender(NamedTuple):
    """``device``: the hash of a verified id, ``None`` for anybody else; ``group``: the one the operator signed, if any;
    ``status``: what the answer says of the token, empty where there was none or there is no secret."""

    device: str | None = None
    group: str | None = None
    status: str = ""


NOBODY: Final = Sender()


def identify(secret: bytes | None, token: str | None) -> Sender:
    """The sender of a request. A token that does not hold makes it unsigned, and never fails."""
    if secret is None or token is None:
        return NOBODY
    try:
        device = verify(secret, token)
    except TokenError as error:
        return Sender(status=f"invalid: {error.details['reason']}")
    return Sender(device.hashed, device.group, OK)
