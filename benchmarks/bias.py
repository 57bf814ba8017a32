"""What compression does to importance: fp16 and uint8 activations, and fp16 gradients, on real photos.

The importance that a tail computes is exact for the activation that it decoded. How far that is from the importance of
the activation that the device had is measured here, on EfficientNet-Lite0 with the labelled photos of the foolbox
wheel, always for the same class.
"""

from __future__ import annotations

import numpy as np
import torch

from isplit_plugin import image
from isplit_plugin.demo.photos import labelled_photos, view
from isplit_plugin.network import CapturedNetwork, HeadImportance, capture, graph
from isplit_plugin.network.zoo import efficientnet_lite0
from isplit_plugin.probing.messages import ProbeResponse, decode_probe_response
from isplit_plugin.wire import decode_activation, encode_activation

from .harness import Row, row

CODECS = ("fp16", "uint8")
DEPTHS = (0.2, 0.45, 0.7)
"""Where the measured cuts lie, as shares of the block outputs."""
_SMALL = 1e-3
"""Points whose mean lies below this share of the curve's median are left out: their relative error says nothing."""


def inside(net: CapturedNetwork, point: str) -> HeadImportance:
    """The head of ``point`` with its inner split points, without a file in between."""
    head, _ = net.bisect(point)
    assert isinstance(head, torch.fx.GraphModule)
    cuts = list(graph.analyse(head.graph).cuts)
    return HeadImportance(head, cuts, [p.channel_axis for p in net.split_points[: len(cuts)]])


def travelled(activation: torch.Tensor, codec: str) -> torch.Tensor:
    """What the tail decodes."""
    array = activation.numpy()
    return torch.from_numpy(
        decode_activation(encode_activation(array, codec), shape=array.shape[1:]).copy()
    )


def through_wire(gradient: torch.Tensor, codec: str) -> torch.Tensor:
    """A gradient as the device decodes it."""
    given = {"class_id": 0, "ticket": "t", "split_point": "p", "network_hash": "h", "codec": codec}
    body, length = ProbeResponse(gradient=gradient.numpy(), **given).encode()  # type: ignore[arg-type]
    return torch.from_numpy(decode_probe_response(body, length, tuple(gradient.shape[1:])).gradient)


def photos(count: int, net_pre: object) -> torch.Tensor:
    """Different views of the labelled photos, (count, 3, 224, 224)."""
    rng = np.random.default_rng(0)
    known = labelled_photos()
    shots = [view(known[i % len(known)], rng) for i in range(count)]
    return torch.from_numpy(np.stack([image.preprocess(shot, net_pre) for shot in shots]))  # type: ignore[arg-type]


def _errors(name: str, found: np.ndarray, whole: np.ndarray) -> list[Row]:
    """Rows for values (N, P') against those of the whole network."""
    mean = whole.mean(axis=0)
    kept = mean > _SMALL * np.median(mean[mean > 0])
    bias = np.abs(found.mean(axis=0) - mean)[kept] / mean[kept]
    single = np.abs(found - whole)[:, kept] / np.maximum(whole[:, kept], 1e-2 * mean[kept])
    return [
        row(
            f"{name}: mean curve, worst point",
            100 * float(bias.max()),
            "%",
            points=int(kept.sum()),
            images=len(whole),
        ),
        row(f"{name}: mean curve, median point", 100 * float(np.median(bias)), "%"),
        row(f"{name}: single image, median", 100 * float(np.median(single)), "%"),
        row(f"{name}: single image, 99th percentile", 100 * float(np.quantile(single, 0.99)), "%"),
    ]


def run(quick: bool = False) -> list[Row]:
    """Relative errors of importance behind each cut (the tail's) and before it (a probe's), by codec."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        loaded = efficientnet_lite0()
        net = capture(loaded.model, loaded.example_input)
        x = photos(3 if quick else 60, loaded.preprocessing)
        blocks = [p.name for p in net.split_points if p.is_block]
        cuts = [blocks[int(depth * len(blocks))] for depth in (DEPTHS[:1] if quick else DEPTHS)]
        whole = [net.importance(one[None]) for one in x]
        values = np.concatenate([w.values for w in whole])
        for cut in cuts:
            head, looked = net.bisect(cut)[0], inside(net, cut)
            found: dict[str, list[np.ndarray]] = {}
            for one, reference in zip(x, whole, strict=True):
                with torch.no_grad():
                    activation = head(one[None]).contiguous()
                target = int(reference.target[0])
                for codec in ("fp32", *CODECS):
                    tail, gradient = net.gradient_from(cut, travelled(activation, codec), target)
                    before = int(np.isnan(tail.values[0]).sum())
                    found.setdefault(f"{cut}, {codec} activation, tail", []).append(
                        tail.values[:, before:]
                    )
                    for kind in ("fp16",) if codec != "fp32" else ("fp32", "fp16"):
                        joined = looked.run(one[None]).finish(through_wire(gradient, kind))
                        name = f"{cut}, {codec} activation, {kind} gradient, head"
                        found.setdefault(name, []).append(joined)
            for name, parts in found.items():
                part = np.concatenate(parts)
                compared = (
                    values[:, : part.shape[1]]
                    if name.endswith("head")
                    else values[:, -part.shape[1] :]
                )
                rows += _errors(name, part, compared)
    finally:
        torch.set_num_threads(threads)
    return rows
