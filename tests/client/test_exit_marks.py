"""Marks of releases: they outlive the app, and whatever happens to their file fails nothing."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.client import exit_marks
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
    assert marks.take(CUT, OLDER)
    assert marks.take(CUT, RELEASE)
    for read in (marks, ExitMarks(tmp_path / "state", "feed")) if in_folder else (marks,):
        assert read.take(CUT, RELEASE)
        assert not read.take(CUT, OLDER)
        assert not read.take(CUT, OTHER)
        assert read.take(Cut("layer2", "uint8"), OLDER)
    newer, another = replace(RELEASE, number=4), replace(OTHER, issued=1001.0)
    assert marks.take(CUT, newer)
    assert not marks.take(CUT, RELEASE)
    assert marks.take(CUT, another)
    assert not marks.take(CUT, newer)


def test_a_process_goes_not_back_behind_what_another_has_taken(tmp_path: Path) -> None:
    first, second = ExitMarks(tmp_path, "feed"), ExitMarks(tmp_path, "feed")
    assert first.take(CUT, OLDER)
    assert second.take(CUT, replace(RELEASE, number=6))
    assert not first.take(CUT, replace(RELEASE, number=5))
    assert not ExitMarks(tmp_path, "feed").take(CUT, replace(RELEASE, number=5))
    assert first.take(CUT, replace(RELEASE, number=6))


def test_processes_that_decide_at_once_leave_the_newest_mark(tmp_path: Path) -> None:
    start = threading.Barrier(4)

    def take(first: int) -> None:
        marks = ExitMarks(tmp_path, "feed")
        start.wait(60)
        for number in range(first, 200, 4):
            marks.take(CUT, replace(RELEASE, number=number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(1, 5)))
    again = ExitMarks(tmp_path, "feed")
    assert not again.take(CUT, replace(RELEASE, number=198))
    assert again.take(CUT, replace(RELEASE, number=199))


def test_a_process_that_hangs_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exit_marks, "LOCK_S", 0.05)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert ExitMarks(tmp_path, "feed").take(CUT, RELEASE)
    finally:
        os.close(held)
    assert not ExitMarks(tmp_path, "feed").take(CUT, OLDER)


def test_a_mark_whose_file_is_gone_is_written_again(tmp_path: Path) -> None:
    marks = ExitMarks(tmp_path, "feed")
    assert marks.take(CUT, RELEASE)
    (path,) = tmp_path.iterdir()
    path.unlink()
    assert marks.take(CUT, RELEASE)
    assert not ExitMarks(tmp_path, "feed").take(CUT, OLDER)


def test_marks_of_other_networks_and_processes_stay(tmp_path: Path) -> None:
    first, second = ExitMarks(tmp_path, "feed"), ExitMarks(tmp_path, "feed")
    assert first.take(CUT, RELEASE)
    assert second.take(Cut("layer2", "uint8"), RELEASE)
    assert ExitMarks(tmp_path, "dead").take(CUT, OLDER)
    again = ExitMarks(tmp_path, "feed")
    assert not again.take(CUT, OLDER)
    assert not again.take(Cut("layer2", "uint8"), OLDER)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_file_is_bounded(tmp_path: Path) -> None:
    marks = ExitMarks(tmp_path, "feed")
    for number in range(MAX_MARKS + 5):
        cut = Cut(f"layer{number}", "uint8")
        assert marks.take(cut, replace(RELEASE, issued=1000.0 + number))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < MAX_FILE_BYTES
    again = ExitMarks(tmp_path, "feed")
    old = replace(RELEASE, version="b" * 64, issued=1.0)
    assert not again.take(Cut("layer5", "uint8"), old)
    assert again.take(Cut("layer4", "uint8"), old)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff" * 100, b" " * (MAX_FILE_BYTES + 1)],
    ids=["empty", "cut off", "list", "binary", "large"],
)
def test_a_damaged_file_counts_as_none_and_is_replaced(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert ExitMarks(tmp_path, "feed").take(CUT, RELEASE)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING, "isplit.client"):
        marks = ExitMarks(tmp_path, "feed")
    assert path.name in caplog.text
    assert marks.take(CUT, OLDER)
    assert marks.take(CUT, RELEASE)
    assert not ExitMarks(tmp_path, "feed").take(CUT, OLDER)


def test_a_folder_that_goes_away_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = ExitMarks(tmp_path / "state", "feed")
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("a file")
    with caplog.at_level(logging.WARNING, "isplit.client"):
        assert marks.take(CUT, RELEASE)
    assert "cannot be written" in caplog.text
    assert not marks.take(CUT, OLDER)


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
