"""Everything that a device decides by: its link, its own times, pauses after failures, tries.

The adaptive client and the simulator both run this code, the one on a real clock, the other on a
simulated one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..growing_pause import GrowingPause
from ..schema import ON_DEVICE, Cut
from .decision import Decision, Option, decide, patience_ms
from .exits import ExitShares, OptionExit
from .exploration import EXPLORATION, explore
from .link import LinkEstimate, LinkFilter
from .own_times import OwnTimes
from .queue_times import QueueTimes

SERVER_DOWN: Final = "the server failed a moment ago"
"""Why a cut that needs the server is refused after a failure."""
MOST_IN_FLIGHT: Final = 2
"""Requests that may be under way at once while photos are answered on the device."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_PROBE_S: Final = 2.0
"""While every photo is answered here, a request is tried this often to see whether that pays."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with one photo.

    Attributes:
        decision: the cut to take.
        patience_ms: how long after the photo's arrival the device starts to answer by itself;
            ``None`` where it waits for the server without end, or answers at once.
        link_probe: a request to send in the background while the device answers; ``None`` for none.
    """

    decision: Decision
    patience_ms: float | None = None
    link_probe: Option | None = None

    @property
    def option(self) -> Option:
        """The option to take."""
        return self.decision.taken.option


class Decider:
    """Plans for the photos of one device, and what it learns from them.

    It has no clock, no random numbers and no lock of its own: all times are seconds on a clock of
    the caller that does not go back, and one thread at a time may use it.

    Parameters:
        link: the estimate of the link to start with.
        objective: "latency" or "bytes".
        exploration: the probability of a try, see :func:`explore`; 0 for never.
    """

    def __init__(
        self,
        link: LinkFilter | None = None,
        *,
        objective: str = "latency",
        exploration: float = EXPLORATION,
    ) -> None:
        self._link = link or LinkFilter()
        self._times = OwnTimes()
        self._queue = QueueTimes()
        self._exits = ExitShares()
        self._objective = objective
        self._exploration = exploration if objective == "latency" else 0.0
        self._down_until_s = -math.inf
        self._failures = GrowingPause(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._last_request_s = -math.inf
        self._probes = GrowingPause(_PROBE_S, _LONGEST_PAUSE_S)
        self._tries = 0

    @property
    def tries(self) -> int:
        """Photos that went another way than the best, to measure it."""
        return self._tries

    def decide(
        self,
        advised: Sequence[Option],
        now_s: float,
        *,
        deadline_ms: float | None = None,
    ) -> Decision:
        """The best cut now.

        Parameters:
            advised: the cuts with the server's advice as their ``device_ms`` and as the share of
                their exit.
            deadline_ms: what is left of the photo's deadline.
        """
        self._link.pass_time(now_s)
        options = self._options(advised, now_s)
        return decide(options, self._link, deadline_ms=deadline_ms, objective=self._objective)

    def plan(
        self,
        advised: Sequence[Option],
        now_s: float,
        *,
        deadline_ms: float | None = None,
        draw: float = 0.5,
    ) -> Plan:
        """What to do with a photo that has arrived; parameters as of :meth:`decide`.

        ``draw``: a random number, at least 0 and below 1. It decides whether another cut is tried.
        """
        decision = self.decide(advised, now_s, deadline_ms=deadline_ms)
        decision = explore(
            decision, self._link, draw=draw, rate=self._exploration, deadline_ms=deadline_ms
        )
        self._tries += decision.is_try
        if decision.taken.option.is_local:
            return Plan(decision, link_probe=self._probe(decision, now_s))
        self._last_request_s = now_s
        return Plan(decision, patience_ms(decision, deadline_ms))

    def ran(self, cut: Cut, prepare_ms: float, run_ms: float, now_s: float) -> None:
        """The device has run a cut's head and encoding, or the whole network."""
        self._times.add(cut, prepare_ms, run_ms, now_s)

    def asked(self, cut: Cut, asked: OptionExit, answered: bool) -> None:
        """The exit of a cut was asked about a photo, and answered it or did not."""
        self._exits.add(cut, asked, answered)

    def answered(
        self,
        nbytes: float,
        network_ms: float,
        total_ms: float,
        now_s: float,
        *,
        queue_ms: float = 0.0,
    ) -> None:
        """A request was answered.

        Parameters:
            nbytes: of its body.
            network_ms: its round trip without the server's own times.
            total_ms: from the photo to the answer.
            queue_ms: how long it waited at the server.
        """
        self._link.observe(nbytes, max(network_ms, 0.1), now_s)
        self._queue.add(queue_ms, now_s)
        self._down_until_s = -math.inf
        self._failures.reset()
        local_ms = self._times.measured_ms(ON_DEVICE)
        if local_ms is None or total_ms < 2 * local_ms:
            self._probes.reset()

    def late(self, nbytes: float, ms: float, now_s: float) -> None:
        """A request has not been answered after this time."""
        self._link.observe_longer(nbytes, ms, now_s)

    def failed(self, now_s: float) -> float:
        """A request failed. Returns the seconds for which the server is left alone."""
        pause_s = self._failures.grow()
        self._down_until_s = now_s + pause_s
        return pause_s

    def down_s(self, now_s: float) -> float:
        """Seconds until the server is tried again after a failure; 0 while it is up."""
        return max(0.0, self._down_until_s - now_s)

    def link(self) -> LinkEstimate:
        """What is known of the link."""
        return self._link.estimate()

    def queue_ms(self, now_s: float) -> float:
        """How long a request is expected to wait at the server."""
        return self._queue.expected_ms(now_s)

    def _options(self, advised: Sequence[Option], now_s: float) -> list[Option]:
        expected = self._times.expected(advised, now_s)
        queue_ms = self.queue_ms(now_s)
        options = [
            replace(
                option,
                device_ms=expected[option.cut].ms,
                doubt=expected[option.cut].doubt,
                queue_ms=0.0 if option.is_local else option.round_trips * queue_ms,
                exit=self._exits.expected(option.cut, option.exit),
            )
            for option in advised
        ]
        if self.down_s(now_s) > 0 and any(option.is_local for option in options):
            return [_without_server(option) for option in options]
        return options

    def _probe(self, decision: Decision, now_s: float) -> Option | None:
        """The request that a good link would answer first, if it is time to see whether it is back.

        Its head disturbs the device's own answer least, too. For the fewest bytes, the smallest.
        """
        if now_s < max(self._last_request_s + self._probes.now_s, self._down_until_s):
            return None
        remote = [row.option for row in decision.options if not row.option.is_local]
        usable = [
            option for option in remote if not option.refused or option.refused == SERVER_DOWN
        ]
        self._last_request_s = now_s
        self._probes.grow()
        if self._objective == "bytes":
            return min(usable, key=lambda option: option.nbytes, default=None)
        return min(usable, key=_own_ms, default=None)


def _own_ms(option: Option) -> tuple[float, float]:
    """What a request takes beside the network, the unknown last."""
    ms = option.device_ms + option.at_server_ms
    return (math.inf if math.isnan(ms) else ms), option.nbytes


def _without_server(option: Option) -> Option:
    if option.is_local or option.refused:
        return option
    return replace(option, refused=SERVER_DOWN)
