"""The decision: which cut to take for one photo.

Local computing, remote computing and split computing are all cuts, so one comparison decides
between them. The expected latency of a cut is

    head and encoding on the device + network + queue, decoding and tail on the server

as in Neurosurgeon (Kang et al., *ASPLOS* 2017), with the network's part from :mod:`.link`. Where
an exit answers a share of the photos, only the others need network and server (:mod:`.exits`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..schema import OBJECTIVES, OUTPUT, Cut
from .exits import OptionExit
from .link import Link

SURE: Final = 0.95
"""A cut surely meets a deadline if it does so with at least this probability."""
_MARGIN: Final = 1.2
"""The local answer is started this much earlier than its usual time requires."""


@dataclass(frozen=True, slots=True)
class Option:
    """A cut that a device could take, and what it costs there.

    Attributes:
        nbytes: bytes of the request; 0 at `output`.
        device_ms: head and encoding on this device.
        server_ms: decoding and tail on the server.
        agreement: share of photos whose top-1 class equals the full network's; NaN where unknown.
        refused: why the cut may not be taken, such as too little agreement; empty if it may.
        doubt: the factor by which ``device_ms`` may be wrong, either way; 1 where it is known.
        queue_ms: how long its requests wait at the server.
        round_trips: how many requests a photo takes on average, more than 1 at a refining cut. Its
            bytes and times are those of all of them.
        exit: the exit that is released at the cut; ``None`` where there is none.
    """

    cut: Cut
    nbytes: float
    device_ms: float
    server_ms: float
    agreement: float = math.nan
    refused: str = ""
    doubt: float = 1.0
    round_trips: float = 1.0
    queue_ms: float = 0.0
    exit: OptionExit | None = None

    @property
    def is_local(self) -> bool:
        """Whether nothing is sent."""
        return self.cut.split_point == OUTPUT

    @property
    def at_server_ms(self) -> float:
        """Queue, decoding and tail; 0 where nothing is sent."""
        return 0.0 if self.is_local else self.queue_ms + self.server_ms

    @property
    def may_exit(self) -> bool:
        """Whether an exit may answer photos there."""
        return self.exit is not None and not self.exit.refused

    @property
    def exit_share(self) -> float:
        """The share of photos that an exit answers: they wait for neither network nor server."""
        return self.exit.share if self.exit is not None and not self.exit.refused else 0.0

    @property
    def expected_bytes(self) -> float:
        """Bytes of a photo on average: those that an exit answers are sent for audits only."""
        if self.exit is None:
            return self.nbytes
        return self.nbytes * (1 - self.exit_share * (1 - self.exit.audit_share))


@dataclass(frozen=True, slots=True)
class RatedOption:
    """An option with its expected latency and, with a deadline, its chance to meet it.

    Attributes:
        expected_ms: expected latency of one photo.
        in_time: the probability that it meets the deadline; NaN without one.
        reason: why it was taken, or why not.
    """

    option: Option
    expected_ms: float
    in_time: float
    reason: str

    @property
    def cut(self) -> Cut:
        """The option's cut."""
        return self.option.cut

    @property
    def network_ms(self) -> float:
        """What a photo that is sent is expected to take on the network."""
        return self.sent_ms - self.option.device_ms - self.option.at_server_ms

    @property
    def sent_ms(self) -> float:
        """The expected latency of a photo that no exit answers; NaN where an exit answers all."""
        device_ms, share = self.option.device_ms, self.option.exit_share
        if not share:
            return self.expected_ms
        return device_ms + (self.expected_ms - device_ms) / (1 - share) if share < 1 else math.nan


@dataclass(frozen=True, slots=True)
class Decision:
    """The option to take, and all options with the reason why each was taken or not.

    Attributes:
        hopeless: whether even the best option will probably miss the deadline.
        propensity: the probability with which this option was taken, given all that was known.
        is_try: whether it was taken to measure it, although another one was expected to be better.
    """

    taken: RatedOption
    options: tuple[RatedOption, ...]
    hopeless: bool = False
    propensity: float = 1.0
    is_try: bool = False

    @property
    def cut(self) -> Cut:
        """The cut to take."""
        return self.taken.cut


def decide(
    options: Sequence[Option],
    link: Link,
    *,
    deadline_ms: float | None = None,
    objective: str = "latency",
) -> Decision:
    """Choose the cut for one photo.

    The cheapest option is taken: the one of the lowest expected latency, or of the fewest bytes.
    With a deadline, the cheapest of those that meet it with a probability of at least
    :data:`SURE`; if there is none, the likeliest to meet it. Options that are refused are never
    taken, unless all are: then the one that agrees best is, because a photo must be answered.

    Ties go to fewer bytes, then to less work on the device, then to the name of the cut.

    Parameters:
        options: at least one.
        deadline_ms: milliseconds that are left for this photo.
        objective: "latency" or "bytes".

    Raises:
        ValueError: there is no option, the objective is unknown, or the deadline is not a number.
    """
    if not options:
        raise ValueError("expected at least one option, got none")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: expected {' or '.join(OBJECTIVES)}, got {objective!r}")
    if deadline_ms is not None and math.isnan(deadline_ms):
        raise ValueError("deadline_ms: expected a number, got NaN")
    expected = _expected_ms(options, link)
    in_time = _in_time(options, link, deadline_ms)
    allowed = [index for index, option in enumerate(options) if not option.refused]
    if allowed:
        best, why = _best(options, expected, in_time, allowed, objective)
    else:
        best = min(range(len(options)), key=lambda i: (-_known(options[i].agreement), expected[i]))
        why = "no cut is accurate enough; this one agrees best"
    rated = tuple(
        RatedOption(
            option=option,
            expected_ms=float(expected[index]),
            in_time=float(in_time[index]),
            reason=why if index == best else _why_not(index, best, options, expected, in_time),
        )
        for index, option in enumerate(options)
    )
    hopeless = deadline_ms is not None and in_time[best] < 0.5
    return Decision(rated[best], rated, hopeless)


