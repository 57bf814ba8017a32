"""Bottlenecks: times of encoder and decoder next to head and JPEG, bytes, and cost of training.

The bottlenecks have random weights. Times do not depend on the weights, and of the bytes only those
of codecs with run lengths do. Trained bottlenecks are in ``docs/explanation/evaluation.md``.
ResNet-50 has ImageNet weights if they are given (:mod:`.resnet50`), otherwise random ones.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from isplit_plugin import image
from isplit_plugin.bottleneck import Autoencoder
from isplit_plugin.network import CapturedNetwork, capture, load_network
from isplit_plugin.wire import decode_activation, encode_activation

from . import resnet50
from .harness import Row, interleaved, row

CODECS = ("uint8", "q4+zstd", "q4+rle+zstd", "q2+rle+zstd")
SPLIT_POINTS: dict[str, tuple[str | float, ...]] = {
    "resnet50": ("layer2", "layer3"),
    "efficientnet-lite0": (0.3, 0.6),
}
"""Names, or shares of the way through the block outputs that have maps."""

_TRAINING = """\
import resource, time, torch, numpy as np, torchvision
from isplit_plugin.bottleneck import Budget, Photos, train_bottlenecks
from isplit_plugin.network import capture
from isplit_plugin.schema import Preprocessing

torch.set_num_threads(1)
torch.manual_seed(0)
model = torchvision.models.resnet50(weights=None).eval()
net = capture(model, torch.randn(1, 3, 224, 224))
preprocessing = Preprocessing(crop=(224, 224))
rng = np.random.default_rng(0)
images = [(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8), i) for i in range({photos})]
photos = Photos(images, preprocessing, 1000)
test = Photos(images[:4], preprocessing, 1000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
train_bottlenecks(net, ["layer3"], photos, preprocessing=preprocessing, test=test,
                  budget=Budget(epochs=1, batch_size=16), codecs=())
seconds = time.process_time() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(before / 1e3, peak / 1e3, seconds)
"""


def run(quick: bool = False) -> list[Row]:
    """All rows; ``quick`` measures only a few rounds."""
    torch.set_num_threads(1)
    rounds = 3 if quick else 20
    rows: list[Row] = []
    for name, net in _networks().items():
        for split_point in _split_points(net, SPLIT_POINTS[name]):
            rows += _split_point_rows(f"{name} {split_point}", net, split_point, rounds)
    rows += _training_rows(photos=16 if quick else 64)
    return rows


def _split_point_rows(
    where: str, net: CapturedNetwork, split_point: str, rounds: int
) -> Iterator[Row]:
    """Times of head, encoder and decoder, and the rows of each codec."""
    head, _ = net.bisect(split_point)
    autoencoder = Autoencoder(net.split_point(split_point)).eval()
    x = torch.randn(1, *net.input_shape)
    with torch.inference_mode():
        activation = head(x)
        code = autoencoder.encoder(activation)
        times = interleaved(
            {
                "head": partial(head, x),
                "encoder": partial(autoencoder.encoder, activation),
                "decoder": partial(autoencoder.decoder, code),
            },
            rounds=rounds,
        )
    for part, milliseconds in times.items():
        yield row(f"{where}: {part}", float(np.median(milliseconds)), "ms")
    for codec in CODECS:
        yield from _codec_rows(where, code.numpy(), codec, rounds)


def _codec_rows(where: str, code: npt.NDArray[Any], codec: str, rounds: int) -> Iterator[Row]:
    """Bytes and times of a code with one codec, next to a JPEG of the same size."""
    tensor = encode_activation(code, codec)
    quality, jpeg_bytes = _jpeg_of_size(tensor.nbytes)
    times = interleaved(
        {
            f"encode {codec}": partial(encode_activation, code, codec),
            f"decode {codec}": partial(decode_activation, tensor, shape=code.shape[1:]),
            f"JPEG of quality {quality}, {jpeg_bytes} bytes": partial(
                image.to_jpeg, _photo(), quality
            ),
        },
        rounds=rounds,
    )
    yield row(f"{where}: code as {codec}", tensor.nbytes, "bytes", nearest_jpeg_bytes=jpeg_bytes)
    for job, milliseconds in times.items():
        yield row(f"{where}: {job}", float(np.median(milliseconds)), "ms")


def _training_rows(photos: int) -> list[Row]:
    """Memory and time of one epoch at ResNet-50's layer3, measured in a fresh process."""
    command = [sys.executable, "-c", _TRAINING.format(photos=photos)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    before, peak, seconds = (float(number) for number in process.stdout.split())
    return [
        row(
            "training, resnet50 layer3: peak memory above the start",
            peak - before,
            "MB",
            photos=photos,
        ),
        row(
            "training, resnet50 layer3: one photo, one epoch and its share of features",
            seconds / photos,
            "s",
        ),
    ]


def _networks() -> dict[str, CapturedNetwork]:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    lite = load_network("isplit_plugin.network.zoo:efficientnet_lite0")
    large = resnet50.with_weights(otherwise="ResNet-50 has random weights")
    return {
        "resnet50": capture((large or resnet50.resnet50()).model, x),
        "efficientnet-lite0": capture(lite.model, lite.example_input),
    }


def _split_points(net: CapturedNetwork, chosen: tuple[str | float, ...]) -> list[str]:
    """The names of :data:`SPLIT_POINTS`."""
    with_maps = [
        point.name
        for point in net.split_points
        if point.is_block and len(point.shape) == 3 and point.shape[1] >= 4
    ]
    return [
        choice if isinstance(choice, str) else with_maps[round(choice * (len(with_maps) - 1))]
        for choice in chosen
    ]


@cache
def _photo() -> PIL.Image.Image:
    """An image of smooth colours, 224 x 224."""
    coarse = np.random.default_rng(0).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((224, 224), PIL.Image.Resampling.BICUBIC)


@cache
def _jpeg_of_size(nbytes: float) -> tuple[int, int]:
    """The JPEG quality whose size is nearest, and that size."""
    sizes = {quality: len(image.to_jpeg(_photo(), quality)) for quality in range(1, 96, 2)}
    quality = min(sizes, key=lambda quality: abs(sizes[quality] - nbytes))
    return quality, sizes[quality]
