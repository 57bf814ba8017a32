"""The link of a device, estimated from its own requests.

A request of n bytes takes the network

    rtt + n * 8 / bandwidth

milliseconds. Both are unknown and change, so :class:`LinkFilter` keeps a probability for each pair
of a grid. An observed time multiplies it by a likelihood with heavy tails, so that a single outlier
moves the estimate little and two that agree move it far. Before each observation a part of the
probability returns to the prior, more after a longer pause: links change while nobody looks. This
is the forward step of a hidden Markov model (Rabiner, *Proc. IEEE* 1989, eq. 20).

Bodies of a few KB tell little about bandwidth. Then its distribution stays wide, and the estimate
says that the bandwidth is unknown instead of inventing a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

BANDWIDTHS_MBPS: Final = np.geomspace(0.01, 1000.0, 36)
"""The bandwidths of the grid, a factor 1.39 apart."""
RTTS_MS: Final = np.geomspace(0.5, 5000.0, 45)
"""The round trips of the grid, a factor 1.23 apart."""
DEFAULT_BANDWIDTH_MBPS: Final = 20.0
DEFAULT_RTT_MS: Final = 20.0

_BANDWIDTH_SPREAD: Final = 1.5
"""Standard deviation of the prior of log bandwidth: a factor 4.5 either way."""
_RTT_SPREAD: Final = 0.8
_NOISE: Final = 0.2
"""Scale of the observed time's error, in log."""
_TAILS: Final = 3.0
"""Degrees of freedom of Student's t: few, so that outliers count little."""
_JUMP: Final = 0.03
"""Probability that the link changed between two requests, however close they are."""
_HALF_LIFE_S: Final = 20.0
"""After so long without a request, half of the probability is back at the prior."""
_DRIFT: Final = 0.1
"""Share that moves to each neighbouring cell before an observation."""
_KNOWN_SPAN: Final = 4.0
"""Bandwidth and round trip are known where their 80 % intervals span less than this factor."""
_STALLED: Final = 0.02
"""The chance that a request stalls for a reason that says nothing about the link."""
_SHORTEST_MS: Final = 1e-3
_LONGEST_MS: Final = 1e7
_MOST_BYTES: Final = 1e12


class Link(Protocol):
    """What a decision needs to know about a link."""

    def expected_ms(self, nbytes: F64) -> F64:
        """Expected milliseconds on the network of requests of these sizes, shape (n,)."""

    def probability_within(self, nbytes: F64, limits_ms: F64) -> F64:
        """The probability that each request takes at most its limit, shape (n,)."""


@dataclass(frozen=True, slots=True)
class FixedLink:
    """A link whose bandwidth and round trip are known exactly."""

    bandwidth_mbps: float
    rtt_ms: float

    def expected_ms(self, nbytes: F64) -> F64:
        """See :meth:`Link.expected_ms`."""
        return np.asarray(self.rtt_ms + nbytes * 8 / (1000 * self.bandwidth_mbps))

    def probability_within(self, nbytes: F64, limits_ms: F64) -> F64:
        """See :meth:`Link.probability_within`: 0 or 1."""
        return (self.expected_ms(nbytes) <= limits_ms).astype(np.float64)


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """What is known of a link: medians with their 80 % intervals.

    Attributes:
        bandwidth_known: whether the interval of the bandwidth spans less than a factor 4. Requests
            of a few KB alone cannot tell it.
        rtt_known: the same for the round trip.
        observations: requests behind the estimate, old ones included.
    """

    bandwidth_mbps: float
    bandwidth_low: float
    bandwidth_high: float
    rtt_ms: float
    rtt_low: float
    rtt_high: float
    bandwidth_known: bool
    rtt_known: bool
    observations: int

    def __str__(self) -> str:
        bandwidth = f"{self.bandwidth_mbps:.3g} Mbit/s"
        if not self.bandwidth_known:
            low, high = (_rounded(mbps) for mbps in (self.bandwidth_low, self.bandwidth_high))
            bandwidth = f"bandwidth not known yet (likely {low} to {high} Mbit/s)"
        return f"{bandwidth}, {self.rtt_ms:.3g} ms round trip, {self.observations} requests"


