"""Who sent a request, as far as the operator's secret can tell."""

from __future__ import annotations

from typing import Final, NamedTuple

from ...device_tokens import TokenVerifier
from ...errors import TokenError

OK: Final = "ok"


class Sender(NamedTuple):
    """Who sent a request.

    Attributes:
        device: the hash of a verified device id, ``None`` for anybody else.
        group: the device group that the operator signed, if any.
        status: what the answer says of the token, "ok" or "invalid: <reason>". Empty where there
            was no token or there is no secret.
    """

    device: str | None = None
    group: str | None = None
    status: str = ""


NOBODY: Final = Sender()


def identify(verifier: TokenVerifier | None, token: str | None) -> Sender:
    """The sender of a request. A token that does not hold makes it unsigned, and never fails."""
    if verifier is None or token is None:
        return NOBODY
    try:
        device = verifier.verify(token)
    except TokenError as error:
        return Sender(status=f"invalid: {error.details['reason']}")
    return Sender(device.hashed, device.group, OK)
