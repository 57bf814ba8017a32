"""Device tokens, and signing with the operator's secret. Standard library only.

Ids that devices choose themselves would make every limit on a device's influence useless, because
one device could claim a thousand ids. So the operator issues tokens,
``isplit1.<payload>.<signature>``. The payload is base64url of the JSON list ``[id, group,
issued, expires]``; the signature is HMAC-SHA256 (RFC 2104) under the operator's secret. Whoever has
the secret can verify a token. There is no table of devices: a token ends when it expires, or when
its id is revoked (:mod:`.revoked`).

Each use of the secret signs with its own label, so a signature made for one use is not valid for
another. The statistics store :func:`hashed`, a keyed hash of the id, from which the id cannot be
found without the secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import SecretError, TokenError
from ..files import write_atomically
from ..private_files import read_private

SECRET_VARIABLE: Final = "ISPLIT_SECRET_FILE"  # noqa: S105  the name of a variable, not a secret
"""The environment variable that names the file of the operator's secret."""
DEVICE_HEADER: Final = "isplit-device-token"
"""The header in which the forwarder passes on the token of the device that it admitted."""
SECRET_BYTES: Final = 32
"""Random bytes of a new secret."""
MAX_TOKEN: Final = 512
"""The most characters of a token."""
MAX_DAYS: Final = 3660.0
"""The longest life of a token, in days."""

_VERSION: Final = "isplit1"
_MIN_SECRET: Final = 16
_MAX_SECRET: Final = 4096
_DAY_S: Final = 86_400
_MAX_TIME: Final = 2**37  # in the year 6325
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}\Z")
_GROUP_MAX: Final = 64


class Claims(NamedTuple):
    """What a token says of a device.

    Attributes:
        id: the device's id.
        group: the group in which the operator put the device; ``None`` lets it name one itself.
        issued: when the token was issued, in seconds since the epoch, to the millisecond.
        expires: seconds since the epoch.
    """

    id: str
    group: str | None
    issued: float
    expires: int


class Device(NamedTuple):
    """What a verified token says: its :class:`Claims`, and the keyed hash of the id.

    Attributes:
        hashed: 32 hexadecimal digits.
    """

    id: str
    hashed: str
    group: str | None
    issued: float
    expires: int


def new_secret(path: str | Path) -> Path:
    """Write a new secret of 32 random bytes, as hexadecimal digits, to a file of mode 0600.

    Raises SecretError if the file exists or cannot be written.
    """
    content = secrets.token_hex(SECRET_BYTES).encode() + b"\n"
    try:
        write_atomically(path, content, mode=0o600, overwrite=False)
    except OSError as error:
        reason = error.strerror or error
        raise SecretError(f"secret file {path}: cannot be made ({reason})") from error
    return Path(path)


def read_secret(path: str | Path) -> bytes:
    """The secret in a file: its bytes without white space at the end.

    Raises SecretError if this is not a regular file of 16 to 4096 bytes, or if others than its
    owner may read it.
    """
    secret = read_private(path, "secret file", _MAX_SECRET).rstrip()
    if len(secret) < _MIN_SECRET:
        raise SecretError(
            f"secret file {path}: expected a file of {_MIN_SECRET} to {_MAX_SECRET} bytes"
        )
    return secret


def sign(secret: bytes, label: str, data: bytes) -> bytes:
    """HMAC-SHA256 of ``data`` (32 bytes), for the use that ``label`` names."""
    return hmac.new(secret, label.encode() + b"\0" + data, hashlib.sha256).digest()


