"""Pauses between tries."""

from __future__ import annotations

from isplit_plugin.growing_pause import GrowingPause


def test_pauses_double_up_to_the_longest_and_begin_again() -> None:
    pause = GrowingPause(2.0, 15.0)
    assert [pause.grow() for _ in range(5)] == [2, 4, 8, 15, 15]
    pause.reset()
    assert pause.now_s == 2
    assert pause.grow() == 2


def test_the_shortest_is_no_longer_than_the_longest() -> None:
    pause = GrowingPause(5.0, 1.0)
    assert [pause.grow() for _ in range(2)] == [1, 1]
