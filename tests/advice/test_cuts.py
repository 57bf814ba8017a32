"""How a cut's violation of a limit is worded."""

from __future__ import annotations

import pytest

from isplit_plugin.advice import Constraints
from isplit_plugin.advice.cuts import _violations


@pytest.mark.parametrize(
    ("head_macs", "limit", "text"),
    [
        (5_583_123, 5_583_000.0, "max_head_macs: 5,583,123, limit 5,583,000"),
        (1_000, 500.0, "max_head_macs: 1000, limit 500"),
        (10_001, 10_000.5, "max_head_macs: 10001, limit 10000"),
    ],
)
def test_a_limit_that_is_narrowly_missed_shows_the_difference(
    head_macs: int, limit: float, text: str
) -> None:
    texts, excess = _violations(Constraints(max_head_macs=limit), 1.0, 1.0, head_macs)
    assert texts == (text,)
    assert excess == head_macs / limit - 1
