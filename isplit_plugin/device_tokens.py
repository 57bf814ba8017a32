"""Who a device is: tokens that an operator issues, and what everything signed with the operator's secret has in common.

Ids that devices choose themselves make any cap on a device's influence void: one liar invents a thousand. So a device
carries a token, ``isplit1.<payload>.<signature>``: the payload is base64url of the JSON list ``[id, group, expiry]``,
the signature HMAC-SHA256 (RFC 2104) under the operator's secret. Whoever holds the secret can verify it; no table of
devices is kept anywhere, and a token ends by its expiry alone.

Every use of the secret has a label of its own, so that no signature can pass for one of another kind. What is stored of
a device is :func:`hashed`, a keyed hash of its id, from which nobody without the secret can get back to the id.

Standard library only: the smallest device can import it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from .errors import SecretError, TokenError
from .files import write_atomically

__all__ = [
    "MAX_DAYS",
    "MAX_TOKEN",
    "SECRET_BYTES",
    "SECRET_VARIABLE",
    "Device",
    "hashed",
    "issue",
    "new_secret",
    "peek",
    "read_secret",
    "seal",
    "sign",
    "unseal",
    "verify",
]

SECRET_VARIABLE: Final = "ISPLIT_SECRET_FILE"  # noqa: S105  the name of a variable
"""The environment variable that names the file of the operator's secret."""
SECRET_BYTES: Final = 32
"""Random bytes of a new secret."""
MAX_TOKEN: Final = 512
"""The most characters of a token."""
MAX_DAYS: Final = 3660.0
"""The longest life of a token."""

_VERSION: Final = "isplit1"
_MAX_SECRET: Final = 4096
_DAY_S: Final = 86_400
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}\Z")
_GROUP_MAX: Final = 64


class Device(NamedTuple):
    """What a verified token says. ``hashed``: the id's keyed hash, 32 hexadecimal digits; ``group``: the one that the
    operator put the device in, ``None`` where it may name one itself; ``expires``: epoch seconds."""

    id: str
    hashed: str
    group: str | None
    expires: int


def new_secret(path: str | Path) -> Path:
    """Write 32 random bytes as hexadecimal digits to a new file of mode 0600. Raises SecretError where it exists."""
    target = Path(path)
    content = secrets.token_hex(SECRET_BYTES).encode() + b"\n"
    try:
        write_atomically(target, content, mode=0o600, overwrite=False)
    except OSError as error:
        raise SecretError(
            f"secret file {target}: cannot be made ({error.strerror or error})"
        ) from error
    return target


def read_secret(path: str | Path) -> bytes:
    """The secret in a file: its bytes without white space at the end.

    Raises SecretError: no regular file, readable by others than its owner, fewer than 16 bytes or more than 4096.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(_MAX_SECRET + 1) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise SecretError(
            f"secret file {source}: cannot be read ({error.strerror or error})"
        ) from error
    if os.name == "posix" and found.st_mode & 0o077:
        raise SecretError(
            f"secret file {source}: expected mode 0600, got {stat.S_IMODE(found.st_mode):04o}"
        )
    if len(data) > _MAX_SECRET or len(data.rstrip()) < SECRET_BYTES // 2:
        raise SecretError(
            f"secret file {source}: expected {SECRET_BYTES // 2} to {_MAX_SECRET} bytes"
        )
    return data.rstrip()


def sign(secret: bytes, label: str, data: bytes) -> bytes:
    """HMAC-SHA256 of ``data`` for one use, named by ``label``. 32 bytes."""
    return hmac.new(secret, label.encode() + b"\0" + data, hashlib.sha256).digest()


def seal(secret: bytes, label: str, payload: Any) -> str:
    """``payload`` (JSON types) and its signature as one URL-safe string."""
    body = json.dumps(payload, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    return f"{_encode(body)}.{_encode(sign(secret, label, body))}"


def unseal(secret: bytes, label: str, sealed: str) -> Any:
    """The payload of :func:`seal`. Raises ValueError("malformed") or ValueError("forged"), compared in constant time.

    Nothing of the payload is read before its signature was found right.
    """
    body, dot, signature = sealed.partition(".")
    if not dot:
        raise ValueError("malformed")
    data, found = _decode(body), _decode(signature)
    if not hmac.compare_digest(sign(secret, label, data), found):
        raise ValueError("forged")
    return json.loads(data)


def hashed(secret: bytes, device_id: str) -> str:
    """The keyed hash that an id is stored by: 128 bits in hexadecimal digits."""
    return sign(secret, "isplit device id", device_id.encode()).hex()[:32]


def issue(
    secret: bytes,
    device_id: str,
    *,
    days: float,
    group: str | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """A token for a device, valid for ``days``. Raises TokenError for an id, group or time that cannot be."""
    if not isinstance(device_id, str) or not _ID.match(device_id):
        raise TokenError(
            f"device id {str(device_id)[:80]!r}: expected 1 to 64 letters, digits, '.', '_', ':', '@', '-'",
            reason="id",
        )
    if group is not None and not (0 < len(group) <= _GROUP_MAX and group.isprintable()):
        raise TokenError(
            f"group {group[:80]!r}: expected 1 to {_GROUP_MAX} printable characters", reason="group"
        )
    if not (math.isfinite(days) and 0 < days <= MAX_DAYS):
        raise TokenError(
            f"days: expected more than 0, at most {MAX_DAYS:g}, got {days}", reason="days"
        )
    expires = int(clock() + days * _DAY_S)
    return f"{_VERSION}.{seal(secret, _VERSION, [device_id, group, expires])}"


def verify(secret: bytes, token: object, *, clock: Callable[[], float] = time.time) -> Device:
    """What a token says. Raises TokenError whose ``details["reason"]`` is "malformed", "forged" or "expired"."""
    if not isinstance(token, str) or not token.isascii() or len(token) > MAX_TOKEN:
        raise _bad("malformed", f"expected a token of at most {MAX_TOKEN} characters")
    version, _, sealed = token.partition(".")
    if version != _VERSION:
        raise _bad("malformed", f"expected {_VERSION}.<payload>.<signature>")
    try:
        device_id, group, expires = unseal(secret, _VERSION, sealed)
    except ValueError as error:
        forged = str(error) == "forged"
        raise _bad(
            *(("forged", "its signature is not ours") if forged else ("malformed", "not readable"))
        ) from None
    if clock() >= expires:
        raise _bad("expired", f"it was valid until {_date(expires)}")
    return Device(device_id, hashed(secret, device_id), group, expires)


def peek(token: str) -> tuple[str, str | None, int]:
    """(id, group, expiry) as a token claims, unverified: for people to look at. Raises TokenError."""
    version, _, sealed = token.strip().partition(".")
    try:
        device_id, group, expires = json.loads(_decode(sealed.partition(".")[0]))
        if version != _VERSION or not isinstance(device_id, str) or not isinstance(expires, int):
            raise ValueError("malformed")
    except (ValueError, TypeError) as error:
        raise _bad("malformed", f"expected {_VERSION}.<payload>.<signature>") from error
    return device_id, group if isinstance(group, str) else None, expires


def _bad(reason: str, why: str) -> TokenError:
    return TokenError(f"device token: {reason}; {why}", reason=reason)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        # validate: characters outside of the alphabet are an error, not skipped.
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("malformed") from None