def _rounded(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


class LinkFilter:
    """The probability of each bandwidth and round trip, given the requests so far.

    Parameters:
        bandwidth_mbps, rtt_ms: the medians of the prior, such as a recommendation's link.

    Raises:
        ValueError: one of them is not a positive number.
    """

    def __init__(
        self,
        bandwidth_mbps: float = DEFAULT_BANDWIDTH_MBPS,
        rtt_ms: float = DEFAULT_RTT_MS,
    ) -> None:
        for name, value in (("bandwidth_mbps", bandwidth_mbps), ("rtt_ms", rtt_ms)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value!r}")
        self._prior = np.outer(
            _log_normal(RTTS_MS, rtt_ms, _RTT_SPREAD),
            _log_normal(BANDWIDTHS_MBPS, bandwidth_mbps, _BANDWIDTH_SPREAD),
        )
        self._probability = self._prior
        self._at_s: float | None = None
        self._observations = 0

    def observe(self, nbytes: float, ms: float, at_s: float) -> None:
        """Take in a finished request.

        Parameters:
            nbytes: bytes of its body.
            ms: milliseconds on the network: the round trip without the server's own times.
            at_s: seconds on a clock that does not go back. If it does, no time has passed.

        A request with an impossible size or time is ignored.
        """
        if not _is_possible(nbytes, ms):
            return
        error = np.log(ms / _times_ms(nbytes)) / _NOISE
        self._update(_student(error), at_s)

    def observe_longer(self, nbytes: float, ms: float, at_s: float) -> None:
        """Take in a request that was given up after ``ms`` milliseconds without an answer."""
        if not _is_possible(nbytes, ms):
            return
        self._update(_STALLED + 1 - _at_most(_times_ms(nbytes), ms), at_s)

    def expected_ms(self, nbytes: F64) -> F64:
        """See :meth:`Link.expected_ms`."""
        rtt = float(self._probability.sum(axis=1) @ RTTS_MS)
        ms_of_a_byte = float(self._probability.sum(axis=0) @ (8 / (1000 * BANDWIDTHS_MBPS)))
        return np.asarray(rtt + nbytes * ms_of_a_byte)

    def probability_within(self, nbytes: F64, limits_ms: F64) -> F64:
        """See :meth:`Link.probability_within`."""
        within = np.zeros(len(nbytes))
        for index, (size, limit_ms) in enumerate(zip(nbytes, limits_ms, strict=True)):
            if limit_ms > _SHORTEST_MS:
                share = _at_most(_times_ms(float(size)), float(limit_ms))
                within[index] = float((self._probability * share).sum())
        return within

    def estimate(self) -> LinkEstimate:
        """Medians and 80 % intervals."""
        bandwidths = _quantiles(BANDWIDTHS_MBPS, self._probability.sum(axis=0))
        rtts = _quantiles(RTTS_MS, self._probability.sum(axis=1))
        return LinkEstimate(
            bandwidth_mbps=bandwidths[1],
            bandwidth_low=bandwidths[0],
            bandwidth_high=bandwidths[2],
            rtt_ms=rtts[1],
            rtt_low=rtts[0],
            rtt_high=rtts[2],
            bandwidth_known=bandwidths[2] < _KNOWN_SPAN * bandwidths[0],
            rtt_known=rtts[2] < _KNOWN_SPAN * rtts[0],
            observations=self._observations,
        )

    def pass_time(self, at_s: float) -> None:
        """Let the estimate age up to ``at_s``: without requests it returns to the prior."""
        if self._at_s is not None and at_s > self._at_s:
            stays = 2.0 ** (-(at_s - self._at_s) / _HALF_LIFE_S)
            self._probability = stays * self._probability + (1 - stays) * self._prior
        self._at_s = at_s if self._at_s is None else max(at_s, self._at_s)

    def _update(self, likelihood: F64, at_s: float) -> None:
        self.pass_time(at_s)
        before = (1 - _JUMP) * _drifted(self._probability) + _JUMP * self._prior
        posterior = before * likelihood
        self._probability = posterior / posterior.sum()
        self._observations += 1


def _is_possible(nbytes: float, ms: float) -> bool:
    return 0 <= nbytes < _MOST_BYTES and _SHORTEST_MS <= ms <= _LONGEST_MS


def _times_ms(nbytes: float) -> F64:
    """Milliseconds of a request for each cell of the grid, (round trips, bandwidths)."""
    return np.asarray(RTTS_MS[:, None] + nbytes * 8 / (1000 * BANDWIDTHS_MBPS))


def _student(error: F64) -> F64:
    """Student's t density without its constant."""
    return np.asarray((1 + error**2 / _TAILS) ** (-(_TAILS + 1) / 2))


def _at_most(times_ms: F64, limit_ms: float) -> F64:
    """The probability that the observed time is at most ``limit_ms``.

    The error of the observed time in log is taken as logistic, which is close to Student's t here
    and needs no logarithm: 1 / (1 + (time / limit) ** 8).
    """
    ratio = times_ms / limit_ms
    fourth = (ratio * ratio) ** 2
    return np.asarray(1 / (1 + fourth * fourth))


def _log_normal(values: F64, median: float, spread: float) -> F64:
    density = np.exp(-0.5 * (np.log(values / median) / spread) ** 2)
    # Medians far outside of the grid would leave nothing but zeros.
    density = density + 1e-12
    return np.asarray(density / density.sum())


def _drifted(probability: F64) -> F64:
    """A share of each cell's probability moves to its neighbours."""
    padded = np.pad(probability, 1, mode="edge")
    moved = (1 - 4 * _DRIFT) * probability
    moved += _DRIFT * (padded[1:-1, 2:] + padded[1:-1, :-2] + padded[2:, 1:-1] + padded[:-2, 1:-1])
    return np.asarray(moved)


def _quantiles(values: F64, probability: F64) -> tuple[float, float, float]:
    """10 %, 50 % and 90 %, interpolated in log between cells."""
    middle = np.cumsum(probability) - probability / 2
    low, median, high = np.exp(np.interp([0.1, 0.5, 0.9], middle, np.log(values)))
    return float(low), float(median), float(high)
