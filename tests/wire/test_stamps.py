"""How long a server took, in a header that anybody may have written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.wire import SERVER_TIME, read_server_time, write_server_time


@given(st.floats(0, 3_600_000))
def test_a_time_arrives_to_the_microsecond(ms: float) -> None:
    read = read_server_time({SERVER_TIME.title(): write_server_time(ms)})
    assert read == pytest.approx(ms, abs=0.001)


@given(st.text() | st.floats().map(str))
def test_anything_else_is_no_time(text: str) -> None:
    ms = read_server_time({SERVER_TIME: text})
    assert math.isnan(ms) or 0 <= ms <= 3_600_000


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "-inf", "1e300", "soon", "1" * 33, "0x1"])
def test_impossible_times(text: str) -> None:
    assert math.isnan(read_server_time({SERVER_TIME: text}))


def test_a_clock_that_went_back_took_no_time() -> None:
    assert write_server_time(-0.2) == "0.000"
    assert math.isnan(read_server_time({}))
