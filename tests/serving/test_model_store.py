"""Files of several models and versions in one folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from isplit_plugin.errors import BundleError, ServingError
from isplit_plugin.serving.model_store import (
    archive_identity,
    archive_name,
    check_unused,
    find_archives,
    head_bundle_name,
)


def write_archive(folder: Path, model: str, version: str, name: str | None = None) -> Path:
    path = folder / (name or archive_name(model, version))
    with zipfile.ZipFile(path, "w") as mar:
        identity = {"model": {"modelName": model, "modelVersion": version}}
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(identity))
    return path


def write_bundle(folder: Path, model: str, version: str) -> Path:
    path = folder / head_bundle_name(model, version)
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("manifest.json", json.dumps({"model": model, "version": version}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``letters`` in three versions, ``digits`` in one, and the endpoint."""
    for version in ("10.0", "2.0", "1.0"):
        write_archive(tmp_path, "letters", version)
    write_archive(tmp_path, "digits", "1.0")
    write_archive(tmp_path, "isplit", "1.0")
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_version_is_part_of_the_names_of_its_files() -> None:
    assert archive_name("letters", "1.0") == "letters.mar"
    assert head_bundle_name("letters", "1.0") == "letters.head.zip"
    assert archive_name("letters", "2.0") == "letters-2.0.mar"
    assert head_bundle_name("letters", "2.0") == "letters-2.0.head.zip"


def test_the_lowest_version_comes_first(folder: Path) -> None:
    letters = ["letters.mar", "letters-2.0.mar", "letters-10.0.mar"]
    assert names(find_archives(folder)) == ["digits.mar", "isplit.mar", *letters]
    assert names(find_archives(folder, ["letters"])) == letters
    assert names(find_archives(folder, [])) == []


def test_the_order_of_the_words_counts(folder: Path) -> None:
    words = ["letters/2.0", "digits.mar", "letters", "isplit"]
    assert names(find_archives(folder, words)) == [
        "letters-2.0.mar",
        "digits.mar",
        "letters.mar",
        "letters-10.0.mar",
        "isplit.mar",
    ]
    assert names(find_archives(folder, ["letters-2.0"])) == ["letters-2.0.mar"]
    assert names(find_archives(folder, [str(folder / "digits.mar")])) == ["digits.mar"]


@pytest.mark.parametrize("word", ["cat", "letters/3.0", "letters-3.0", "cat.mar", "../x", ""])
def test_what_is_not_there_names_what_is(folder: Path, word: str) -> None:
    with pytest.raises(ServingError, match=r"digits/1\.0, isplit/1\.0, letters/1\.0, letters/2"):
        find_archives(folder, [word])


def test_a_broken_file_stops_only_those_that_want_it(folder: Path) -> None:
    (folder / "broken.mar").write_bytes(b"no archive")
    assert names(find_archives(folder, ["digits"])) == ["digits.mar"]
    for words in (None, ["broken"]):
        with pytest.raises(BundleError, match=r"broken\.mar is not a model archive"):
            find_archives(folder, words)
    with pytest.raises(ServingError, match="is not a folder"):
        find_archives(folder / "none", ["digits"])


def test_files_of_another_model_are_not_overwritten(tmp_path: Path) -> None:
    check_unused(tmp_path, "letters", "2.0")
    own = write_archive(tmp_path, "letters", "2.0")
    write_bundle(tmp_path, "letters", "2.0")
    check_unused(tmp_path, "letters", "2.0")
    assert archive_identity(own) == ("letters", "2.0")
    with pytest.raises(BundleError, match=r"of letters-2\.0 1\.0, found that of letters 2\.0"):
        check_unused(tmp_path, "letters-2.0", "1.0")
    own.unlink()
    with pytest.raises(BundleError, match=r"letters-2\.0\.head\.zip: expected the file of"):
        check_unused(tmp_path, "letters-2.0", "1.0")
    write_archive(tmp_path, "digits", "1.0", "broken.mar").write_bytes(b"no archive")
    check_unused(tmp_path, "broken", "1.0")
