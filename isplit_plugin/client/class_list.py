"""The endpoint's list of a model's classes."""

from __future__ import annotations

from typing import Final

from ..errors import ProtocolError, WireError
from ..printable import printable
from ..wire import load_json
from .budget import DEFAULT_TIMEOUT, Timeout
from .recommendations import MAX_ANSWER_BYTES, Subject
from .transport import Token, Transport

MAX_VALUES: Final = 500_000
"""The most values in the JSON of the list, which is enough for 80,000 classes."""


def fetch_classes(
    url: str,
    model: str,
    token: Token = None,
    *,
    version: str | None = None,
    timeout: Timeout = DEFAULT_TIMEOUT,
    deadline: float | None = None,
) -> dict[int, str]:
    """The printable label of each class of a model, by its id.

    Parameters and errors are those of :func:`fetch_recommendation`.
    """
    transport = Transport(url, token=token, timeout=timeout, deadline=deadline)
    try:
        path = Subject(model, version).path("classes")
        reply = transport.get(path, max_bytes=MAX_ANSWER_BYTES)
    finally:
        transport.close()
    labels: dict[int, str] = {}
    try:
        for row in load_json(reply.body, "classes", max_values=MAX_VALUES)["classes"]:
            class_id, label = row["id"], row["label"]
            if type(class_id) is not int or class_id < 0 or not isinstance(label, str):
                raise TypeError("a class is an id and a label")
            labels[class_id] = printable(label)
    except (WireError, LookupError, TypeError) as error:
        raise ProtocolError(
            f"expected the endpoint's list of classes, got another answer ({error})"
        ) from error
    return labels
