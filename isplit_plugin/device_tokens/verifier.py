"""Who a device token belongs to: signature, expiry and revocation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ..errors import TokenError
from .revoked import RevokedDevices, revoked_path
from .tokens import Device, date, read_secret, verify


class TokenVerifier:
    """Verifies device tokens. May be used by several threads.

    Parameters:
        secret: the operator's secret.
        revoked: the revoked ids; ``None``: there are none.
    """

    def __init__(self, secret: bytes, revoked: RevokedDevices | None = None) -> None:
        self.secret = secret
        self._revoked = revoked

    @classmethod
    def from_file(cls, secret_file: str | Path) -> Self:
        """The verifier for a secret file and the list of revoked ids beside it.

        Raises SecretError if one of them cannot be used.
        """
        return cls(read_secret(secret_file), RevokedDevices(revoked_path(secret_file)))

    def verify(self, token: object, *, clock: Callable[[], float] = time.time) -> Device:
        """What a token says.

        Raises TokenError with ``details["reason"]`` "malformed", "forged", "expired" or "revoked".
        """
        device = verify(self.secret, token, clock=clock)
        since = None if self._revoked is None else self._revoked.since(device.id)
        if since is not None and device.issued <= since:
            when = "" if since == float("inf") else f" at {date(since)}"
            raise TokenError(
                f"device token: revoked; the operator revoked device {device.id}{when}",
                reason="revoked",
            )
        return device
