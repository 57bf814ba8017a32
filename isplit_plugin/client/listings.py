"""What the endpoint lists of a model, asked for over a connection that is closed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ProtocolError, WireError
from ..wire import load_json
from .budget import Timeout
from .recommendations import MAX_ANSWER_BYTES, Subject
from .transport import Token, Transport

_Listing = TypeVar("_Listing")


def fetch_listing(
    url: str,
    subject: Subject,
    topic: str,
    read: Callable[[Any], _Listing],
    *,
    token: Token,
    max_values: int,
    timeout: Timeout,
    deadline: float | None,
) -> _Listing:
    """The endpoint's answer about a topic, as ``read`` makes it of the JSON.

    Parameters:
        topic: of the question, such as "classes".
        read: raises a WireError, LookupError or TypeError for what it does not expect.
        max_values: the most values in the JSON.

    Raises as :func:`fetch_recommendation`.
    """
    transport = Transport(url, token=token, timeout=timeout, deadline=deadline)
    try:
        reply = transport.get(subject.path(topic), max_bytes=MAX_ANSWER_BYTES)
    finally:
        transport.close()
    try:
        return read(load_json(reply.body, topic, max_values=max_values))
    except (WireError, LookupError, TypeError) as error:
        raise ProtocolError(
            f"expected the endpoint's list of {topic}, got another answer ({error})"
        ) from error
