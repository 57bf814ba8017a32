"""The grid of winners, worked out by hand on a toy with 5 split points."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import advice as toys

from isplit_plugin.advice import SLOWDOWNS, UPLINKS_MBPS, winner_grid, winning_split_points
from isplit_plugin.profile import CutMeasurement, Profile

ALL = (100, 100, 100)
PHOTO = toys.measure("input", "jpeg@90", 16_000, ALL, ALL)
OUTPUT = toys.measure("output", "none", 0, ALL, ALL)
# On a device 64 times slower with 0.5 Mbit/s: 0.5 * 64 + 256 + 20 + 10.25 = 318.25 ms for the photo,
# 640 ms for `output`, 284.25 ms for b and 346.25 ms for d.
B = toys.measure("b", "dct@3", 6_000, ALL, ALL)
D = toys.measure("d", "dct@3", 2_000, ALL, ALL)
E = toys.measure("e", "uint8+zstd", 1_900, ALL, ALL)


def profile(*measurements: CutMeasurement) -> Profile:
    # OUTPUT costs nothing but the network's 10 ms.
    return toys.profile(measurements=measurements)


def test_the_latencies_of_a_cell_by_hand() -> None:
    grid = winner_grid(profile(PHOTO, B, D, OUTPUT), uplinks=(0.5,), slowdowns=(32, 64))
    assert [str(cell.winner.cut) for cell in grid.cells if cell.winner] == ["d:dct@3", "b:dct@3"]
    slow = grid.cells[1]
    assert slow.split is not None
    assert slow.photo is not None
    assert slow.output is not None
    assert slow.split.ms == pytest.approx(2.5 * 64 + 96 + 20 + 8.25)
    assert slow.photo.ms == pytest.approx(0.5 * 64 + 256 + 20 + 10.25)
    assert slow.output.ms == pytest.approx(640)
    assert slow.gain == pytest.approx(318.25 / 284.25)
    assert grid.split_points == {"d": 1, "b": 1}
    assert grid.gains == pytest.approx((318.25 / 284.25, 302.25 / 202.25))


def test_a_fast_device_stays_alone_and_a_fast_link_carries_the_photo() -> None:
    grid = winner_grid(profile(PHOTO, B, D, OUTPUT))
    assert (grid.uplinks, grid.slowdowns) == (UPLINKS_MBPS, SLOWDOWNS)
    assert len(grid.cells) == 49
    alone, fast = grid.cells[0], grid.row(6)[6]
    assert (alone.uplink_mbps, alone.slowdown) == (0.5, 1.0)
    assert alone.winner is alone.output
    assert (fast.uplink_mbps, fast.slowdown) == (50.0, 64.0)
    assert fast.winner is fast.photo
    assert 0 < len(grid.wins) < 49
    assert all(cell.gain > 1 for cell in grid.wins)


def test_only_faithful_cuts_with_known_times_count() -> None:
    wrong = toys.measure("d", "q2+zstd", 10, (90, 90, 90), ALL)
    worse = toys.measure("input", "jpeg@10", 10, (50, 90, 90), ALL)
    measured = profile(PHOTO, worse, wrong, OUTPUT)
    assert all(cell.split is None for cell in winner_grid(measured).cells)
    assert {str(cell.photo.cut) for cell in winner_grid(measured).cells if cell.photo} == {
        "input:jpeg@90"
    }
    timeless = toys.profile(measurements=(PHOTO, B, OUTPUT), head_ms={}, tail_ms={})
    grid = winner_grid(timeless)
    assert all(cell.winner is None for cell in grid.cells)
    assert all(math.isnan(cell.gain) for cell in grid.cells)
    assert winning_split_points(timeless) == ()


def test_a_limit_excludes_the_whole_network_and_late_heads() -> None:
    # The toy's head at d takes 400 of 1,000 MACs.
    grid = winner_grid(profile(PHOTO, B, D, E, OUTPUT), max_head_macs=400)
    assert all(cell.output is None for cell in grid.cells)
    assert set(grid.split_points) == {"b", "d"}
    assert set(winner_grid(profile(PHOTO, B, D, E), max_head_macs=399).split_points) == {"b"}


def test_a_limit_counts_the_head_of_a_bottleneck() -> None:
    bottleneck = toys.measure("e~n4s1d1", "uint8", 100, ALL, ALL)
    heads = {**toys.HEAD_MS, "e~n4s1d1": 4.1}
    tails = {**toys.TAIL_MS, "e~n4s1d1": 5.9}
    measured = toys.profile(measurements=(PHOTO, bottleneck), head_ms=heads, tail_ms=tails)
    assert set(winner_grid(measured).split_points) == {"e~n4s1d1"}
    assert not winner_grid(measured, max_head_macs=400).wins


def test_other_codecs_can_be_left_out_and_doubts_are_told() -> None:
    doubtful = toys.measure("d", "dct@1", 1_000, (19, 20, 20), (20, 20, 20))
    plain = toys.measure("d", "uint8+zstd", 6_000, ALL, ALL)
    measured = profile(PHOTO, doubtful, plain, OUTPUT)
    both = winner_grid(measured)
    first = winner_grid(measured, splits=lambda cut: cut.codec != "dct")
    assert {str(c.split.cut) for c in both.wins if c.split} == {"d:dct@1"}
    assert all(c.split.undecided for c in both.wins if c.split)
    assert {str(c.split.cut) for c in first.wins if c.split} == {"d:uint8+zstd"}
    assert not any(c.split.undecided for c in first.wins if c.split)
    assert len(first.wins) < len(both.wins)


def test_the_split_points_that_pay() -> None:
    # b saves most where devices are slow, d where links are; e saves nothing that they do not.
    assert winning_split_points(profile(PHOTO, B, D, E, OUTPUT)) == ("b", "d")
    assert winning_split_points(profile(PHOTO, B, D, E, OUTPUT), limit=1) == ("b",)
    # One that is only as good as another is not worth a head of its own.
    like_d = toys.measure("c", "dct@3", 2_800, ALL, ALL)
    assert winning_split_points(profile(PHOTO, like_d, D, OUTPUT), limit=3) == ("c",)
    # Against the photo alone a late split pays, too.
    late = profile(PHOTO, toys.measure("e", "dct@3", 9_000, ALL, ALL), OUTPUT)
    assert winning_split_points(late) == ()
    assert winning_split_points(late, has_output=False) == ("e",)


@given(
    nbytes=st.lists(st.floats(1, 1e5), min_size=5, max_size=5),
    photo_bytes=st.floats(1, 1e5),
    rtt_ms=st.floats(0, 500),
)
def test_no_split_wins_beyond_the_yardstick(
    nbytes: list[float], photo_bytes: float, rtt_ms: float
) -> None:
    photo = toys.measure("input", "jpeg@90", photo_bytes, ALL, ALL)
    own = [
        toys.measure(name, "dct@3", n, ALL, ALL) for name, n in zip(toys.NAMES, nbytes, strict=True)
    ]
    measured = profile(photo, *own, OUTPUT)
    shares = {name: 1 - ms / 10 for name, ms in toys.HEAD_MS.items()}
    can_win = {
        name for name, n in zip(toys.NAMES, nbytes, strict=True) if n / photo_bytes < shares[name]
    }
    assert set(winner_grid(measured, rtt_ms=rtt_ms).split_points) <= can_win
