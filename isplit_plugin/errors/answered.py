"""The error in a server's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import IsplitError
from .servers import ProtocolError


def from_json(body: Mapping[str, Any], *, status: int) -> IsplitError:
    """The error in a server's answer. An unknown code becomes a :class:`ProtocolError`.

    Parameters:
        body: the decoded JSON, as :meth:`IsplitError.to_json` makes it.
        status: the HTTP status of the answer.
    """
    code = body.get("code")
    message = body.get("error")
    details = body.get("details")
    if not isinstance(message, str):
        message = f"HTTP {status} without a message"
    if not isinstance(details, Mapping):
        details = {}
    named_details = {name: value for name, value in details.items() if isinstance(name, str)}
    error = classes_by_code().get(code, ProtocolError) if isinstance(code, str) else ProtocolError
    return error(message, **named_details)


def classes_by_code(root: type[IsplitError] = IsplitError) -> dict[str, type[IsplitError]]:
    """Code -> class, of ``root`` and everything below it."""
    classes = {root.code: root}
    for child in root.__subclasses__():
        classes.update(classes_by_code(child))
    return classes
