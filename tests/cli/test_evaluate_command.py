"""`isplit evaluate`: its files, its tables, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys.bottleneck import write_photos

from isplit_plugin.cli import main


@pytest.mark.usefixtures("captured_once")
def test_an_evaluation_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_photos(tmp_path / "train", 8)
    held_out = write_photos(tmp_path / "held_out", 8, seed=1)
    arguments = ["evaluate", "--network", "toys.bottleneck:loaded", "--epochs", "1"]
    arguments += ["--train", str(train), "--data", str(held_out), "-o", str(tmp_path / "result")]
    arguments += ["--seeds", "1", "--calibration", "6", "--baseline-photos", "6"]
    arguments += ["--bootstrap", "20"]
    predictors = ["depth", "size", "cui", "kl-pool2"]
    assert main([*arguments, "--predictors", ",".join(predictors)]) == 0
    printed = capsys.readouterr()
    assert "Spearman" in printed.out
    assert "result: seed 0: 3 bottlenecks" in printed.err
    written = sorted(path.name for path in tmp_path.glob("result*") if path.is_file())
    assert written == ["result-bytes.svg", "result-prediction.svg", "result.json", "result.md"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert [score["name"] for score in result["predictors"]] == predictors
    assert (result["settings"]["calibration_photos"], result["settings"]["baseline_photos"]) == (
        6,
        6,
    )
    assert main([*arguments, "--predictors", "magic"]) == 3
    assert "magic" in capsys.readouterr().err
