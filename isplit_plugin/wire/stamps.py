"""Times that servers put on an answer: durations on their own clock, never moments.

No answer is worth less for a time in it: one that cannot be is as if there were none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from .message import find_header
from .parameters import MAX_MS, Scalar

SERVER_TIME: Final = "isplit-server-ms"
"""The HTTP header in which a forwarder says how long TorchServe took: from the last byte of the
request to the answer."""
_LONGEST_TEXT: Final = 32


def write_server_time(ms: float) -> str:
    """The value of the header :data:`SERVER_TIME`."""
    return f"{max(ms, 0.0):.3f}"


def read_server_time(headers: Mapping[str, str]) -> float:
    """The milliseconds in the header :data:`SERVER_TIME`; NaN without one, or for anything else."""
    text = find_header(headers, SERVER_TIME)
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        return math.nan
    try:
        ms = float(text)
    except ValueError:
        return math.nan
    return ms if 0 <= ms <= MAX_MS else math.nan


def read_stamp(parameters: Mapping[str, Scalar], key: str) -> float:
    """A time among the parameters of an answer; 0 without one, or for anything else."""
    value = parameters.get(key)
    if value is None or isinstance(value, bool | str):
        return 0.0
    return float(value) if 0 <= value <= MAX_MS else 0.0
