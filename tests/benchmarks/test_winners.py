"""The benchmark of winners reads profiles alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import advice as toys

from benchmarks import winners


def _profile(folder: Path) -> Path:
    images = (100, 100, 100)
    measurements = (
        toys.measure("input", "jpeg@90", 16_000, images, images),
        toys.measure("b", "uint8+zstd", 9_000, images, images),
        toys.measure("d", "dct@3", 2_000, images, images),
        toys.measure("output", "none", 0, images, images),
    )
    path = folder / "toy.profile.safetensors"
    toys.profile(measurements=measurements).save(path)
    return path


def test_first_codecs_and_dct_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _profile(tmp_path)
    monkeypatch.setenv(winners.PROFILES, f"{path}, {path}")
    rows = winners.run()
    assert len(rows) == 4
    first, now = rows[:2]
    assert "first version's codecs" in first["name"]
    assert set(first["split_points"]) <= {"b"}
    assert "d" in now["split_points"]
    assert now["value"] > first["value"]
    assert len(now["cells"]) == 49
    assert (
        sum(cell["winner"] in ("b:uint8+zstd", "d:dct@3") for cell in now["cells"]) == now["value"]
    )


def test_a_limit_excludes_the_whole_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(winners.PROFILES, str(_profile(tmp_path)))
    monkeypatch.setenv(winners.LIMIT, "500")  # of the toy's 1,000 MACs
    now = winners.run()[1]
    assert "`output` excluded by 500 MACs" in now["name"]
    assert not any(cell["winner"] == "output:none" for cell in now["cells"])


def test_without_profiles_there_are_no_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(winners.PROFILES, raising=False)
    assert winners.run() == []
    assert "--profiles" in capsys.readouterr().err
