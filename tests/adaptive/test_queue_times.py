"""How long a request is expected to wait at the server."""

from __future__ import annotations

import math

import pytest

from isplit_plugin.adaptive import Decider, Option, QueueTimes
from isplit_plugin.schema import ON_DEVICE, Cut

SPLIT = Cut("layer2", "dct", 3)
OPTIONS = (Option(SPLIT, 4000, 10, 20), Option(ON_DEVICE, 0, 100, 0))


def test_the_median_of_the_last_five_counts_and_fades() -> None:
    queue = QueueTimes()
    assert queue.expected_ms(0.0) == 0
    for at_s, ms in enumerate((500, 10, 12, 900, 11, 12)):
        queue.add(ms, at_s)
    assert queue.expected_ms(5.0) == 12
    assert queue.expected_ms(25.0) == 6
    assert queue.expected_ms(4.0) == 12  # a clock that went back
    assert queue.expected_ms(1e9) == pytest.approx(0)


@pytest.mark.parametrize("ms", [-1.0, math.nan, math.inf])
def test_a_wait_that_cannot_be_is_ignored(ms: float) -> None:
    queue = QueueTimes()
    queue.add(ms, 0.0)
    assert queue.expected_ms(0.0) == 0


def test_a_long_queue_sends_photos_another_way() -> None:
    """The link stays as it was: the network is not to blame."""
    decider = Decider(exploration=0.0)
    for at_s in range(5):
        decider.answered(4000, 20.0, 60.0, at_s, queue_ms=0.5)
    assert decider.decide(OPTIONS, 5.0).cut == SPLIT
    usual = decider.link().rtt_ms
    for at_s in range(5, 8):
        decider.answered(4000, 20.0, 360.0, at_s, queue_ms=300.0)
    decision = decider.decide(OPTIONS, 8.0)
    assert decision.cut == ON_DEVICE
    by_cut = {row.cut: row for row in decision.options}
    assert by_cut[SPLIT].option.at_server_ms == pytest.approx(320, rel=0.05)
    assert by_cut[SPLIT].network_ms < 60
    assert by_cut[ON_DEVICE].option.at_server_ms == 0
    assert decider.link().rtt_ms == pytest.approx(usual, rel=0.3)
    # Nobody asks any more, so the queue is taken to empty.
    assert decider.decide(OPTIONS, 80.0).cut == SPLIT


def test_a_refining_cut_waits_with_each_request() -> None:
    decider = Decider(exploration=0.0)
    decider.answered(4000, 20.0, 60.0, 0.0, queue_ms=40.0)
    refining = Option(Cut("layer2", "dct", 3, 7), 4000, 10, 20, round_trips=1.5)
    [row] = decider.decide([refining], 0.0).options
    assert row.option.queue_ms == pytest.approx(60)
