"""What decides in a simulation: a fixed cut, the adaptive client's own code, or an oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..adaptive import Decider, Option, Plan
from ..schema import Cut
from .uplink import Uplink


@dataclass(frozen=True, slots=True)
class Choice:
    """The cut for a photo.

    Attributes:
        cut: what to do. Where the cut has an exit that may answer, it is asked.
        hedged_by: what to do where the server does not answer within ``patience_ms``; ``None`` for
            waiting without end.
        link_probe: a request to send in the background; ``None`` for none.
    """

    cut: Cut
    hedged_by: Cut | None = None
    patience_ms: float = math.inf
    link_probe: Cut | None = None


class Policy(Protocol):
    """Chooses the cut for each photo of one device and learns how the requests went."""

    def choose(self, now_ms: float, left_ms: float | None) -> Choice:
        """The choice for a photo; ``left_ms``: what is left of its deadline."""

    def ran(self, cut: Cut, device_ms: float, now_ms: float) -> None:
        """The device has run a cut's head, or the whole network, in this time."""

    def asked(self, cut: Cut, answered: bool) -> None:
        """The exit of a cut was asked about a photo, and answered it or did not."""

    def answered(
        self,
        nbytes: float,
        network_ms: float,
        total_ms: float,
        now_ms: float,
        *,
        queue_ms: float,
    ) -> None:
        """A request was answered.

        Parameters:
            network_ms: on the network.
            total_ms: from the photo to the answer.
            queue_ms: how long it waited at the server.
        """

    def late(self, nbytes: float, network_ms: float, now_ms: float) -> None:
        """A request has not been answered after this time on the network."""


class _Unlearning:
    """A policy that has nothing to learn."""

    def ran(self, cut: Cut, device_ms: float, now_ms: float) -> None:
        """See :meth:`Policy.ran`."""

    def asked(self, cut: Cut, answered: bool) -> None:
        """See :meth:`Policy.asked`."""

    def answered(
        self,
        nbytes: float,
        network_ms: float,
        total_ms: float,
        now_ms: float,
        *,
        queue_ms: float,
    ) -> None:
        """See :meth:`Policy.answered`."""

    def late(self, nbytes: float, network_ms: float, now_ms: float) -> None:
        """See :meth:`Policy.late`."""


@dataclass(frozen=True)
class Fixed(_Unlearning):
    """Always the same cut."""

    cut: Cut

    def choose(self, now_ms: float, left_ms: float | None) -> Choice:
        """See :meth:`Policy.choose`."""
        return Choice(self.cut)


@dataclass(frozen=True)
class Adaptive:
    """The adaptive client's own code, on a simulated clock.

    Attributes:
        advised: the options as the server advises them.
        decider: what the device decides by.
        draw: returns random numbers, at least 0 and below 1, for tries.
    """

    advised: tuple[Option, ...]
    decider: Decider = field(default_factory=Decider)
    draw: Callable[[], float] = lambda: 0.5

    def choose(self, now_ms: float, left_ms: float | None) -> Choice:
        """See :meth:`Policy.choose`."""
        # A deadline that has passed already is one that nothing can meet.
        deadline_ms = None if left_ms is None else max(left_ms, 1e-3)
        plan = self.decider.plan(
            self.advised, now_ms / 1000, deadline_ms=deadline_ms, draw=self.draw()
        )
        return _choice(plan)

    def ran(self, cut: Cut, device_ms: float, now_ms: float) -> None:
        """See :meth:`Policy.ran`."""
        self.decider.ran(cut, 0.0, device_ms, now_ms / 1000)

    def asked(self, cut: Cut, answered: bool) -> None:
        """See :meth:`Policy.asked`."""
        advised = next(option.exit for option in self.advised if option.cut == cut)
        if advised is not None:
            self.decider.asked(cut, advised, answered)

    def answered(
        self,
        nbytes: float,
        network_ms: float,
        total_ms: float,
        now_ms: float,
        *,
        queue_ms: float,
    ) -> None:
        """See :meth:`Policy.answered`."""
        self.decider.answered(nbytes, network_ms, total_ms, now_ms / 1000, queue_ms=queue_ms)

    def late(self, nbytes: float, network_ms: float, now_ms: float) -> None:
        """See :meth:`Policy.late`."""
        self.decider.late(nbytes, network_ms, now_ms / 1000)


def _choice(plan: Plan) -> Choice:
    probe = None if plan.link_probe is None else plan.link_probe.cut
    if plan.patience_ms is None:
        return Choice(plan.option.cut, link_probe=probe)
    local = next(row.cut for row in plan.decision.options if row.option.is_local)
    return Choice(plan.option.cut, local, plan.patience_ms)


@dataclass(frozen=True)
class Oracle(_Unlearning):
    """Knows the trace, and takes what would be fastest on an idle server.

    Attributes:
        offset_ms: where in the trace the device starts.
    """

    options: tuple[Option, ...]
    uplink: Uplink
    rtt_ms: float
    offset_ms: float

    def choose(self, now_ms: float, left_ms: float | None) -> Choice:
        """See :meth:`Policy.choose`."""
        return Choice(min(self.options, key=lambda o: self._latency_ms(o, now_ms)).cut)

    def _latency_ms(self, option: Option, now_ms: float) -> float:
        if option.is_local:
            return option.device_ms
        start_ms = now_ms + self.offset_ms + option.device_ms
        network_ms = self.uplink.finish_ms(start_ms, option.nbytes) - start_ms + self.rtt_ms
        return option.device_ms + (1 - option.exit_share) * (network_ms + option.server_ms)
