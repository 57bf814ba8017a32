"""Heads in int8: what they put out, what is measured on it, and their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from toys.serving import CLASSES, PREPROCESSING, decided_network

from isplit_plugin.errors import ArtifactError, DataError, NetworkMismatchError
from isplit_plugin.hashed_arrays import pack_arrays
from isplit_plugin.network import (
    CapturedNetwork,
    Int8Heads,
    fit_transforms,
    load_int8_heads,
    profile,
    quantise_heads,
    save_int8_heads,
)
from isplit_plugin.network.device_times import device_head_ms
from isplit_plugin.network.int8.heads_file import FORMAT, KEY
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut

POINTS = ["relu1", "conv2"]


def photos(count: int) -> list[tuple[np.ndarray, int | None]]:
    """Photos of one colour each, and noise, so that answers differ."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    pixels = (colours + rng.integers(-40, 41, (count, 16, 16, 3))).clip(0, 255)
    return [(photo.astype(np.uint8), None) for photo in pixels]


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    return decided_network()


@pytest.fixture(scope="module")
def heads(net: CapturedNetwork) -> Int8Heads:
    return quantise_heads(net, photos(24), preprocessing=PREPROCESSING, split_points=POINTS)


def test_they_compute_in_int8_what_the_network_computes(
    net: CapturedNetwork, heads: Int8Heads
) -> None:
    assert list(heads.files) == POINTS
    x = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    for name, own in heads.activations(POINTS, x).items():
        with torch.inference_mode():
            exact = net.bisect(name)[0](x)
        assert own.shape == exact.shape
        assert not torch.equal(own, exact)
        assert (own - exact).abs().mean() < 0.05 * exact.abs().mean()
        graph = onnx.load_from_string(heads.files[name]).graph
        assert any(node.op_type == "QuantizeLinear" for node in graph.node)
        weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer]
        int8 = [values for values in weights if values.dtype == np.int8 and values.ndim == 4]
        assert int8
        # 7 bits, so that the sums of an x86 without VNNI do not overflow
        assert all(np.abs(values).max() <= 64 for values in int8)


def test_the_mean_of_each_channel_is_right_on_the_calibration_photos(
    net: CapturedNetwork, heads: Int8Heads
) -> None:
    from isplit_plugin import image

    inputs = np.stack([image.preprocess(photo, PREPROCESSING) for photo, _ in photos(24)])
    x = torch.from_numpy(inputs)
    own = heads.activations(POINTS, x)
    with torch.inference_mode():
        exact = net.bisect("conv2")[0](x)
    means = [tensor.mean(dim=(0, 2, 3)) for tensor in (own["conv2"], exact)]
    torch.testing.assert_close(*means, atol=1e-5, rtol=1e-4)
    # Zeros behind a ReLU stay zeros.
    assert float(own["relu1"].min()) == 0


