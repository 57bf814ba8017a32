"""Text from the network, made safe to print, to log and to keep.

A terminal obeys escape sequences, and a line break lets one line of a log pass for another.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["MAX_TEXT", "printable", "printable_json"]

MAX_TEXT: Final = 2_000
"""The longest text that is kept, in characters."""

_MARK: Final = "\N{REPLACEMENT CHARACTER}"
_MAX_DEPTH: Final = 16


def printable(text: object, *, limit: int = MAX_TEXT) -> str:
    """The start of a text, with U+FFFD for each character that cannot be printed.

    Control characters, escapes, line breaks, marks that turn the direction of writing, and lone
    surrogates cannot be printed (:meth:`str.isprintable`). A text that was cut ends with "...".
    """
    whole = str(text)
    kept = whole if len(whole) <= limit else f"{whole[: limit - 3]}..."
    if kept.isprintable():
        return kept
    return "".join(c if c.isprintable() else _MARK for c in kept)


def printable_json(value: Any, *, limit: int = MAX_TEXT, depth: int = _MAX_DEPTH) -> Any:
    """A JSON value with every string in it made :func:`printable`, keys included.

    What lies deeper than ``depth`` lists and objects becomes ``None``.
    """
    if isinstance(value, str):
        return printable(value, limit=limit)
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return None
    if isinstance(value, list):
        return [printable_json(item, limit=limit, depth=depth - 1) for item in value]
    return {
        printable(key, limit=limit): printable_json(item, limit=limit, depth=depth - 1)
        for key, item in value.items()
    }
