"""The JSON body of a request to the endpoint, parsed once and bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from ...errors import QueryError
from ..replies import request_body

MAX_BODY: Final = 262_144


def json_body(row: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """The object of a JSON body, ``None`` without a body. Raises QueryError."""
    body = request_body(row)
    if isinstance(body, bytes | bytearray | memoryview):
        if not len(body):
            return None
        if len(body) > MAX_BODY:
            raise QueryError(
                f"body: expected at most {MAX_BODY} bytes, got {len(body)}", field="body"
            )
        try:
            body = json.loads(bytes(body), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise QueryError(
                f"body: expected a JSON object with Content-Type application/json ({error})",
                field="body",
            ) from error
    if body is not None and not isinstance(body, Mapping):
        raise QueryError(f"body: expected a JSON object, got {type(body).__name__}", field="body")
    return body


def read_text(name: str, value: object, limit: int) -> str:
    """A text of 1 to ``limit`` printable characters. Raises QueryError with the field ``name``.

    Printable leaves out NUL, which a database may refuse, and lone surrogates, which UTF-8 cannot
    express.
    """
    if not isinstance(value, str) or not 0 < len(value) <= limit or not value.isprintable():
        raise QueryError(
            f"{name}: expected 1 to {limit} printable characters, got {show(value)}", field=name
        )
    return value


def check_name(name: object, names: Sequence[str], where: str) -> None:
    """Raises QueryError where ``name`` is not one of ``names``."""
    if name not in names:
        known = ", ".join(names)
        raise QueryError(f"{where}: unknown field {show(name)}; known: {known}", field=show(name))


def show(value: object) -> str:
    """A value of a client, short enough for a message."""
    try:
        text = value if isinstance(value, str) else str(value)
    except RecursionError:  # lists within lists
        text = type(value).__name__
    return repr(text[:100])[:100]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
