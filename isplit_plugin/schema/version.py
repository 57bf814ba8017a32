"""The order of versions."""

from __future__ import annotations

import re


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """What versions are sorted by, as people count: 2.0 before 10.0."""
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts)
