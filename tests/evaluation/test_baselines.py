"""Baselines: JPEG, PNG, everything on the device, and codecs without training."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
from toys.bottleneck import toy_network, toy_photos

from isplit_plugin.bottleneck import Photos, Targets, compute_targets
from isplit_plugin.errors import ImageError
from isplit_plugin.evaluation import Settings, codec_baselines, image_baselines
from isplit_plugin.evaluation.baselines import scan_bytes
from isplit_plugin.wire import decode_activation, encode_activation


@pytest.fixture(scope="module")
def photos() -> Photos:
    return toy_photos(12)


@pytest.fixture(scope="module")
def targets(photos: Photos) -> Targets:
    return compute_targets(toy_network(), photos, np.arange(12))


def test_image_baselines(photos: Photos, targets: Targets) -> None:
    baselines = {
        (b.kind, b.detail): b
        for b in image_baselines(toy_network(), photos, targets, qualities=(10,))
    }
    png, device = baselines["png", "lossless"], baselines["device", "nothing sent"]
    assert png.agreement == device.agreement == 1
    assert png.accuracy == device.accuracy == (targets.top1 == photos.labels).mean()
    assert device.nbytes == 0
    jpeg, scan = baselines["jpeg", "quality 10"], baselines["jpeg-scan", "quality 10"]
    assert 0 < scan.nbytes < jpeg.nbytes
    assert (scan.accuracy, scan.agreement) == (jpeg.accuracy, jpeg.agreement)


def test_codec_baselines_equal_an_independent_loop(photos: Photos, targets: Targets) -> None:
    net = toy_network()
    [baseline] = codec_baselines(net, ["1"], photos, targets, codecs=["q2+rle+zstd"])
    head, tail = net.bisect("1")
    sizes = []
    answers = []
    with torch.inference_mode():
        # One batch, as in the measurement: the size after zstd depends on the last bits.
        activations = head(photos.tensor(range(len(photos)))).numpy()
        for row in range(len(photos)):
            tensor = encode_activation(activations[row : row + 1], "q2+rle+zstd")
            decoded = decode_activation(tensor, shape=activations.shape[1:])
            answers.append(int(tail(torch.from_numpy(decoded)).argmax()))
            sizes.append(tensor.nbytes)
    assert baseline.nbytes == pytest.approx(np.mean(sizes))
    assert baseline.accuracy == pytest.approx((np.array(answers) == photos.labels).mean())
    assert baseline.agreement == pytest.approx((np.array(answers) == targets.top1).mean())
    assert (baseline.kind, baseline.split_point, baseline.images) == ("codec", "1", 12)


def test_the_codecs_of_an_evaluation_exist() -> None:
    settings = Settings()
    for codec in (*settings.code_codecs, *settings.baseline_codecs):
        assert encode_activation(np.ones((1, 4, 2, 2), np.float32), codec).nbytes > 0


def test_scan_bytes() -> None:
    grey, noise = io.BytesIO(), io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    PIL.Image.new("L", (16, 16)).save(grey, "JPEG")
    PIL.Image.fromarray(pixels).save(noise, "JPEG")
    start_of_scan = grey.getvalue().rindex(b"\xff\xda")
    # The marker has 2 bytes, and the scan header of a single component 8.
    assert scan_bytes(grey.getvalue()) == len(grey.getvalue()) - start_of_scan - 10
    assert scan_bytes(noise.getvalue()) > 1000
    with pytest.raises(ImageError):
        scan_bytes(b"\xff\xd8no jpeg")