def seal(secret: bytes, label: str, payload: Any) -> str:
    """A payload of JSON types and its signature as one URL-safe string."""
    body = json.dumps(payload, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    return f"{_encode(body)}.{_encode(sign(secret, label, body))}"


def unseal(secret: bytes, label: str, sealed: str) -> Any:
    """The payload of :func:`seal`, which is read only after its signature was verified.

    Raises ValueError("malformed") or ValueError("forged").
    """
    body, dot, signature = sealed.partition(".")
    if not dot:
        raise ValueError("malformed")
    data = _decode(body)
    if not hmac.compare_digest(sign(secret, label, data), _decode(signature)):
        raise ValueError("forged")
    return json.loads(data)


def hashed(secret: bytes, device_id: str) -> str:
    """The keyed hash under which the statistics know a device: 128 bits in hexadecimal digits."""
    return sign(secret, "isplit device id", device_id.encode()).hex()[:32]


def issue(
    secret: bytes,
    device_id: str,
    *,
    days: float,
    group: str | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """A token for a device, valid for ``days``. Raises TokenError if an argument is not valid."""
    check_id(device_id)
    if group is not None and not _is_group(group):
        raise TokenError(
            f"group {group[:80]!r}: expected 1 to {_GROUP_MAX} printable characters",
            reason="group",
        )
    if not (math.isfinite(days) and 0 < days <= MAX_DAYS):
        raise TokenError(
            f"days: expected more than 0 and at most {MAX_DAYS:g}, got {days}", reason="days"
        )
    now = clock()
    payload = [device_id, group, round(now, 3), int(now + days * _DAY_S)]
    return f"{_VERSION}.{seal(secret, _VERSION, payload)}"


def verify(secret: bytes, token: object, *, clock: Callable[[], float] = time.time) -> Device:
    """What a token says. Revocation is not looked at: :meth:`TokenVerifier.verify` does both.

    Raises TokenError with ``details["reason"]`` "malformed", "forged" or "expired".
    """
    if not isinstance(token, str) or not token.isascii() or len(token) > MAX_TOKEN:
        raise _invalid("malformed", f"expected at most {MAX_TOKEN} ASCII characters")
    version, _, sealed = token.partition(".")
    if version != _VERSION:
        raise _malformed()
    try:
        device_id, group, issued, expires = unseal(secret, _VERSION, sealed)
    except ValueError as error:
        if str(error) == "forged":
            raise _invalid("forged", "it was not signed with this server's secret") from None
        raise _malformed() from None
    if clock() >= expires:
        raise _invalid("expired", f"it was valid until {date(expires)}")
    return Device(device_id, hashed(secret, device_id), group, issued, expires)


def peek(token: str) -> Claims:
    """What a token claims. It is not verified, only fit for display.

    Raises TokenError.
    """
    version, _, sealed = token.strip().partition(".")
    if version != _VERSION or len(token.strip()) > MAX_TOKEN:
        raise _malformed()
    try:
        device_id, group, issued, expires = json.loads(_decode(sealed.partition(".")[0]))
        times = (float(issued), int(expires))
        valid = all(0 <= seconds < _MAX_TIME for seconds in times)
        if not valid or not _ID.match(device_id) or not (group is None or _is_group(group)):
            raise ValueError("malformed")
    except (ValueError, TypeError, OverflowError) as error:
        raise _malformed() from error
    return Claims(device_id, group, *times)


def check_id(device_id: object) -> str:
    """The id, if it can be one. Raises TokenError."""
    if not isinstance(device_id, str) or not _ID.match(device_id):
        raise TokenError(
            f"device id {str(device_id)[:80]!r}: expected 1 to 64 letters, digits, "
            "'.', '_', ':', '@', '-'",
            reason="id",
        )
    return device_id


def _is_group(group: object) -> bool:
    return isinstance(group, str) and 0 < len(group) <= _GROUP_MAX and group.isprintable()


def date(seconds: float) -> str:
    """A time in seconds since the epoch, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _malformed() -> TokenError:
    return _invalid("malformed", f"expected {_VERSION}.<payload>.<signature>")


def _invalid(reason: str, explanation: str) -> TokenError:
    return TokenError(f"device token: {reason}; {explanation}", reason=reason)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """The bytes of :func:`_encode`. Raises ValueError("malformed") for any other text: a decoder
    that ignores spare bits would take several texts for one.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("malformed") from None
    if _encode(data) != text:
        raise ValueError("malformed")
    return data
