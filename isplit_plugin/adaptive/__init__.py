"""Which cut is best for this photo, on this link, now: an estimate of the link and a decision.

The package does no I/O, has no clock and draws no random numbers: the same observations give the
same decision. The client uses it on a device, the simulator uses it on a simulated clock.
"""

from __future__ import annotations

from .decider import MOST_IN_FLIGHT, SERVER_DOWN, Decider, Plan
from .decision import SURE, Decision, Option, RatedOption, decide, patience_ms
from .exits import PRIOR_PHOTOS, ExitShares, OptionExit, exit_refusal
from .exploration import EXPLORATION, explore, worth_a_try
from .link import FixedLink, Link, LinkEstimate, LinkFilter
from .own_times import OwnTime, OwnTimes
from .queue_times import QueueTimes

__all__ = [
    "EXPLORATION",
    "MOST_IN_FLIGHT",
    "PRIOR_PHOTOS",
    "SERVER_DOWN",
    "SURE",
    "Decider",
    "Decision",
    "ExitShares",
    "FixedLink",
    "Link",
    "LinkEstimate",
    "LinkFilter",
    "Option",
    "OptionExit",
    "OwnTime",
    "OwnTimes",
    "Plan",
    "QueueTimes",
    "RatedOption",
    "decide",
    "exit_refusal",
    "explore",
    "patience_ms",
    "worth_a_try",
]
