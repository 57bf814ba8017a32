"""The error in an answer other than 200, which may come from isplit, TorchServe or a proxy."""

from __future__ import annotations

from typing import Any, Final

from .. import errors
from ..errors import (
    AuthenticationError,
    IsplitError,
    ProtocolError,
    ServerBusyError,
    ServerUnavailableError,
    TransportError,
    UnknownModelError,
    UnknownVersionError,
    WireError,
    WireSizeError,
)
from ..printable import printable, printable_json
from ..wire import load_json

MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an answer other than 200 is read."""
MAX_ERROR_VALUES: Final = 2_000
"""The most values in the JSON of an error."""
_SHOWN: Final = 200
_MAX_RETRY_AFTER_S: Final = 24 * 3600.0


def answered_error(status: int, body: bytes, sent: int) -> IsplitError:
    """The error for an answer with this status.

    Its texts are printable and bounded, whatever the server wrote.

    Parameters:
        body: the start of the answer's body.
        sent: bytes of the request's body.
    """
    try:
        parsed: Any = load_json(body, max_values=MAX_ERROR_VALUES)
    except WireError:
        parsed = None
    raw: dict[str, Any] = printable_json(parsed) if isinstance(parsed, dict) else {}
    if isinstance(raw.get("code"), str):
        return errors.from_json(raw, status=status)
    kind = printable(raw.get("type", ""), limit=_SHOWN)
    message = printable(raw.get("message", ""), limit=500)
    answer = f"HTTP {status}: {message or _start(body) or 'no body'}"
    if status == 413:
        return WireSizeError(
            f"the server refused a body of {sent} bytes: more than its max_request_size "
            "(6553500 by default)",
            sent=sent,
        )
    if kind == "InvalidKeyException" or status in (401, 403):
        return AuthenticationError(
            "TorchServe refused the token, or requires one: expected its own token, from its key "
            f"file, or the address of a forwarder, which takes device tokens ({answer})"
        )
    if status == 404 and kind.startswith("ModelVersion"):
        return UnknownVersionError(answer)
    if status == 404 and kind.startswith("Model"):
        return UnknownModelError(answer)
    if status == 503 and "has no worker" in message:
        return ServerBusyError(f"the server's queue is full, or no worker runs ({answer})")
    if status >= 500:
        return ServerUnavailableError(answer)
    return ProtocolError(answer)


def _start(body: bytes) -> str:
    text = body[:_SHOWN].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()


def retry_after_s(error: IsplitError) -> float:
    """The seconds after which a forwarder lets a request be sent again; 0 if it does not say."""
    seconds = error.details.get("retry_after_s")
    if not isinstance(error, TransportError) or not isinstance(seconds, int | float):
        return 0.0
    return float(seconds) if 0 < seconds < _MAX_RETRY_AFTER_S else 0.0
