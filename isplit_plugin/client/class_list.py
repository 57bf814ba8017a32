"""The endpoint's list of a model's classes."""

from __future__ import annotations

from typing import Any, Final

from ..printable import printable
from .budget import DEFAULT_TIMEOUT, Timeout
from .listings import fetch_listing
from .recommendations import Subject
from .transport import Token

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
    return fetch_listing(
        url,
        Subject(model, version),
        "classes",
        _read,
        token=token,
        max_values=MAX_VALUES,
        timeout=timeout,
        deadline=deadline,
    )


def _read(raw: Any) -> dict[int, str]:
    labels: dict[int, str] = {}
    for row in raw["classes"]:
        class_id, label = row["id"], row["label"]
        if type(class_id) is not int or class_id < 0 or not isinstance(label, str):
            raise TypeError("a class is an id and a label")
        labels[class_id] = printable(label)
    return labels
