"""Uplinks of the simulator: a constant rate, or a recorded trace.

A trace has Mahimahi's format (Netravali et al., *USENIX ATC* 2015): one line for each opportunity
to send 1,500 bytes, in milliseconds from the start, not decreasing. It repeats at its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import QueryError

PACKET_BYTES: Final = 1500
_SHORTEST_MS: Final = 1e-3
MAX_LINES: Final = 10_000_000
"""More lines than this are refused: 3 hours at 12 Mbit/s."""


class Uplink(Protocol):
    """When bytes that a device starts to send have left it."""

    def finish_ms(self, start_ms: float, nbytes: float) -> float:
        """The time at which the last of ``nbytes`` is sent, if nothing else is in the way."""

    def queue(self) -> UplinkQueue:
        """An empty queue of bytes for this uplink, whose clock stands at 0."""

    def describe(self) -> str:
        """The uplink in words, with its mean rate."""


class UplinkQueue(Protocol):
    """The bytes of one device in line for its uplink: first come, first served."""

    def send(self, now_ms: float, nbytes: float) -> float:
        """Put bytes in line now; the time at which the last of them is sent.

        ``now_ms`` may not go back.
        """


@dataclass(frozen=True, slots=True)
class ConstantUplink:
    """A constant rate in megabits per second. Raises QueryError if it is not a positive number."""

    bandwidth_mbps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth_mbps) and self.bandwidth_mbps > 0):
            raise QueryError(
                f"link: expected a positive bandwidth in Mbit/s, got {self.bandwidth_mbps!r}",
                field="link",
            )

    def finish_ms(self, start_ms: float, nbytes: float) -> float:
        """See :meth:`Uplink.finish_ms`."""
        return start_ms + nbytes * 8 / (1000 * self.bandwidth_mbps)

    def queue(self) -> UplinkQueue:
        """See :meth:`Uplink.queue`."""
        return _ConstantQueue(self)

    def describe(self) -> str:
        """See :meth:`Uplink.describe`."""
        return f"{self.bandwidth_mbps:.3g} Mbit/s"


class TraceUplink:
    """A trace that repeats.

    Parameters:
        times_ms: the opportunities, milliseconds, not decreasing.
        name: of the trace, for messages.

    Raises:
        QueryError: there is no opportunity, one is not a number of at least 0, the times decrease,
            or the whole trace takes no time.
    """

    def __init__(self, times_ms: npt.ArrayLike, name: str = "trace") -> None:
        times = np.asarray(times_ms, dtype=np.float64)
        if times.ndim != 1 or not len(times):
            raise QueryError(f"{name}: expected at least one time, got none", field="link")
        valid = np.isfinite(times) & (times >= 0)
        if not valid.all():
            line = int(np.argmin(valid)) + 1
            raise QueryError(
                f"{name}, line {line}: expected milliseconds of at least 0, got {times[line - 1]}",
                field="link",
            )
        falls = np.diff(times) < 0
        if falls.any():
            line = int(np.argmax(falls)) + 2
            raise QueryError(
                f"{name}, line {line}: expected times that do not decrease, got "
                f"{times[line - 1]:g} after {times[line - 2]:g}",
                field="link",
            )
        if times[-1] < _SHORTEST_MS:
            raise QueryError(
                f"{name}: expected a trace of at least {_SHORTEST_MS:g} ms, got {times[-1]:g}",
                field="link",
            )
        self._times = times
        self._name = name

    @classmethod
    def load(cls, path: str | Path) -> TraceUplink:
        """Read a file in Mahimahi's format. Raises QueryError that names the line."""
        where = Path(path)
        try:
            lines = where.read_text(encoding="ascii").split("\n", MAX_LINES + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise QueryError(f"{where}: cannot read the trace ({reason})", field="link") from error
        if len(lines) > MAX_LINES:
            raise QueryError(f"{where}: expected at most {MAX_LINES} lines", field="link")
        times = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                times.append(float(line))
            except ValueError:
                raise QueryError(
                    f"{where.name}, line {number}: expected milliseconds, got {line[:40]!r}",
                    field="link",
                ) from None
        return cls(times, where.name)

    @property
    def period_ms(self) -> float:
        """After so long the trace starts again."""
        return float(self._times[-1])

    def finish_ms(self, start_ms: float, nbytes: float) -> float:
        """See :meth:`Uplink.finish_ms`. A part of an opportunity counts as a whole one."""
        packets = math.ceil(nbytes / PACKET_BYTES)
        if packets <= 0:
            return start_ms
        return self.time_ms(self.first(start_ms) + packets - 1)

    def first(self, at_ms: float) -> int:
        """The number of the first opportunity at this time or later, counted from the start."""
        rounds, offset_ms = divmod(at_ms, self.period_ms)
        index = int(np.searchsorted(self._times, offset_ms, side="left"))
        return int(rounds) * len(self._times) + index

    def time_ms(self, number: int) -> float:
        """When an opportunity comes."""
        rounds, index = divmod(number, len(self._times))
        return float(rounds * self.period_ms + self._times[index])

    def queue(self) -> UplinkQueue:
        """See :meth:`Uplink.queue`."""
        return _TraceQueue(self)

    def describe(self) -> str:
        """See :meth:`Uplink.describe`."""
        mean = len(self._times) * PACKET_BYTES * 8 / (1000 * self.period_ms)
        return f"{self._name}: {mean:.3g} Mbit/s on average, {self.period_ms / 1000:.0f} s"


class _ConstantQueue:
    def __init__(self, uplink: ConstantUplink) -> None:
        self._uplink = uplink
        self._free_ms = 0.0

    def send(self, now_ms: float, nbytes: float) -> float:
        self._free_ms = self._uplink.finish_ms(max(now_ms, self._free_ms), nbytes)
        return self._free_ms


class _TraceQueue:
    """Uses every opportunity once. Bytes that wait share an opportunity with those before them."""

    def __init__(self, uplink: TraceUplink) -> None:
        self._uplink = uplink
        self._free_ms = 0.0
        self._next = 0
        self._room = 0.0

    def send(self, now_ms: float, nbytes: float) -> float:
        if now_ms > self._free_ms:
            self._next = max(self._next, self._uplink.first(now_ms))
            self._free_ms = now_ms
            self._room = 0.0
        rest = nbytes - self._room
        if rest <= 0:
            self._room = -rest
            return self._free_ms
        packets = math.ceil(rest / PACKET_BYTES)
        self._next += packets
        self._room = packets * PACKET_BYTES - rest
        self._free_ms = self._uplink.time_ms(self._next - 1)
        return self._free_ms


def swinging_trace(seed: int, seconds: float = 60.0, mean_mbps: float = 4.0) -> TraceUplink:
    """A made-up trace whose rate swings like that of a moving phone, the same for equal seeds.

    The logarithm of the rate is a random walk that returns to its mean (Ornstein-Uhlenbeck) with a
    time constant of 3 s and a spread of a factor 3, which is about what drives through cellular
    networks show.
    """
    random = np.random.default_rng(seed)
    step_ms = 20.0
    spread = math.log(3.0)
    stays = math.exp(-step_ms / 3000.0)
    level = 0.0
    times: list[float] = []
    credit = 0.0
    for step in range(int(seconds * 1000 / step_ms)):
        level = stays * level + spread * math.sqrt(1 - stays**2) * random.standard_normal()
        rate = mean_mbps * math.exp(level - spread**2 / 2)
        credit += rate * 1000 * step_ms / 8 / PACKET_BYTES
        packets = int(credit)
        credit -= packets
        times += [(step + (k + 1) / (packets + 1)) * step_ms for k in range(packets)]
    return TraceUplink(times or [seconds * 1000], f"swinging trace, seed {seed}")
