"""JSON that nobody should send: lone surrogates, NUL, NaN, numbers of any size, deep nesting."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

TEXTS: Final = st.one_of(
    st.text(st.characters(), max_size=8),  # with surrogates, which st.text() alone leaves out
    st.sampled_from(["\ud800", "a\0b", "\r\n[METRICS]x", "x" * 400, ""]),
)
NUMBERS: Final = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 1e308, 5e-324, 2**63, float("nan"), float("inf")]),
)
_SCALARS: Final = st.none() | st.booleans() | NUMBERS | TEXTS


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


DEEP: Final = st.integers(10, 900).map(_nested)


def objects(names: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these names, and values of all kinds."""
    return st.dictionaries(names, VALUES, max_size=4)


VALUES: Final = st.one_of(
    _SCALARS,
    DEEP,
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    ),
)
