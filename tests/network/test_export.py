from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from isplit_plugin.errors import (
    ArtifactError,
    CaptureError,
    SplitPointError,
    UnknownSplitPointError,
)
from isplit_plugin.network import CapturedNetwork, capture, export_head
from isplit_plugin.network import export as export_module


class Toy(nn.Module):
    """A convolution, and a part whose memory layout is not row-major."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(self.norm(x.permute(0, 2, 3, 1)).mean((1, 2)))


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    torch.manual_seed(0)
    return capture(Toy(), torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def heads(
    net: CapturedNetwork, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, str]]:
    """Kind -> a file and the SHA-256 that ``export_head`` returned."""
    folder = tmp_path_factory.mktemp("heads")
    onnx_file = folder / "norm.onnx"
    pt2_file = folder / "norm.pt2"
    output_file = folder / "output.onnx"
    return {
        "onnx": (onnx_file, export_head(net, "norm", onnx_file)),
        "pt2": (pt2_file, export_head(net, "norm", pt2_file, "pt2")),
        "output": (output_file, export_head(net, "output", output_file)),
    }


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("kind", ["onnx", "output"])
def test_onnx_head_computes_what_the_torch_head_does(
    net: CapturedNetwork, heads: dict[str, tuple[Path, str]], kind: str, batch: int
) -> None:
    name = "output" if kind == "output" else "norm"
    x = torch.randn(batch, 3, 8, 8)
    session = ort.InferenceSession(str(heads[kind][0]), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["input"]
    assert [o.name for o in session.get_outputs()] == [
        "scores" if kind == "output" else "activation"
    ]
    (values,) = session.run(None, {"input": x.numpy()})
    with torch.inference_mode():
        expected = net.bisect(name)[0](x).numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def test_pt2_head_is_the_torch_head(
    net: CapturedNetwork, heads: dict[str, tuple[Path, str]]
) -> None:
    module = torch.export.load(heads["pt2"][0]).module()
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(module(x), net.bisect("norm")[0](x), rtol=0, atol=0)


def test_the_returned_hash_is_that_of_the_file(heads: dict[str, tuple[Path, str]]) -> None:
    for path, sha in heads.values():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha
    folder = heads["onnx"][0].parent
    assert sorted(p.name for p in folder.iterdir()) == ["norm.onnx", "norm.pt2", "output.onnx"]


def test_files_hold_no_paths_of_this_machine(
    heads: dict[str, tuple[Path, str]],
) -> None:
    for path, _ in heads.values():
        data = path.read_bytes()
        for secret in (
            str(Path(__file__).parent),
            sys.prefix,
            Path(torch.__file__).parent.name + "/nn",
        ):
            assert secret.encode() not in data
    model = onnx.load(heads["onnx"][0])
    assert {p.key: p.value for p in model.metadata_props} == {"isplit_split_point": "norm"}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_onnx_is_reproducible(
    net: CapturedNetwork, heads: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    assert export_head(net, "norm", tmp_path / "again.onnx") == heads["onnx"][1]


def test_nothing_is_printed(
    net: CapturedNetwork, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export_head(net, "relu", tmp_path / "h.onnx")
    export_head(net, "relu", tmp_path / "h.pt2", "pt2")
    assert capfd.readouterr() == ("", "")


def test_refusals(net: CapturedNetwork, tmp_path: Path) -> None:
    path = tmp_path / "h"
    with pytest.raises(SplitPointError, match="nothing runs before 'input'"):
        export_head(net, "input", path)
    with pytest.raises(UnknownSplitPointError, match="conv"):
        export_head(net, "layer9", path)
    with pytest.raises(ArtifactError, match="onnx, pt2"):
        export_head(net, "conv", path, "tflite")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="cannot write"):
        export_head(net, "conv", tmp_path / "absent" / "h.pt2", "pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["weights", "batch", "shape", "noise"])
def test_a_wrong_export_leaves_no_file(
    net: CapturedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Fault injection: the exporter's result is changed on its way to the check."""
    genuine = export_module._onnx_bytes

    def damaged(*args: Any) -> bytes:
        model = onnx.load_from_string(genuine(*args))
        if damage == "noise":
            return b"no model"
        if damage == "batch":
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        elif damage == "shape":
            model.graph.output[0].name = model.graph.node[0].input[0]
            model.graph.output[0].type.CopyFrom(model.graph.input[0].type)
        else:
            weight = model.graph.initializer[0]
            values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return bytes(model.SerializeToString())

    monkeypatch.setattr(export_module, "_onnx_bytes", damaged)
    message = {
        "weights": "something else",
        "batch": "batch of 1",
        "shape": "expected",
        "noise": "refuses",
    }[damage]
    with pytest.raises(CaptureError, match=message):
        export_head(net, "conv", tmp_path / "h.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_the_head_is_still_written(
    net: CapturedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export_head(net, "conv", tmp_path / "h.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "h.onnx"))
