"""One importance curve on its way from the backward pass to the store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImportanceSample:
    """The importance curve of one class for one request.

    Attributes:
        class_id: the class whose score was differentiated.
        curve: (P,) importance at each point; NaN before the first known point, finite after it.
        source: who computed it: "tail", "input" or "probe".
        target: what the class is to the request: "predicted" or "true".
        group: the device group.
        at: seconds since the epoch.
        device: the hash of a verified device id; ``None`` without one.
    """

    class_id: int
    curve: npt.ArrayLike
    source: str
    target: str = "predicted"
    group: str = "all"
    at: float
    device: str | None = None
