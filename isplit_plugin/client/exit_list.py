"""The endpoint's list of a model's exits, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import ProtocolError, WireError
from ..printable import printable_json
from ..wire import load_json
from .budget import DEFAULT_TIMEOUT, Timeout
from .recommendations import MAX_ANSWER_BYTES, Subject
from .transport import Token, Transport

MAX_VALUES: Final = 400_000


def fetch_exits(
    url: str,
    model: str,
    token: Token = None,
    *,
    version: str | None = None,
    timeout: Timeout = DEFAULT_TIMEOUT,
    deadline: float | None = None,
) -> Mapping[str, Any]:
    """The exits of a model by cut, with the state of each class, as the endpoint's JSON.

    Parameters and errors are those of :func:`fetch_recommendation`.
    """
    transport = Transport(url, token=token, timeout=timeout, deadline=deadline)
    try:
        path = Subject(model, version).path("exits")
        reply = transport.get(path, max_bytes=MAX_ANSWER_BYTES)
    finally:
        transport.close()
    try:
        raw: Any = printable_json(load_json(reply.body, "exits", max_values=MAX_VALUES))
        rows = [row for cut in raw["exits"] for row in (*cut["evidence"], *cut["versions"])]
        if not all(isinstance(row, dict) for row in rows):
            raise TypeError("a class and a version are objects")
    except (WireError, LookupError, TypeError) as error:
        raise ProtocolError(
            f"expected the endpoint's list of exits, got another answer ({error})"
        ) from error
    return dict(raw)
