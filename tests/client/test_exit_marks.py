"""Marks of releases: they outlive the app, and whatever happens to their file fails nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.client.exit_marks import MAX_FILE_BYTES, MAX_MARKS, ExitMarks, read_marks
from isplit_plugin.errors import ArtifactError
from isplit_plugin.exits import ExitRelease
from isplit_plugin.schema import Cut

CUT = Cut("layer1", "uint8")
RELEASE = ExitRelease("feed", CUT, "a" * 64, 3, 1000.0, 2000.0, 0.01)
OLDER = replace(RELEASE, number=2)
OTHER = replace(RELEASE, version="b" * 64, number=9, issued=999.0)


@pytest.mark.parametrize("in_folder", [True, False])
def test_no_older_release_is_taken_again(tmp_path: Path, in_folder: bool) -> None:
    marks = ExitMarks(tmp_path / "state" if in_folder else None, "feed")
    assert marks.accepts(CUT, OLDER)
    marks.keep(CUT, RELEASE)
    for read in (marks, ExitMarks(tmp_path / "state", "feed")) if in_folder else (marks,):
        assert read.accepts(CUT, RELEASE)
        assert read.accepts(CUT, replace(RELEASE, number=4))
        assert read.accepts(CUT, replace(OTHER, issued=1001.0))
        assert not read.accepts(CUT, OLDER)
        assert not read.accepts(CUT, OTHER)
        assert read.accepts(Cut("layer2", "uint8"), OLDER)


def test_marks_of_other_networks_and_processes_stay(tmp_path: Path) -> None:
    first, second = ExitMarks(tmp_path, "feed"), ExitMarks(tmp_path, "feed")
    first.keep(CUT, RELEASE)
    second.keep(Cut("layer2", "uint8"), RELEASE)
    other = ExitMarks(tmp_path, "dead")
    assert other.accepts(CUT, OLDER)
    other.keep(CUT, OLDER)
    again = ExitMarks(tmp_path, "feed")
    assert not again.accepts(CUT, OLDER)
    assert not again.accepts(Cut("layer2", "uint8"), OLDER)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_file_is_bounded(tmp_path: Path) -> None:
    marks = ExitMarks(tmp_path, "feed")
    for number in range(MAX_MARKS + 5):
        marks.keep(Cut(f"layer{number}", "uint8"), replace(RELEASE, issued=1000.0 + number))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < MAX_FILE_BYTES
    again = ExitMarks(tmp_path, "feed")
    old = replace(RELEASE, version="b" * 64, issued=1.0)
    assert again.accepts(Cut("layer4", "uint8"), old)
    assert not again.accepts(Cut("layer5", "uint8"), old)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff" * 100, b" " * (MAX_FILE_BYTES + 1)],
    ids=["empty", "cut off", "list", "binary", "large"],
)
def test_a_damaged_file_counts_as_none_and_is_replaced(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ExitMarks(tmp_path, "feed").keep(CUT, RELEASE)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING, "isplit.client"):
        marks = ExitMarks(tmp_path, "feed")
    assert path.name in caplog.text
    assert marks.accepts(CUT, OLDER)
    marks.keep(CUT, RELEASE)
    assert not ExitMarks(tmp_path, "feed").accepts(CUT, OLDER)


def test_a_folder_that_goes_away_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = ExitMarks(tmp_path / "state", "feed")
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("a file")
    with caplog.at_level(logging.WARNING, "isplit.client"):
        marks.keep(CUT, RELEASE)
    assert "cannot be written" in caplog.text
    assert not marks.accepts(CUT, OLDER)


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ArtifactError, match="expected a folder"):
        ExitMarks(tmp_path / "state", "feed")


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=70),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["cuts", "isplit_exit_marks", "a:uint8"]), inner)
        ),
        max_leaves=8,
    ).map(lambda rows: json.dumps(rows).encode())
)
def test_other_bytes_are_no_marks(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        read_marks(data, "feed")


@given(
    st.lists(
        st.none() | st.booleans() | st.floats() | st.integers() | st.just("a" * 64), max_size=4
    )
)
def test_a_mark_is_sound_or_refused(row: list[object]) -> None:
    raw = {"isplit_exit_marks": 1, "network_hash": "feed", "cuts": {"layer1:uint8": row}}
    try:
        marks = read_marks(json.dumps(raw).encode(), "feed")
    except ArtifactError:
        return
    mark = marks[CUT]
    assert (mark.version, type(mark.number)) == ("a" * 64, int)
    assert 0 <= mark.issued < 2**37
