"""Quality of service before deployment: a profile, a link and photos in, latency and misses out.

Each cut of the profile, the adaptive client and an oracle run through the same photos on the same
link. The adaptive client is simulated with its own code (:mod:`isplit_plugin.adaptive`).
"""

from __future__ import annotations

from .comparison import (
    ADAPTIVE,
    ORACLE,
    PolicyResult,
    adaptive_policy,
    best_fixed,
    compare,
    summary,
    undominated,
)
from .exits import with_exits
from .kernel import Device, Photo, PolicyFactory, Run, arrivals_ms, simulate
from .policies import Adaptive, Choice, Fixed, Oracle, Policy
from .proxy import SlowProxy
from .scenario import Scenario, options_of, useful
from .uplink import ConstantUplink, TraceUplink, Uplink, UplinkQueue, swinging_trace

__all__ = [
    "ADAPTIVE",
    "ORACLE",
    "Adaptive",
    "Choice",
    "ConstantUplink",
    "Device",
    "Fixed",
    "Oracle",
    "Photo",
    "Policy",
    "PolicyFactory",
    "PolicyResult",
    "Run",
    "Scenario",
    "SlowProxy",
    "TraceUplink",
    "Uplink",
    "UplinkQueue",
    "adaptive_policy",
    "arrivals_ms",
    "best_fixed",
    "compare",
    "options_of",
    "simulate",
    "summary",
    "swinging_trace",
    "undominated",
    "useful",
    "with_exits",
]
