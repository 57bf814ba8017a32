"""Device tokens, their revocation, and everything else signed with the operator's secret.

Standard library only.
"""

from __future__ import annotations

from .revoked import RevokedDevices, revoke, revoked_path
from .tokens import (
    DEVICE_HEADER,
    MAX_DAYS,
    MAX_TOKEN,
    SECRET_BYTES,
    SECRET_VARIABLE,
    Claims,
    Device,
    hashed,
    issue,
    new_secret,
    peek,
    read_secret,
    seal,
    sign,
    unseal,
    verify,
)
from .verifier import TokenVerifier

__all__ = [
    "DEVICE_HEADER",
    "MAX_DAYS",
    "MAX_TOKEN",
    "SECRET_BYTES",
    "SECRET_VARIABLE",
    "Claims",
    "Device",
    "RevokedDevices",
    "TokenVerifier",
    "hashed",
    "issue",
    "new_secret",
    "peek",
    "read_secret",
    "revoke",
    "revoked_path",
    "seal",
    "sign",
    "unseal",
    "verify",
]
