"""`isplit package`: the precision of the weights in the head bundle."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from toys.serving import CLASSES, PREPROCESSING, profile_of

from isplit_plugin.cli import main
from isplit_plugin.cli import package as command
from isplit_plugin.client import HeadBundle
from isplit_plugin.network import capture


def test_weights_as_fp16_and_what_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    layers = (
        *(torch.nn.Conv2d(3, 48, 3, stride=4), torch.nn.ReLU(), torch.nn.Flatten()),
        torch.nn.Linear(768, len(CLASSES)),
    )
    net = capture(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 3, 16, 16))
    made = profile_of(net, torch.randn(8, 3, 16, 16), nbytes={("1", "uint8"): 800.0})
    made.save(tmp_path / "toy.profile.safetensors")
    loaded = SimpleNamespace(classes=CLASSES, preprocessing=PREPROCESSING)
    monkeypatch.setattr(command, "load", lambda _: (loaded, net))
    arguments = ["package", "--network", "x:y", "--split-points", "1", "-o", str(tmp_path / "s")]
    arguments += ["--profile", str(tmp_path / "toy.profile.safetensors")]
    assert main([*arguments, "--bundle-precision", "fp16"]) == 0
    assert "weights as fp16 change what a head puts out by at most 0.0" in capsys.readouterr().out
    with closing(HeadBundle(tmp_path / "s" / "toy.head.zip")) as bundle:
        types = {
            t.data_type for t in onnx.load_from_string(bundle.read("output")).graph.initializer
        }
    assert onnx.TensorProto.FLOAT16 in types
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fp16_differences"] == {}
    with pytest.raises(SystemExit):
        main([*arguments, "--bundle-precision", "int8"])
