"""Uplinks: times computed by hand, and traces that are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import QueryError
from isplit_plugin.simulation import ConstantUplink, TraceUplink, swinging_trace


def test_a_constant_rate_by_hand() -> None:
    assert ConstantUplink(4.0).finish_ms(100.0, 5_000) == pytest.approx(110.0)
    assert ConstantUplink(4.0).finish_ms(100.0, 0) == 100.0


def test_a_trace_by_hand() -> None:
    uplink = TraceUplink([2, 5, 10])
    assert uplink.finish_ms(0, 1) == 2  # one packet, the first opportunity
    assert uplink.finish_ms(0, 1500) == 2
    assert uplink.finish_ms(0, 1501) == 5
    assert uplink.finish_ms(2.5, 1500) == 5
    assert uplink.finish_ms(0, 4500) == 10
    assert uplink.finish_ms(0, 6000) == 12  # the trace starts again after 10 ms
    assert uplink.finish_ms(11, 3000) == 15
    assert uplink.finish_ms(23.0, 0) == 23.0
    assert "3.6 Mbit/s" in uplink.describe()


def test_bytes_in_line_use_each_opportunity_once() -> None:
    queue = TraceUplink([2, 5, 5, 10]).queue()
    assert queue.send(0, 1000) == 2
    assert queue.send(0, 500) == 2  # there is room for it in the same opportunity
    assert queue.send(0, 1) == 5
    assert queue.send(0, 1499 + 1500) == 5  # two opportunities at 5 ms
    assert queue.send(1, 3000) == 12  # 10, and 2 in the next round
    assert queue.send(19.5, 1) == 20
    assert queue.send(21, 1) == 22  # what is over is over, room or not


def test_a_constant_uplink_sends_one_after_the_other() -> None:
    queue = ConstantUplink(4.0).queue()
    assert queue.send(100, 5_000) == pytest.approx(110)
    assert queue.send(105, 5_000) == pytest.approx(120)
    assert queue.send(200, 5_000) == pytest.approx(210)


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(lambda times: max(times) > 0),
    st.integers(0, 10_000),
    st.lists(st.integers(1, 4000), min_size=1, max_size=20),
)
def test_many_chunks_take_as_long_as_one(times: list[int], at_ms: int, chunks: list[int]) -> None:
    uplink = TraceUplink(sorted(times))
    queue = uplink.queue()
    ends = [queue.send(at_ms, nbytes) for nbytes in chunks]
    assert ends == sorted(ends)
    if ends[-1] > at_ms:
        assert ends[-1] == uplink.queue().send(at_ms, sum(chunks))


@given(
    st.lists(st.floats(0, 1e3), min_size=1, max_size=30).filter(lambda times: max(times) >= 1e-3),
    st.floats(0, 1e5),
    st.integers(0, 20_000),
    st.integers(0, 20_000),
)
def test_more_bytes_and_later_starts_never_finish_earlier(
    times: list[float], start_ms: float, nbytes: int, more: int
) -> None:
    uplink = TraceUplink(sorted(times))
    finish = uplink.finish_ms(start_ms, nbytes)
    assert finish >= start_ms - 1e-6
    assert uplink.finish_ms(start_ms, nbytes + more) >= finish - 1e-6
    assert uplink.finish_ms(start_ms + more, nbytes) >= finish - 1e-6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected at least one time, got none"),
        ("\n\n", "expected at least one time, got none"),
        ("1\nfast\n3\n", "line 2: expected milliseconds, got 'fast'"),
        ("5\n3\n", "line 2: expected times that do not decrease, got 3 after 5"),
        ("1\n-1\n", "line 2: expected milliseconds of at least 0, got -1"),
        ("nan\n", "line 1: expected milliseconds of at least 0, got nan"),
        ("0\n0\n", "expected a trace of at least 0.001 ms, got 0"),
        ("\u00e9", "not a text file"),
    ],
)
def test_traces_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "link.up"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(QueryError, match=message):
        TraceUplink.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="No such file"):
        TraceUplink.load(tmp_path / "none.up")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "link.up"
    path.write_text("2\n5\n10\n")
    assert TraceUplink.load(path).finish_ms(0, 6000) == 12


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_is_a_positive_number(value: float) -> None:
    with pytest.raises(QueryError, match="expected a positive bandwidth"):
        ConstantUplink(value)


def test_a_made_up_trace_depends_on_its_seed_alone() -> None:
    first, again, other = (swinging_trace(seed) for seed in (1, 1, 2))
    assert first.finish_ms(1000, 1e6) == again.finish_ms(1000, 1e6)
    assert first.finish_ms(1000, 1e6) != other.finish_ms(1000, 1e6)
