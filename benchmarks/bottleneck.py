"""Bottlenecks: time of encoder and decoder beside head and JPEG, bytes, and what training costs.

Weights of the bottlenecks are random: times do not depend on them, and of the bytes only the codes with run lengths
do. What trained ones do is in ``docs/explanation/evaluation.md``. ResNet-50 has its ImageNet weights where they are given
(:mod:`.resnet50`), else random ones, which changes no time.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache, partial

import numpy as np
import PIL.Image
import torch

from isplit_plugin import image
from isplit_plugin.bottleneck import Autoencoder
from isplit_plugin.network import CapturedNetwork, capture, load_network
from isplit_plugin.wire import decode_activation, encode_activation

from . import resnet50
from .harness import Row, interleaved, row

CODECS = ("uint8", "q4", "q4+rle", "q2+rle")
PLACES = {"resnet50": ("layer2", "layer3"), "efficientnet-lite0": (0.3, 0.6)}


def _networks() -> dict[str, CapturedNetwork]:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    lite = load_network("isplit_plugin.network.zoo:efficientnet_lite0")
    large = resnet50.with_weights(otherwise="ResNet-50 has random weights")
    return {
        "resnet50": capture(resnet50.resnet50().model if large is None else large.model, x),
        "efficientnet-lite0": capture(lite.model, lite.example_input),
    }


def _points(net: CapturedNetwork, places: tuple[str | float, ...]) -> list[str]:
    """Named points, or block outputs with maps at these shares of the way."""
    maps = [
        p.name for p in net.split_points if p.is_block and len(p.shape) == 3 and p.shape[1] >= 4
    ]
    return [p if isinstance(p, str) else maps[round(p * (len(maps) - 1))] for p in places]


@cache
def _photo() -> PIL.Image.Image:
    """Smooth colours, 224 x 224."""
    coarse = np.random.default_rng(0).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((224, 224), PIL.Image.Resampling.BICUBIC)


@cache
def _jpeg_of(nbytes: float) -> tuple[int, int]:
    """The JPEG quality of a photo-like crop whose size is nearest, and that size."""
    sizes = {q: len(image.to_jpeg(_photo(), q)) for q in range(1, 96, 2)}
    quality = min(sizes, key=lambda q: abs(sizes[q] - nbytes))
    return quality, sizes[quality]


def peak_training_memory(photos: int) -> tuple[float, float, float]:
    """MB before and at the peak, and seconds, of one epoch at ResNet-50's layer3, in a fresh process."""
    code = (
        "import resource, time, torch, numpy as np, torchvision; torch.set_num_threads(1)\n"
        "from isplit_plugin.bottleneck import Budget, Photos, train_bottlenecks\n"
        "from isplit_plugin.network import capture\n"
        "from isplit_plugin.schema import Preprocessing\n"
        "torch.manual_seed(0)\n"
        "net = capture(torchvision.models.resnet50(weights=None).eval(), torch.randn(1, 3, 224, 224))\n"
        "pre = Preprocessing(crop=(224, 224)); rng = np.random.default_rng(0)\n"
        f"some = [(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8), i) for i in range({photos})]\n"
        "photos = Photos(some, pre, 1000)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; start = time.process_time()\n"
        "train_bottlenecks(net, ['layer3'], photos, preprocessing=pre, test=Photos(some[:4], pre, 1000),\n"
        "                  budget=Budget(epochs=1, batch_size=16), codecs=())\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(before / 1e3, peak / 1e3, time.process_time() - start)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, peak, seconds = (float(v) for v in done.stdout.split())
    return before, peak, seconds


def run(quick: bool = False) -> list[Row]:
    torch.set_num_threads(1)
    rounds = 3 if quick else 20
    rows: list[Row] = []
    for name, net in _networks().items():
        for point_name in _points(net, PLACES[name]):
            point = net.split_point(point_name)
            head, _ = net.bisect(point_name)
            made = Autoencoder(point).eval()
            x = torch.randn(1, *net.input_shape)
            with torch.inference_mode():
                activation = head(x)
                code = made.encoder(activation)
                times = interleaved(
                    {
                        "head": partial(head, x),
                        "encoder": partial(made.encoder, activation),
                        "decoder": partial(made.decoder, code),
                    },
                    rounds=rounds,
                )
            where = f"{name} {point_name}"
            for part, found in times.items():
                rows.append(row(f"{where}: {part}", float(np.median(found)), "ms"))
            values = code.numpy()
            for codec in CODECS:
                tensor = encode_activation(values, codec)
                quality, size = _jpeg_of(tensor.nbytes)
                times = interleaved(
                    {
                        "encode": partial(encode_activation, values, codec),
                        "decode": partial(decode_activation, tensor, shape=made.code_shape),
                        "jpeg": partial(image.to_jpeg, _photo(), quality),
                    },
                    rounds=rounds,
                )
                rows.append(
                    row(
                        f"{where}: code as {codec}", tensor.nbytes, "bytes", nearest_jpeg_bytes=size
                    )
                )
                for part, found in times.items():
                    label = (
                        f"JPEG of quality {quality}, {size} bytes"
                        if part == "jpeg"
                        else f"{part} {codec}"
                    )
                    rows.append(row(f"{where}: {label}", float(np.median(found)), "ms"))
    photos = 16 if quick else 64
    before, peak, seconds = peak_training_memory(photos)
    rows.append(
        row(
            "training, resnet50 layer3: peak memory above the start",
            peak - before,
            "MB",
            photos=photos,
        )
    )
    rows.append(
        row(
            "training, resnet50 layer3: one photo, one epoch and its share of features",
            seconds / photos,
            "s",
        )
    )
    return rows
