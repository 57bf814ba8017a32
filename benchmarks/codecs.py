"""Every codec on real activations: bytes, encode and decode, beside JPEG encodes of the same photos in the same run.

EfficientNet-Lite0 and, where its weights are given (:mod:`.resnet50`), ResNet-50 on the ImageNet photos that come with
foolbox, each cut early and late.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Final

import foolbox
import numpy as np
import torch

from isplit_plugin import image
from isplit_plugin.network import LoadedNetwork, capture, efficientnet_lite0
from isplit_plugin.wire import codec_names, decode_activation, encode_activation

from . import resnet50
from .harness import Row, interleaved, row

JPEG: Final = "jpeg, quality 90"
SIDES: Final = {"efficientnet-lite0": (28, 7), "resnet50": (28, 14)}
"""Cut at the smallest block output of these sides, the last of equals."""
FEW: Final = ("fp32", "uint8", "uint8+zstd", "q4+zstd", "q4c+zstd", "q4+rle+zstd")


def run(quick: bool = False) -> list[Row]:
    """Rows at two split points of each network. Times are of one photo (medians)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = _run("efficientnet-lite0", efficientnet_lite0(), quick)
        large = resnet50.with_weights()
        return rows if large is None else rows + _run("resnet50", large, quick)
    finally:
        torch.set_num_threads(threads)


def _run(network: str, loaded: LoadedNetwork, quick: bool) -> list[Row]:
    pre = loaded.preprocessing
    files = sorted(Path(foolbox.__file__).parent.glob("data/imagenet_*.jpg"))[: 2 if quick else 20]
    crops = [image.crop(image.load(file), pre) for file in files]
    inputs = torch.from_numpy(np.stack([image.normalize(crop, pre) for crop in crops]))
    net = capture(loaded.model, loaded.example_input)
    rows: list[Row] = []
    jpeg_bytes = statistics.fmean(len(image.to_jpeg(crop, 90)) for crop in crops)
    names = FEW if quick else codec_names()
    blocks = [point for point in net.split_points if point.is_block and len(point.shape) == 3]
    for side in SIDES[network]:
        point = min(
            (p for p in blocks if p.shape[-1] == side), key=lambda p: (p.nbytes, -p.macs.head)
        )
        with torch.inference_mode():
            activations = net.bisect(point.name)[0](inputs).numpy()
            full = loaded.model(inputs).argmax(1)
        tail = net.bisect(point.name)[1]
        label = f"{network} {point.name} {'x'.join(map(str, point.shape))}"
        ms = _times(names, activations, point.channel_axis, crops, rounds=2 if quick else 5)
        rows.append(row(f"{label}: {JPEG}, encode", ms[JPEG, "encode"], "ms", nbytes=jpeg_bytes))
        for codec in names:
            tensors = [
                encode_activation(a[None], codec, channel_axis=point.channel_axis)
                for a in activations
            ]
            nbytes = statistics.fmean(t.nbytes for t in tensors)
            decoded = np.concatenate([decode_activation(t, shape=point.shape) for t in tensors])
            with torch.inference_mode():
                agreement = float(
                    (tail(torch.from_numpy(decoded)).argmax(1) == full).float().mean()
                )
            about = {
                "codec": codec,
                "network": network,
                "split_point": point.name,
                "rival": JPEG,
                "agreement": agreement,
            }
            rows.append(
                row(f"{label}: {codec}, size", nbytes, "bytes", ratio=nbytes / jpeg_bytes, **about)
            )
            for what in ("encode", "decode"):
                value = ms[codec, what]
                rows.append(
                    row(
                        f"{label}: {codec}, {what}",
                        value,
                        "ms",
                        ratio=value / ms[JPEG, "encode"],
                        **about,
                    )
                )
    return rows


def _times(
    names: tuple[str, ...], activations: np.ndarray, axis: int, crops: list[object], *, rounds: int
) -> dict[tuple[str, str], float]:
    """Median milliseconds of (codec, encode or decode); the JPEG encode takes its turn among them."""
    shape = activations.shape[1:]
    jobs: dict[str, Callable[[], object]] = {}
    found: dict[tuple[str, str], list[float]] = {}
    for photo, crop in zip(activations[:, None], crops, strict=True):
        jobs = {f"{JPEG}|encode": lambda c=crop: image.to_jpeg(c, 90)}
        for codec in names:
            tensor = encode_activation(photo, codec, channel_axis=axis)
            jobs[f"{codec}|encode"] = lambda c=codec, p=photo: encode_activation(
                p, c, channel_axis=axis
            )
            jobs[f"{codec}|decode"] = lambda t=tensor: decode_activation(t, shape=shape)
        for job, times in interleaved(jobs, rounds=rounds).items():
            name, what = job.split("|")
            found.setdefault((name, what), []).append(statistics.median(times))
    return {key: statistics.median(times) for key, times in found.items()}
