"""The endpoint's list of a model's exits, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..printable import printable_json
from .budget import DEFAULT_TIMEOUT, Timeout
from .listings import fetch_listing
from .recommendations import Subject
from .transport import Token

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
    return fetch_listing(
        url,
        Subject(model, version),
        "exits",
        _read,
        token=token,
        max_values=MAX_VALUES,
        timeout=timeout,
        deadline=deadline,
    )


def _read(raw: Any) -> dict[str, Any]:
    raw = printable_json(raw)
    rows = [row for cut in raw["exits"] for row in (*cut["evidence"], *cut["versions"])]
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError("a class and a version are objects")
    return dict(raw)
