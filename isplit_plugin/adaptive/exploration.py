"""Exploration: trying a cut whose time on this device is in doubt, rarely, and where it can pay.

A cut that is never taken is never measured, so that a wrong guess of its time would last for ever.
With a small probability, one of the cuts that may be faster is taken instead of the best one. The
probability of what was taken is kept with the decision: whoever averages over photos later can
weight by it (Horvitz & Thompson, *JASA* 1952).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from .decision import SURE, Decision, RatedOption
from .link import Link

EXPLORATION: Final = 0.05
"""The probability of a try, while there is a cut that is worth one."""
_DEAREST: Final = 2.0
"""A try may be expected to take this many times as long as the best option, at most."""


def worth_a_try(
    decision: Decision, link: Link, *, deadline_ms: float | None = None
) -> tuple[RatedOption, ...]:
    """The options that may turn out to be faster than the one that was taken.

    They are allowed, their time is in doubt, and

    - at best they are faster than the option taken, and expected to take at most twice as long
    - at worst they still surely meet the deadline, if there is one
    """
    taken = decision.taken
    if taken.option.refused:
        return ()
    return tuple(
        row
        for row in decision.options
        if row is not taken
        and not row.option.refused
        and row.option.doubt > 1
        and _may_pay(row, taken)
        and (deadline_ms is None or _surely_in_time(row, link, deadline_ms))
    )


def explore(
    decision: Decision,
    link: Link,
    *,
    draw: float,
    rate: float = EXPLORATION,
    deadline_ms: float | None = None,
) -> Decision:
    """The decision, or with probability ``rate`` one that tries another option.

    Each option that is worth a try is as likely as the others. Equal arguments give equal
    decisions.

    Parameters:
        decision: for the lowest latency.
        draw: a random number, at least 0 and below 1.
        deadline_ms: that of the decision.

    Raises:
        ValueError: ``draw`` or ``rate`` is out of range.
    """
    if not 0 <= draw < 1:
        raise ValueError(f"draw: expected at least 0 and below 1, got {draw!r}")
    if not 0 <= rate < 1:
        raise ValueError(f"rate: expected at least 0 and below 1, got {rate!r}")
    rivals = worth_a_try(decision, link, deadline_ms=deadline_ms) if rate > 0 else ()
    if not rivals:
        return decision
    if draw >= rate:
        return replace(decision, propensity=1 - rate)
    rival = rivals[min(int(draw / rate * len(rivals)), len(rivals) - 1)]
    tried = replace(rival, reason=f"tried, because it may be faster than {decision.cut}")
    beaten = replace(decision.taken, reason=f"{tried.cut} is tried for once")
    changed = {id(rival): tried, id(decision.taken): beaten}
    return replace(
        decision,
        taken=tried,
        options=tuple(changed.get(id(row), row) for row in decision.options),
        propensity=rate / len(rivals),
        is_try=True,
    )


def _may_pay(row: RatedOption, taken: RatedOption) -> bool:
    saved_ms = row.option.device_ms * (1 - 1 / row.option.doubt)
    if math.isnan(row.expected_ms) or math.isnan(taken.expected_ms):
        return False
    at_best_ms = row.expected_ms - saved_ms
    return at_best_ms < taken.expected_ms and row.expected_ms <= _DEAREST * taken.expected_ms


def _surely_in_time(row: RatedOption, link: Link, deadline_ms: float) -> bool:
    option = row.option
    left_ms = deadline_ms - option.device_ms * option.doubt
    if option.is_local:
        return left_ms >= 0
    if option.round_trips > 1:  # a photo may need the second request
        left_ms -= float(link.expected_ms(np.zeros(1))[0])
    within = link.probability_within(
        np.array([option.nbytes], dtype=np.float64), np.array([left_ms - option.at_server_ms])
    )
    return bool(within[0] >= SURE)
