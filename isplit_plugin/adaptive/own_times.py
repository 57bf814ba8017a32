"""What each cut costs on this device, from its own predictions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from ..schema import PHOTO_FILE, Cut
from .decision import Option

_WINDOW: Final = 9
"""Predictions of a cut that count. Their median ignores a few slow ones."""
_ENOUGH: Final = 2
"""After so many predictions at a cut its time is known."""
_FRESH_S: Final = 600.0
"""After so long without a prediction at a cut its time is in doubt again: devices heat up."""
_SHORTEST_MS: Final = 0.05
_UNKNOWN_DEVICE: Final = 3.0
_UNKNOWN_CUT: Final = 2.0
_STALE: Final = 1.5


class OwnTime(NamedTuple):
    """What a cut is expected to take on this device.

    Attributes:
        ms: preparation, head and encoding; NaN where neither was measured nor advised.
        doubt: the factor by which it may be wrong, either way; 1 where it was measured.
    """

    ms: float
    doubt: float


class _Slowdown(NamedTuple):
    """``seen_ms``: the advised time of the cuts that the factor comes from."""

    factor: float
    seen_ms: float


@dataclass
class _Measured:
    prepare_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    run_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    at_s: float = -math.inf

    @property
    def ms(self) -> float:
        return median(self.prepare_ms) + median(self.run_ms)


class OwnTimes:
    """Milliseconds of preparation, head and encoding on this device, by cut.

    A cut that was never tried is expected to take the preparation of the others, and what the
    server advises for head and encoding times how much slower this device was than advised at the
    cuts that were tried.
    """

    def __init__(self) -> None:
        self._times: dict[Cut, _Measured] = {}
        self._loaded: set[str] = set()

    def add(self, cut: Cut, prepare_ms: float, run_ms: float, at_s: float) -> None:
        """Take in the time of one prediction.

        The first one at a split point does not count, because it loads the head.

        Parameters:
            prepare_ms: from the photo to the head's input.
            run_ms: head and encoding.
            at_s: seconds on a clock that does not go back.

        Times that are impossible are ignored.
        """
        if not all(math.isfinite(ms) and ms >= 0 for ms in (prepare_ms, run_ms)):
            return
        if cut.split_point in self._loaded:
            measured = self._times.setdefault(cut, _Measured())
            measured.prepare_ms.append(prepare_ms)
            measured.run_ms.append(run_ms)
            measured.at_s = at_s
        self._loaded.add(cut.split_point)

    def measured_ms(self, cut: Cut) -> float | None:
        """The median of the last predictions at a cut; ``None`` if there was none."""
        measured = self._times.get(cut)
        return None if measured is None else measured.ms

    def expected(self, advised: Sequence[Option], now_s: float) -> dict[Cut, OwnTime]:
        """What each cut is expected to take here.

        Parameters:
            advised: the cuts with the server's advice as their ``device_ms``, and its doubt.
        """
        advised_ms = {option.cut: option.device_ms for option in advised}
        slowdown = self._slowdown(advised_ms)
        prepare = [median(m.prepare_ms) for c, m in self._times.items() if c.codec != PHOTO_FILE]
        prepare_ms = median(prepare) if prepare else 0.0
        return {
            option.cut: self._expected(option, slowdown, prepare_ms, now_s) for option in advised
        }

    def _slowdown(self, advised_ms: Mapping[Cut, float]) -> _Slowdown | None:
        """How much slower this device is than advised; ``None`` where no cut was tried."""
        tried = [
            (median(measured.run_ms), advised_ms[cut])
            for cut, measured in self._times.items()
            if advised_ms.get(cut, math.nan) >= _SHORTEST_MS
        ]
        if not tried:
            return None
        seen_ms = sum(ms for _, ms in tried)
        return _Slowdown(sum(own for own, _ in tried) / seen_ms, seen_ms)

    def _expected(
        self,
        option: Option,
        slowdown: _Slowdown | None,
        prepare_ms: float,
        now_s: float,
    ) -> OwnTime:
        cut, advised_ms = option.cut, option.device_ms
        measured = self._times.get(cut)
        if measured is not None:
            enough = len(measured.run_ms) >= _ENOUGH and now_s - measured.at_s < _FRESH_S
            return OwnTime(measured.ms, 1.0 if enough else _STALE)
        prepared_ms = 0.0 if cut.codec == PHOTO_FILE else prepare_ms
        if slowdown is None:
            return OwnTime(prepared_ms + advised_ms, max(_UNKNOWN_DEVICE, option.doubt))
        # A few ms of a photo's encoding tell little about a head that takes a hundred.
        doubt = _UNKNOWN_CUT if slowdown.seen_ms >= advised_ms / 2 else _UNKNOWN_DEVICE
        return OwnTime(prepared_ms + advised_ms * slowdown.factor, max(doubt, option.doubt))