def test_photos_that_cannot_be_read_do_not_calibrate(net: CapturedNetwork, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    broken = [(tmp_path / "broken.jpg", None)] * 5
    with pytest.raises(DataError, match="at least 8 photos, got 7"):
        quantise_heads(
            net, [*broken, *photos(7)], preprocessing=PREPROCESSING, split_points=["conv2"]
        )


def test_profile_and_transforms_are_about_what_they_put_out(
    net: CapturedNetwork, heads: Int8Heads
) -> None:
    images = photos(24)
    scaled = replace(heads, files={name: _scaled(data) for name, data in heads.files.items()})
    measured = {}
    for label, own in (("none", None), ("int8", heads), ("scaled", scaled)):
        fits = fit_transforms(
            net,
            images,
            preprocessing=PREPROCESSING,
            split_points=["conv2"],
            threads=1,
            int8_heads=own,
        )
        made = profile(
            net,
            images,
            preprocessing=PREPROCESSING,
            classes=CLASSES,
            split_points=["conv2"],
            codecs=["uint8+zstd"],
            photos=[],
            threads=1,
            transforms=fits,
            int8_heads=own,
        )
        cut = made.measurement(Cut("conv2", "uint8+zstd"))
        assert cut is not None
        measured[label] = made, fits.transforms["conv2"], cut
    exact, int8, other = (measured[label] for label in ("none", "int8", "scaled"))
    assert exact[0].int8_heads == {}
    assert int8[0].int8_heads == heads.sha256()
    assert int8[0].provenance["head_precision"].startswith("int8")
    assert "head_precision" not in exact[0].provenance
    assert Profile.from_bytes(int8[0].to_bytes()).int8_heads == heads.sha256()
    # Another head's activations take other bytes, and give another transform.
    assert int8[2].agreeing.sum() >= 22
    assert len({each[2].nbytes for each in measured.values()}) == 3
    assert not np.array_equal(exact[1].mean, int8[1].mean)
    np.testing.assert_allclose(other[1].mean, -3 * int8[1].mean, rtol=1e-3, atol=1e-4)


def _scaled(data: bytes) -> bytes:
    """The head with its output times -3."""
    model = onnx.load_from_string(data)
    (output,) = model.graph.output
    before = f"{output.name}.before"
    for node in model.graph.node:
        node.output[:] = [before if name == output.name else name for name in node.output]
    factor = onnx.numpy_helper.from_array(np.array(-3, np.float32), "factor")
    model.graph.initializer.append(factor)
    model.graph.node.append(onnx.helper.make_node("Mul", [before, "factor"], [output.name]))
    return bytes(model.SerializeToString())


def test_their_times_are_taken(net: CapturedNetwork, heads: Int8Heads) -> None:
    estimates = {"input": 0.0, "relu1": 1.0, "output": 3.0}
    assert device_head_ms(net, ["relu1"], estimates, rounds=1, int8_heads=heads) is not None
    broken = replace(heads, files={"relu1": b"no model"})
    with pytest.raises(Exception, match=r"(?i)protobuf|model"):  # so this file is what is timed
        device_head_ms(net, ["relu1"], estimates, rounds=1, int8_heads=broken)


def test_a_file_of_them(net: CapturedNetwork, heads: Int8Heads, tmp_path: Path) -> None:
    file = tmp_path / "toy.heads.safetensors"
    save_int8_heads(file, heads)
    loaded = load_int8_heads(file, heads.network_hash)
    assert (loaded.files, loaded.float_layers) == (heads.files, heads.float_layers)
    with pytest.raises(NetworkMismatchError, match=r"toy\.heads\.safetensors: int8 heads of"):
        load_int8_heads(file, "0" * 64)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="damaged or edited"):
        load_int8_heads(file, heads.network_hash)
    with pytest.raises(ArtifactError, match="No such file"):
        load_int8_heads(tmp_path / "none", heads.network_hash)


@pytest.mark.parametrize(
    ("names", "arrays", "message"),
    [
        (["a", "a"], {"0": np.zeros(1, np.uint8), "1": np.zeros(1, np.uint8)}, "expected 2 heads"),
        (["a"], {"1": np.zeros(1, np.uint8)}, "expected 1 heads"),
        (["a"], {"0": np.zeros(1, np.float32)}, "heads as bytes"),
        (3, {"0": np.zeros(1, np.uint8)}, "expected a file of int8 heads"),
    ],
)
def test_files_of_something_else_are_refused(
    names: object, arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    content = {"format": FORMAT, "network_hash": "n", "float_layers": 0, "split_points": names}
    file = tmp_path / "other.safetensors"
    file.write_bytes(pack_arrays(KEY, content, arrays))
    with pytest.raises(ArtifactError, match=message):
        load_int8_heads(file, "n")


def test_a_split_point_without_a_head_is_named(heads: Int8Heads) -> None:
    with pytest.raises(ArtifactError, match="int8 head of 'relu2': expected one of relu1"):
        heads.activations(["relu2"], torch.zeros(1, 3, 16, 16))
