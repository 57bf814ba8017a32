"""Rates and simultaneous requests, on a clock of the test's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import RateLimitError, ServerBusyError
from isplit_plugin.forwarder import Limits
from isplit_plugin.forwarder.budgets import Budgets


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(budgets: Budgets, device: str = "a") -> int | None:
    """``None`` if the request may run, else the seconds after which to try again."""
    try:
        with budgets.request(device):
            return None
    except RateLimitError as error:
        return int(error.details["retry_after_s"])


def test_a_rate_over_time() -> None:
    clock = Clock()
    budgets = Budgets(Limits(rate=0.5, burst=3.0), clock)
    assert [ask(budgets) for _ in range(5)] == [None, None, None, 2, 2]
    assert ask(budgets, "b") is None
    clock.now = 1.5
    assert ask(budgets) == 1
    clock.now = 2.0
    assert [ask(budgets) for _ in range(2)] == [None, 2]
    clock.now = 1_000.0
    assert [ask(budgets) for _ in range(4)] == [None, None, None, 2]


@given(st.floats(0.1, 100), st.integers(1, 50), st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_no_device_exceeds_its_rate(rate: float, burst: int, pauses: list[float]) -> None:
    clock = Clock()
    budgets = Budgets(Limits(rate=rate, burst=float(burst)), clock)
    admitted = 0
    for pause in pauses:
        clock.now += pause
        admitted += ask(budgets) is None
    assert admitted <= math.floor(burst + rate * clock.now + 1e-6)


def test_what_ran_makes_room_again() -> None:
    budgets = Budgets(Limits(requests_per_device=1, requests=2))
    with budgets.request("a"), budgets.request("b"):
        with pytest.raises(RateLimitError, match="at most 1 requests of one device"):
            budgets.request("a").__enter__()
        with pytest.raises(ServerBusyError, match="as many as allowed") as caught:
            budgets.request("c").__enter__()
        assert type(caught.value) is ServerBusyError
    with budgets.request("a"), budgets.request("c"):
        pass
    with pytest.raises(ZeroDivisionError), budgets.request("a"):
        raise ZeroDivisionError
    with budgets.request("a"), budgets.request("b"):
        pass
