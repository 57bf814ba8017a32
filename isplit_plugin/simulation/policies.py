"""What decides in a simulation: a fixed cut, the adaptive client's own code, or an oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from ..adaptive import LinkFilter, Option, decide, patience_ms
from .uplink import Uplink


@dataclass(frozen=True, slots=True)
class Choice:
    """The option for a photo.

    Attributes:
        option: what to do.
        local: what to do where the server does not answer within ``patience_ms``; ``None`` for
            waiting without end.
    """

    option: Option
    local: Option | None = None
    patience_ms: float = math.inf


class Policy(Protocol):
    """Chooses the option for each photo of one device and learns how the requests went."""

    def choose(self, now_ms: float, left_ms: float | None) -> Choice:
        """The option for a photo; ``left_ms``: what is left of its deadline."""

    def answered(self, option: Option, network_ms: float, now_ms: float) -> None:
        """A request was answered after this time on the network."""

    def given_up(self, option: Option, network_ms: float, now_ms: float) -> None:
        """A request was given up after this time on the network."""


@dataclass(frozen=True)
class Fixed:
    """Always the same option."""

    option: Option

    def choose(self, now_ms: float, left_ms: float | None) -> Choice:
        """See :meth:`Policy.choose`."""
        return Choice(self.option)

    def answered(self, option: Option, network_ms: float, now_ms: float) -> None:
        """A fixed option learns nothing."""

    def given_up(self, option: Option, network_ms: float, now_ms: float) -> None:
        """A fixed option learns nothing."""


@dataclass(frozen=True)
class Adaptive:
    """The adaptive client's decision, on its own estimate of the link."""

    options: tuple[Option, ...]
    link: LinkFilter = field(default_factory=LinkFilter)

    def choose(self, now_ms: float, left_ms: float | None) -> Choice:
        """See :meth:`Policy.choose`."""
        self.link.pass_time(now_ms / 1000)
        decision = decide(self.options, self.link, deadline_ms=left_ms)
        patience = patience_ms(decision, left_ms)
        if patience is None:
            return Choice(decision.taken.option)
        local = next(option for option in self.options if option.is_local)
        return Choice(decision.taken.option, local, patience)

    def answered(self, option: Option, network_ms: float, now_ms: float) -> None:
        """See :meth:`Policy.answered`."""
        self.link.observe(option.nbytes, network_ms, now_ms / 1000)

    def given_up(self, option: Option, network_ms: float, now_ms: float) -> None:
        """See :meth:`Policy.given_up`."""
        self.link.observe_longer(option.nbytes, network_ms, now_ms / 1000)


@dataclass(frozen=True)
class Oracle:
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
        return Choice(min(self.options, key=lambda option: self._latency_ms(option, now_ms)))

    def answered(self, option: Option, network_ms: float, now_ms: float) -> None:
        """An oracle has nothing to learn."""

    def given_up(self, option: Option, network_ms: float, now_ms: float) -> None:
        """An oracle has nothing to learn."""

    def _latency_ms(self, option: Option, now_ms: float) -> float:
        if option.is_local:
            return option.device_ms
        start_ms = now_ms + self.offset_ms + option.device_ms
        sent_ms = self.uplink.finish_ms(start_ms, option.nbytes) - self.offset_ms
        return sent_ms - now_ms + self.rtt_ms + option.server_ms
