"""Weights that several ONNX heads have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from isplit_plugin.errors import ArtifactError, CaptureError
from isplit_plugin.network import CapturedNetwork, Precision, capture, export_head, share_weights

POINTS = ("1", "3", "output")
X = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten())
    return capture(nn.Sequential(*layers, nn.Linear(1024, 5)).eval(), torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def exported(net: CapturedNetwork, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("heads")
    for name in POINTS:
        export_head(net, name, folder / f"{name}.onnx")
    return {name: (folder / f"{name}.onnx").read_bytes() for name in POINTS}


def written(exported: dict[str, bytes], folder: Path) -> Path:
    (folder / "heads").mkdir()
    for name, data in exported.items():
        (folder / "heads" / f"{name}.onnx").write_bytes(data)
    return folder


def whole(folder: Path, name: str, files: tuple[str, ...]) -> bytes:
    parts = [folder / "heads" / f"{name}.onnx", *(folder / "weights" / file for file in files)]
    return b"".join(part.read_bytes() for part in parts)


def run(data: bytes) -> np.ndarray:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": X})[0])


def test_each_weight_is_stored_once(exported: dict[str, bytes], tmp_path: Path) -> None:
    folder = written(exported, tmp_path)
    weights, differences = share_weights(folder / "heads", folder / "weights")
    assert differences == {}
    assert {name: len(files) for name, files in weights.items()} == {"1": 1, "3": 2, "output": 2}
    names: list[str] = []
    for path in folder.rglob("*.onnx"):
        model = onnx.load_from_string(path.read_bytes())
        names += [t.name for t in model.graph.initializer if not t.name.startswith("val")]
    assert len(names) == len(set(names)) == 6
    for name in POINTS:
        data = whole(folder, name, weights[name])
        onnx.checker.check_model(onnx.load_from_string(data))
        np.testing.assert_array_equal(run(data), run(exported[name]))


def test_equal_heads_give_equal_files(exported: dict[str, bytes], tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        folder = written(exported, tmp_path / name)
        share_weights(folder / "heads", folder / "weights")
        contents.append({path.name: path.read_bytes() for path in folder.rglob("*.onnx")})
    assert contents[0] == contents[1]


def test_fp16_takes_half_the_space_and_says_what_it_changes(
    exported: dict[str, bytes], tmp_path: Path
) -> None:
    folder = written(exported, tmp_path)
    weights, differences = share_weights(folder / "heads", folder / "weights", "fp16")
    assert set(differences) == set(POINTS)
    assert 0 < max(differences.values()) < 2e-3
    assert sum(path.stat().st_size for path in folder.rglob("*.onnx")) < 0.6 * len(
        exported["output"]
    )
    for name in POINTS:
        data = whole(folder, name, weights[name])
        changed = np.abs(run(data) - run(exported[name])).max() / np.abs(run(exported[name])).max()
        assert changed < 2e-3
        types = {
            t.data_type for t in onnx.load_from_string(data).graph.initializer if len(t.dims) == 1
        }
        assert onnx.TensorProto.FLOAT16 not in types  # biases stay


def test_weights_that_fp16_cannot_hold(exported: dict[str, bytes], tmp_path: Path) -> None:
    """Those beyond its range stay as they are; where what is left changes the output, it is said."""
    folder = written({"1": _with_weights(exported["3"], 1e8)}, tmp_path)
    _, differences = share_weights(folder / "heads", folder / "weights", "fp16")
    assert differences == {"1": 0.0}
    (tmp_path / "tiny").mkdir()
    folder = written({"1": _with_weights(exported["3"], 1e-9)}, tmp_path / "tiny")
    with pytest.raises(CaptureError, match="weights as fp16: relative difference"):
        share_weights(folder / "heads", folder / "weights", "fp16")


def _with_weights(head: bytes, scale: float) -> bytes:
    """The head with larger or smaller weights in its convolutions, and without biases."""
    model = onnx.load_from_string(head)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        values = scale * values if values.ndim == 4 else 0 * values
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())


def test_an_unknown_precision(tmp_path: Path) -> None:
    precision: Precision = "int4"  # type: ignore[assignment]
    with pytest.raises(ArtifactError, match="expected one of fp32, fp16, got 'int4'"):
        share_weights(tmp_path, tmp_path, precision)
