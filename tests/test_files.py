from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from isplit_plugin.files import file_sha256, write_atomically


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_content_is_bytes_or_a_function(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")
    assert path.read_bytes() == b"first"
    write_atomically(str(path), lambda temporary: temporary.write_text("second"))
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def content(temporary: Path) -> None:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"

    write_atomically(path, content)
    assert path.read_text() == "new"


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def content(temporary: Path) -> None:
        temporary.write_text("a part")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, content)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", b"")
    with pytest.raises(OSError, match=str(tmp_path)):
        write_atomically(tmp_path, b"a folder has this name")
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_decides_the_permissions_unless_they_are_given(
    tmp_path: Path, umask: int
) -> None:
    write_atomically(tmp_path / "default", b"")
    assert _mode(tmp_path / "default") == 0o666 & ~umask
    for mode in (0o600, 0o644):
        write_atomically(tmp_path / "given", b"", mode=mode)
        assert _mode(tmp_path / "given") == mode


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    def content(temporary: Path) -> None:
        assert _mode(temporary) == 0o600

    write_atomically(tmp_path / "secret", content, mode=0o600)


def test_an_existing_file_can_be_protected(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first", overwrite=False)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"second", overwrite=False)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
