"""Views of live traffic with anything in them, for tests that must hold for all."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from isplit_plugin.advice import ClassCounts, ImportanceRows, LiveView, OutcomeRow, ServedRow, Times
from isplit_plugin.schema import Cut


def _floats() -> st.SearchStrategy[float]:
    return st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e6)


@st.composite
def importance(draw: st.DrawFn) -> ImportanceRows:
    ids = draw(st.lists(st.integers(-1, 5), max_size=4, unique=True))
    shape = (len(ids), 5)
    cells = [draw(arrays(np.float64, shape, elements=_floats())) for _ in range(5)]
    return ImportanceRows(
        draw(st.sampled_from(["tail", "input", "probe"])),
        draw(st.sampled_from(["predicted", "true"])),
        np.asarray(ids, np.int64),
        *cells,
    )


_TIMES = st.builds(Times, _floats(), _floats(), _floats())
_CUT = st.builds(
    Cut,
    st.sampled_from(["input", "b", "d", "output", "elsewhere"]),
    st.sampled_from(["fp32", "uint8", "jpeg", "none"]),
)
_SERVED = st.builds(
    ServedRow,
    _CUT,
    st.sampled_from(["all", "phones"]),
    _floats(),
    _floats(),
    _floats(),
    head=_TIMES,
    encode=_TIMES,
    decode=_TIMES,
    tail=_TIMES,
    uplink=_TIMES,
    rtt=_TIMES,
    queue=_TIMES,
)
_OUTCOME = st.builds(
    OutcomeRow, _CUT, st.integers(-1, 4), *(_floats() for _ in OutcomeRow._fields[2:])
)


def outcome(cut: Cut, n: float, correct: float, class_id: int = 0) -> OutcomeRow:
    """Labels that count one by one, all of them of now."""
    return OutcomeRow(cut, class_id, n, n, correct, n, correct, n)


@st.composite
def views(draw: st.DrawFn) -> LiveView:
    ids = draw(st.lists(st.integers(-1, 5), max_size=4))
    shape = (len(ids),)
    return LiveView(
        importance=tuple(draw(st.lists(importance(), max_size=3))),
        served=tuple(draw(st.lists(_SERVED, max_size=4))),
        outcomes=tuple(draw(st.lists(_OUTCOME, max_size=5))),
        class_counts=ClassCounts(
            np.asarray(ids, np.int64),
            draw(arrays(np.float64, shape, elements=_floats())),
            draw(arrays(np.float64, shape, elements=_floats())),
        ),
        revision=draw(st.sampled_from(["", "5e.1", "5e.2"])),
        as_of=draw(st.none() | _floats()),
        observations=draw(st.integers(0, 10**9)),
    )
