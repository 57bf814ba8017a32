"""Which cut is best for this photo, on this link, now: an estimate of the link and a decision.

The package does no I/O and has no clock: the same observations give the same decision. The client
uses it on a device, the simulator uses it on a simulated clock.
"""

from __future__ import annotations

from .decision import SURE, Decision, Option, RatedOption, decide, patience_ms
from .link import FixedLink, Link, LinkEstimate, LinkFilter

__all__ = [
    "SURE",
    "Decision",
    "FixedLink",
    "Link",
    "LinkEstimate",
    "LinkFilter",
    "Option",
    "RatedOption",
    "decide",
    "patience_ms",
]
