"""Who is admitted: devices with a token that holds, of the groups that were named."""

from __future__ import annotations

from typing import NamedTuple

from ..device_tokens import Device, TokenVerifier
from ..errors import AuthenticationError, TokenError


class Admitted(NamedTuple):
    """A device that is admitted, and the token that it showed."""

    device: Device
    token: str


class Admission:
    """Admits devices.

    Parameters:
        verifier: of device tokens.
        groups: the groups to admit; empty: all.
    """

    def __init__(self, verifier: TokenVerifier, groups: tuple[str, ...] = ()) -> None:
        self._verifier = verifier
        self._groups = frozenset(groups)

    def admit(self, authorization: list[str]) -> Admitted:
        """The device behind the headers ``Authorization`` of a request.

        Raises:
            AuthenticationError: there is not exactly one header with a bearer token.
            TokenError: the token does not hold, or is of another group.
        """
        scheme, _, token = (authorization[0] if authorization else "").partition(" ")
        token = token.strip()
        if len(authorization) != 1 or scheme.lower() != "bearer" or not token:
            raise AuthenticationError(
                "expected the header 'Authorization: Bearer <device token>', got "
                f"{_what_came(authorization)}; the operator issues device tokens with "
                "isplit device issue"
            )
        try:
            device = self._verifier.verify(token)
        except TokenError as error:
            advice = "ask the operator for a new one (isplit device issue)"
            raise TokenError(f"{error.message}; {advice}", **error.details) from None
        if self._groups and device.group not in self._groups:
            raise TokenError(
                f"expected a device of group {', '.join(sorted(self._groups))}, got device "
                f"{device.id} of group {device.group or '(none)'}; ask the operator for a token of "
                "such a group (isplit device issue --group)",
                reason="group",
            )
        return Admitted(device, token)


def _what_came(authorization: list[str]) -> str:
    if not authorization:
        return "no such header"
    return "several" if len(authorization) > 1 else "another one"
