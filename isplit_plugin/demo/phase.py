"""The values that the demo's steps hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..schema import Recommendation


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of traffic.

    Attributes:
        rows: what the device process printed, one dict for each photo (see :mod:`.device`).
        advice: the endpoint's recommendation after the phase, for its classes.
        classes: the true classes of the photos.
    """

    name: str
    rows: tuple[dict[str, Any], ...]
    advice: Recommendation
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scenarios:
    """A table of what the endpoint advises, by uplink (rows) and speed of the device (columns)."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
