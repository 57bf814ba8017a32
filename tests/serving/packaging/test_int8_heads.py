"""Int8 heads in a package: they are those that the profile was measured with."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from toys.serving import CLASSES, PREPROCESSING, profile_of, toy_network

from isplit_plugin.errors import ArtifactError
from isplit_plugin.network import CapturedNetwork, Int8Heads, quantise_heads
from isplit_plugin.profile import Profile
from isplit_plugin.serving.packaging import package


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    return toy_network()


@pytest.fixture(scope="module")
def heads(net: CapturedNetwork) -> Int8Heads:
    rng = np.random.default_rng(0)
    photos = [(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), None) for _ in range(8)]
    return quantise_heads(net, photos, preprocessing=PREPROCESSING, split_points=["relu1"])


@pytest.fixture(scope="module")
def profiled(net: CapturedNetwork, heads: Int8Heads) -> Profile:
    nbytes = {("relu1", "fp32"): 1024.0, ("relu2", "fp32"): 512.0}
    measured = profile_of(net, torch.randn(12, 3, 16, 16), nbytes=nbytes)
    return replace(measured, int8_heads=heads.sha256())


def test_the_head_bundle_has_the_int8_head(
    net: CapturedNetwork, heads: Int8Heads, profiled: Profile, tmp_path: Path
) -> None:
    built = package(
        net,
        profile=profiled,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
        int8_heads=heads,
        out_dir=tmp_path,
    )
    with zipfile.ZipFile(built.bundle) as bundle:
        parts = built.manifest.weights.get("relu1", ())
        shipped = bundle.read("heads/relu1.onnx") + b"".join(
            bundle.read(f"weights/{part}") for part in parts
        )
        assert b"QuantizeLinear" not in bundle.read("heads/relu2.onnx")
    x = torch.randn(2, 3, 16, 16)
    session = onnxruntime.InferenceSession(shipped, providers=["CPUExecutionProvider"])
    own = session.run(None, {"input": x.numpy()})[0]
    np.testing.assert_array_equal(own, heads.activations(["relu1"], x)["relu1"].numpy())
    assert not np.array_equal(own, net.bisect("relu1")[0](x).detach().numpy())


@pytest.mark.parametrize(
    ("given", "pt2", "message"),
    [
        ("none", False, "got none; it is in the file NAME.heads.safetensors"),
        ("other", False, "expected the one that the profile was measured with"),
        ("own", True, "leave out --pt2-heads"),
    ],
)
def test_others_are_refused(  # noqa: PLR0917
    heads: Int8Heads, profiled: Profile, given: str, pt2: bool, message: str, tmp_path: Path
) -> None:
    net = toy_network()
    other = replace(heads, files={"relu1": heads.files["relu1"] + b"\0"})
    with pytest.raises(ArtifactError, match=message):
        package(
            net,
            profile=profiled,
            preprocessing=PREPROCESSING,
            classes=CLASSES,
            deployed=["relu1"],
            int8_heads={"none": None, "other": other, "own": heads}[given],
            pt2=pt2,
            out_dir=tmp_path,
        )
    assert not list(tmp_path.iterdir())
