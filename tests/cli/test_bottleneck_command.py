"""`isplit bottleneck train`: its files, its table, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys.bottleneck import write_photos

from isplit_plugin.cli import main

pytestmark = pytest.mark.usefixtures("captured_once")

NETWORK = ["--network", "toys.bottleneck:loaded"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_photos(tmp_path_factory.mktemp("photos") / "train", 12)
    (folder / "red" / "broken.png").write_bytes(b"no image")
    return folder


def train(photos: Path, output: Path, *more: str) -> int:
    options = ["--split-points", "0", "--data", str(photos), "-o", str(output), "--epochs", "1"]
    return main(["bottleneck", "train", *NETWORK, *options, "--codecs", "uint8,q4+rle+zstd", *more])


def test_a_bottleneck_is_written_and_measured(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photos, tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["0~n1s4d2.bottleneck.safetensors"]
    printed = capsys.readouterr()
    assert "skipped 1 unreadable" in printed.err
    assert "broken.png" in printed.err
    assert "0~n1s4d2 autoencoder 1/1: loss " in printed.err
    lines = [line.split() for line in printed.out.splitlines()]
    assert [(line[0], line[1], line[2]) for line in lines[2:4]] == [
        ("0~n1s4d2", "2x4x5", "uint8"),
        ("0~n1s4d2", "2x4x5", "q4+rle+zstd"),
    ]
    # Called again, it trains nothing, and prints the same bottleneck.
    assert train(photos, tmp_path, "--json") == 0
    printed = capsys.readouterr()
    assert "loss" not in printed.err
    [description] = json.loads(printed.out)
    assert description["name"] == "0~n1s4d2"
    assert description["training"]["test_photos"] == 8  # every fifth of 37, without the broken one


def test_errors(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "none", tmp_path / "out") == 3
    assert "expected a folder of photos" in capsys.readouterr().err
    assert train(photos, tmp_path / "out", "--stride", "3") == 3
    assert "power of two" in capsys.readouterr().err
    few = write_photos(tmp_path / "few", 1)
    assert train(few, tmp_path / "out") == 3
    assert "at least 5 photos, got 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
