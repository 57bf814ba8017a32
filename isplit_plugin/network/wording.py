"""Parts of error messages that several modules share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LISTED: Final = 8
_LONGEST: Final = 500


def listing(names: Sequence[str], limit: int = _LISTED) -> str:
    """The first names with commas, and dots if there are more than ``limit``."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message that is not empty."""
    lines = (line.strip() for line in str(error).splitlines())
    text = next((line for line in lines if line), "")
    return f"{type(error).__name__}: {text[:_LONGEST]}"