def patience_ms(decision: Decision, deadline_ms: float | None) -> float | None:
    """How long after the photo's arrival the device should start to answer by itself.

    With a deadline, so late that the local answer is ready in time, even if it takes as much longer
    as its doubt says; where it is expected too late but may be in time for all that is known, after
    half of the deadline. Without a deadline, or where it cannot be in time, after as long as the
    local answer takes, or the remote one was expected to, if that is longer: whoever waits as long
    as the alternative costs pays at most twice the better of the two (Karlin et al.,
    *Algorithmica* 1988). Whoever waits has got no answer from an exit.

    Returns ``None`` where the decision is local already, or the device has no local option.
    """
    local = next((rated for rated in decision.options if rated.option.is_local), None)
    if local is None or decision.taken.option.is_local or local.option.refused:
        return None
    doubt = local.option.doubt
    if deadline_ms is not None and deadline_ms >= _MARGIN * local.expected_ms:
        return max(0.0, deadline_ms - _MARGIN * local.expected_ms * doubt)
    if deadline_ms is not None and doubt > 1 and deadline_ms >= _MARGIN * local.expected_ms / doubt:
        return deadline_ms / 2
    sent_ms = decision.taken.sent_ms
    return local.expected_ms if math.isnan(sent_ms) else max(local.expected_ms, sent_ms)


def _expected_ms(options: Sequence[Option], link: Link) -> np.ndarray:
    nbytes = np.array([option.nbytes for option in options], dtype=np.float64)
    network_ms = link.expected_ms(nbytes)
    local = np.array([option.is_local for option in options])
    device_ms = np.array([option.device_ms for option in options])
    server_ms = np.array([option.at_server_ms for option in options])
    more_ms = np.array([max(option.round_trips - 1, 0.0) for option in options]) * _trip_ms(link)
    sent = np.array([1 - option.exit_share for option in options])
    return device_ms + np.where(local, 0.0, sent * (server_ms + network_ms + more_ms))


def _trip_ms(link: Link) -> float:
    """The expected round trip of a request without bytes."""
    return float(link.expected_ms(np.zeros(1))[0])


def _in_time(options: Sequence[Option], link: Link, deadline_ms: float | None) -> np.ndarray:
    if deadline_ms is None:
        return np.full(len(options), math.nan)
    # A photo of a refining cut may need its second request: that must be in time, too.
    second_ms = [_trip_ms(link) if option.round_trips > 1 else 0.0 for option in options]
    left_ms = np.array([deadline_ms - _own_ms(option) for option in options]) - second_ms
    left_ms = np.where(np.isnan(left_ms), -math.inf, left_ms)
    nbytes = np.array([option.nbytes for option in options], dtype=np.float64)
    remote = link.probability_within(nbytes, left_ms)
    here = np.array([option.device_ms <= deadline_ms for option in options]).astype(np.float64)
    share = np.array([1.0 if option.is_local else option.exit_share for option in options])
    return share * here + (1 - share) * remote


def _best(
    options: Sequence[Option],
    expected: np.ndarray,
    in_time: np.ndarray,
    allowed: Sequence[int],
    objective: str,
) -> tuple[int, str]:
    """The index of the option to take, and why."""

    def by_latency(index: int) -> tuple[float, float, float, str]:
        option = options[index]
        return _finite(expected[index]), option.expected_bytes, _own_ms(option), str(option.cut)

    def by_bytes(index: int) -> tuple[float, float, float, str]:
        option = options[index]
        return option.expected_bytes, _finite(expected[index]), _own_ms(option), str(option.cut)

    cost, cheapest = (by_bytes, "fewest bytes") if objective == "bytes" else (by_latency, "fastest")
    if np.isnan(in_time).all():
        return min(allowed, key=cost), cheapest
    sure = [index for index in allowed if in_time[index] >= SURE]
    if sure:
        return min(sure, key=cost), f"{cheapest} of those that surely meet the deadline"
    likeliest = min(allowed, key=lambda index: (-in_time[index], by_latency(index)))
    if in_time[likeliest] <= 0:
        return min(allowed, key=by_latency), "no cut can meet the deadline; this one is fastest"
    return likeliest, "likeliest to meet the deadline"


def _why_not(
    index: int,
    best: int,
    options: Sequence[Option],
    expected: np.ndarray,
    in_time: np.ndarray,
) -> str:
    option, taken = options[index], options[best]
    if option.refused:
        return option.refused
    if math.isnan(expected[index]):
        return "its time is not known"
    if not math.isnan(in_time[index]) and in_time[index] < min(SURE, in_time[best]):
        return f"meets the deadline with probability {in_time[index]:.2f}"
    later_ms = expected[index] - expected[best]
    if later_ms > 0:
        return f"{later_ms:.3g} ms slower than {taken.cut}"
    more = option.expected_bytes - taken.expected_bytes
    if more > 0:
        return f"{more:.0f} bytes more than {taken.cut}"
    return f"no better than {taken.cut}"


def _own_ms(option: Option) -> float:
    """The part of the latency that is not the network's."""
    return option.device_ms + option.at_server_ms


def _finite(value: float) -> float:
    return math.inf if math.isnan(value) else float(value)


def _known(value: float) -> float:
    return -1.0 if math.isnan(value) else value
