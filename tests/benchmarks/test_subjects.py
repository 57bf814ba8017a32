"""What benchmarks of codes measure on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import photos, resnet50, subjects


def test_cuts_by_network(monkeypatch: pytest.MonkeyPatch) -> None:
    default = {"a": ("x",)}
    monkeypatch.delenv(subjects.CUTS, raising=False)
    assert subjects.wanted_cuts(default) == {"a": ("x",)}
    monkeypatch.setenv(subjects.CUTS, "b:y, a:x,b:input:avif")
    assert subjects.wanted_cuts(default) == {"b": ("y", "input:avif"), "a": ("x",)}


def test_photos_are_drawn_the_same_way_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(photos.VARIABLE, raising=False)
    assert subjects.drawn_photos(3) == []
    assert "--data" in capsys.readouterr().err
    for name in ("a.jpg", "b.JPEG", "c.png", "d.txt"):
        (tmp_path / name).touch()
    monkeypatch.setenv(photos.VARIABLE, str(tmp_path))
    drawn = subjects.drawn_photos(10)
    assert {path.name for path in drawn} == {"a.jpg", "b.JPEG", "c.png"}
    assert subjects.drawn_photos(2) == drawn[:2]


def test_a_network_without_weights_has_no_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in (subjects.STUDY, resnet50.VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    assert list(subjects.networks({"resnet50": ("layer2",), "vit6_notmnist": ("norm",)})) == []
    errors = capsys.readouterr().err
    assert "--resnet50" in errors
    assert "vit6_notmnist: --study" in errors
