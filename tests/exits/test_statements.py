"""Statements and releases: what travels is read back, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import ExitError, WireError
from isplit_plugin.exits import BINS, ClassRelease, ExitRelease, ExitStatement
from isplit_plugin.schema import Cut

RELEASE = ExitRelease(
    network_hash="feed",
    cut=Cut("layer3", "uint8+zstd"),
    version="0123456789abcdef" * 4,
    number=3,
    issued=1000.0,
    expires=2000.0,
    tolerance=0.01,
    classes={7: ClassRelease(4, 0.02), 281: ClassRelease(0, 1.0)},
)


@given(st.integers(0, 999_999), st.integers(0, BINS - 1), st.booleans())
def test_a_statement_is_read_back(class_id: int, bin_index: int, audit: bool) -> None:
    statement = ExitStatement("0123456789abcdef", class_id, bin_index, audit)
    assert ExitStatement.parse(str(statement)) == statement


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        statement = ExitStatement.parse(text)
    except WireError:
        return
    assert statement.bin < BINS


@pytest.mark.parametrize("text", ["0123456789abcdef:1:20", "0123456789ABCDEF:1:2", "0:1:2", "::"])
def test_statements_out_of_bounds_are_refused(text: str) -> None:
    with pytest.raises(WireError, match="expected <version>"):
        ExitStatement.parse(text)


def test_a_release_is_read_back_and_allows_what_it_says() -> None:
    read = ExitRelease.from_bytes(RELEASE.to_bytes())
    assert read == RELEASE
    assert read.name == "0123456789abcdef.3"
    assert read.allows(7, 4, 1999.0)
    assert not read.allows(7, 3, 1999.0)
    assert not read.allows(8, 19, 1999.0)
    assert not read.allows(7, 4, 2000.0)


@given(st.binary(max_size=400))
def test_other_bytes_are_no_release(data: bytes) -> None:
    with pytest.raises(ExitError):
        ExitRelease.from_bytes(data)


@given(
    st.sampled_from(sorted(json.loads(RELEASE.to_bytes()))),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ),
)
def test_a_release_with_another_value_is_refused_or_sound(name: str, value: object) -> None:
    raw = json.loads(RELEASE.to_bytes())
    raw[name] = value
    try:
        read = ExitRelease.from_bytes(json.dumps(raw).encode())
    except ExitError:
        return
    assert 0 < read.tolerance < 1
    assert all(0 <= row.bin < BINS and 0 < row.audit <= 1 for row in read.classes.values())
    assert ExitRelease.from_bytes(read.to_bytes()) == read


@pytest.mark.parametrize("audit", [0.0, -1.0, 1.1])
def test_a_share_of_audits_is_above_0_and_at_most_1(audit: float) -> None:
    broken = replace(RELEASE, classes={1: ClassRelease(0, audit)})
    with pytest.raises(ExitError, match="share"):
        ExitRelease.from_bytes(broken.to_bytes())
