"""Refinement: a coarse first answer, and a second request where the tail is not sure of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from .cut import TRANSFORM_CODEC, Cut

COARSE_QUALITY: Final = 3
"""The quality of a first request. It is the same for all networks, so that no photo chooses it."""
FINE_QUALITIES: Final = (5, 6, 7)
"""The qualities of a second request that are measured."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """Whether refining cuts may be used at a split point, and when a photo is sent again.

    An answer's margin is the probability of its first class less that of its second. A photo whose
    coarse answer has a margin of at most ``threshold`` is sent again in the fine quality.

    Attributes:
        threshold: of the margin; NaN where none is proven.
        share: of the calibration photos that are sent again; NaN where none is proven.
        photos: calibration photos that are not, behind the proof.
        differing: those of them whose coarse answer has another class than the full network's.
        bound: with 95 % confidence, at most this share of such answers differs.
        missing: what a proof lacks; empty where there is one.
    """

    split_point: str
    coarse: int
    fine: tuple[int, ...]
    threshold: float
    share: float
    photos: int
    differing: int
    bound: float
    missing: str = ""

    @property
    def is_proven(self) -> bool:
        """Whether refining cuts may be used."""
        return not self.missing

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The refining cuts; none without a proof."""
        if not self.is_proven:
            return ()
        return tuple(
            Cut(self.split_point, TRANSFORM_CODEC, self.coarse, fine) for fine in self.fine
        )

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types; NaN becomes null."""
        raw = asdict(self)
        for name in ("threshold", "share"):
            raw[name] = None if math.isnan(raw[name]) else raw[name]
        return raw | {"fine": list(self.fine)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Refinement:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError, ValueError."""
        missing = str(raw["missing"])
        numbers = {
            name: math.nan if missing else float(raw[name]) for name in ("threshold", "share")
        }
        refinement = cls(
            split_point=str(raw["split_point"]),
            coarse=int(raw["coarse"]),
            fine=tuple(int(quality) for quality in raw["fine"]),
            photos=int(raw["photos"]),
            differing=int(raw["differing"]),
            bound=float(raw["bound"]),
            missing=missing,
            **numbers,
        )
        for name, value in (*numbers.items(), ("bound", refinement.bound)):
            if not missing and not 0 <= value <= 1:
                raise ValueError(f"refinement.{name}: expected a share from 0 to 1, got {value}")
        if not all(refinement.coarse < quality <= 99 for quality in refinement.fine):
            raise ValueError(
                f"refinement.fine: expected qualities above {refinement.coarse}, got "
                f"{refinement.fine}"
            )
        return refinement
