"""Every codec on real activations: bytes, time to encode and to decode, agreement.

JPEG encodes of the same photos take turns with the codecs. The networks are EfficientNet-Lite0 and,
where its weights are given (:mod:`.resnet50`), ResNet-50, each cut early and late, on the ImageNet
photos that come with foolbox.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import foolbox
import numpy as np
import PIL.Image
import torch
from torch import nn

from isplit_plugin import image
from isplit_plugin.network import CapturedNetwork, LoadedNetwork, capture, efficientnet_lite0
from isplit_plugin.schema import FloatArray, SplitPoint
from isplit_plugin.wire import codec_names, decode_activation, encode_activation

from . import resnet50
from .harness import Row, interleaved, row

JPEG: Final = "jpeg, quality 90"
SIDES: Final = {"efficientnet-lite0": (28, 7), "resnet50": (28, 14)}
"""Cut at the smallest block output of these sides, the last of equals."""
QUICK_CODECS: Final = ("fp32", "uint8", "uint8+zstd", "q4+zstd", "q4c+zstd", "q4+rle+zstd")

Milliseconds = dict[tuple[str, str], float]
"""By codec and by "encode" or "decode"."""


@dataclass(frozen=True)
class MeasuredCut:
    """One split point of a network, with the activations of the photos there."""

    label: str
    network: str
    point: SplitPoint
    activations: FloatArray
    tail: nn.Module
    top1: torch.Tensor


def run(quick: bool = False) -> list[Row]:
    """Rows at two split points of each network. Times are medians for one photo."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = _network_rows("efficientnet-lite0", efficientnet_lite0(), quick)
        large = resnet50.with_weights()
        return rows if large is None else rows + _network_rows("resnet50", large, quick)
    finally:
        torch.set_num_threads(threads)


def _network_rows(network: str, loaded: LoadedNetwork, quick: bool) -> list[Row]:
    preprocessing = loaded.preprocessing
    files = sorted(Path(foolbox.__file__).parent.glob("data/imagenet_*.jpg"))[: 2 if quick else 20]
    crops = [image.crop(image.load(file), preprocessing) for file in files]
    inputs = torch.from_numpy(np.stack([image.normalize(crop, preprocessing) for crop in crops]))
    net = capture(loaded.model, loaded.example_input)
    codecs = QUICK_CODECS if quick else codec_names()
    jpeg_bytes = statistics.fmean(len(image.to_jpeg(crop, 90)) for crop in crops)
    rows: list[Row] = []
    for side in SIDES[network]:
        cut = _cut(network, net, side, inputs)
        times = _times(codecs, cut, crops, rounds=2 if quick else 5)
        jpeg_ms = times[JPEG, "encode"]
        rows.append(row(f"{cut.label}: {JPEG}, encode", jpeg_ms, "ms", nbytes=jpeg_bytes))
        for codec in codecs:
            rows += _codec_rows(codec, cut, times, jpeg_bytes)
    return rows


def _cut(network: str, net: CapturedNetwork, side: int, inputs: torch.Tensor) -> MeasuredCut:
    blocks = [p for p in net.split_points if p.is_block and len(p.shape) == 3]
    point = min(
        (block for block in blocks if block.shape[-1] == side),
        key=lambda block: (block.nbytes, -block.macs.head),
    )
    head, tail = net.bisect(point.name)
    with torch.inference_mode():
        activations = head(inputs).numpy()
        top1 = net.model(inputs).argmax(1)
    label = f"{network} {point.name} {'x'.join(map(str, point.shape))}"
    return MeasuredCut(label, network, point, activations, tail, top1)


def _codec_rows(codec: str, cut: MeasuredCut, times: Milliseconds, jpeg_bytes: float) -> list[Row]:
    """Size, time to encode and time to decode."""
    point = cut.point
    tensors = [
        encode_activation(activation[None], codec, channel_axis=point.channel_axis)
        for activation in cut.activations
    ]
    decoded = np.concatenate([decode_activation(tensor, shape=point.shape) for tensor in tensors])
    with torch.inference_mode():
        agreement = float(
            (cut.tail(torch.from_numpy(decoded)).argmax(1) == cut.top1).float().mean()
        )
    facts = {
        "codec": codec,
        "network": cut.network,
        "split_point": point.name,
        "rival": JPEG,
        "agreement": agreement,
    }
    nbytes = statistics.fmean(tensor.nbytes for tensor in tensors)
    name = f"{cut.label}: {codec}"
    rows = [row(f"{name}, size", nbytes, "bytes", ratio=nbytes / jpeg_bytes, **facts)]
    for step in ("encode", "decode"):
        ms = times[codec, step]
        rows.append(row(f"{name}, {step}", ms, "ms", ratio=ms / times[JPEG, "encode"], **facts))
    return rows


def _times(
    codecs: tuple[str, ...], cut: MeasuredCut, crops: list[PIL.Image.Image], *, rounds: int
) -> Milliseconds:
    """Medians over the photos; the JPEG encode takes turns with the codecs."""
    axis = cut.point.channel_axis
    samples: dict[tuple[str, str], list[float]] = {}
    for activation, crop in zip(cut.activations[:, None], crops, strict=True):
        jobs: dict[str, Callable[[], object]] = {f"{JPEG}|encode": partial(image.to_jpeg, crop, 90)}
        for codec in codecs:
            tensor = encode_activation(activation, codec, channel_axis=axis)
            jobs[f"{codec}|encode"] = partial(
                encode_activation, activation, codec, channel_axis=axis
            )
            jobs[f"{codec}|decode"] = partial(decode_activation, tensor, shape=cut.point.shape)
        for job, times in interleaved(jobs, rounds=rounds).items():
            codec, step = job.split("|")
            samples.setdefault((codec, step), []).append(statistics.median(times))
    return {key: statistics.median(values) for key, values in samples.items()}
