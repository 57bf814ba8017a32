"""What the exit of a cut is worth to a device: the share of its photos that it answers.

A photo that an exit answers is not sent, so that a cut with an exit takes

    own time + (1 - share) * (network + server)

milliseconds on average. The endpoint advises the released share, which is a bound: it is of the
photos with an answer of the exit, and there are photos without. This device sees its own share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from ..schema import Cut

PRIOR_PHOTOS: Final = 4.0
"""How many photos of this device the endpoint's share counts as: few, for it is only a bound."""
MEMORY: Final = 200.0
"""About so many photos back a share reaches: what a device sees changes."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class OptionExit:
    """The exit of an option.

    Attributes:
        version: of the exit.
        classes: that it may answer by itself. What was seen of another version, or with other
            classes, does not count.
        share: of all photos there, those that it answers. Before this device has asked it, the
            endpoint's released share, which for the fleet is at least that.
        tolerance: the share of these answers that may differ from the tail's.
        audit_share: the share of these photos that is sent afterwards all the same.
        refused: why it may not answer; empty if it may.
        seen: photos of this device behind ``share``, besides ``PRIOR_PHOTOS`` of the endpoint's.
    """

    version: str
    classes: tuple[int, ...]
    share: float
    tolerance: float
    audit_share: float = 0.0
    refused: str = ""
    seen: float = 0.0


def exit_refusal(agreement: float, exit_tolerance: float, tolerance: float) -> str:
    """Why the exit of a cut may not answer; empty if it may.

    An exit agrees with the tail, whose answers differ from the full network's by what the cut
    loses. So both add up, and both together must be within the tolerance.

    Parameters:
        agreement: of the cut with the full network; NaN where unknown.
        exit_tolerance: the share of the exit's answers that may differ from the tail's.
        tolerance: the share of answers that may differ from the full network's.
    """
    if math.isnan(agreement):
        return "the agreement of its cut is not known"
    lost = 1 - agreement
    if lost + exit_tolerance <= tolerance + _ROUNDING:
        return ""
    return (
        f"its tolerance of {exit_tolerance:.2%} and the {lost:.2%} that its cut loses are together "
        f"above {tolerance:.2%}"
    )


@dataclass(slots=True)
class _Seen:
    version: str
    classes: tuple[int, ...]
    photos: float = 0.0
    answered: float = 0.0


class ExitShares:
    """What exits answered of the photos of one device, by cut."""

    def __init__(self) -> None:
        self._seen: dict[Cut, _Seen] = {}

    def add(self, cut: Cut, asked: OptionExit, answered: bool) -> None:
        """The exit of a cut was asked about a photo; ``answered``: whether it answered."""
        seen = self._of(cut, asked)
        if seen is None:
            seen = self._seen[cut] = _Seen(asked.version, asked.classes)
        keep = 1 - 1 / MEMORY
        seen.photos = keep * seen.photos + 1
        seen.answered = keep * seen.answered + answered

    def expected(self, cut: Cut, advised: OptionExit | None) -> OptionExit | None:
        """The exit with the share that is expected here.

        ``advised``: with the endpoint's share. ``None``, where there is no exit any more, forgets
        what was seen of it.
        """
        if advised is None:
            self._seen.pop(cut, None)
            return None
        seen = self._of(cut, advised)
        if seen is None:
            return advised
        share = (PRIOR_PHOTOS * advised.share + seen.answered) / (PRIOR_PHOTOS + seen.photos)
        return replace(advised, share=share, seen=seen.photos)

    def _of(self, cut: Cut, exit_: OptionExit) -> _Seen | None:
        seen = self._seen.get(cut)
        if seen is None or (seen.version, seen.classes) != (exit_.version, exit_.classes):
            return None
        return seen
