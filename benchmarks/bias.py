"""How compression changes importance: fp16 and uint8 activations, and fp16 gradients.

The importance that a tail computes is exact for the activation that it decodes. Here it is compared
with the importance of the activation that the device had, for the same class, on EfficientNet-Lite0
and the labelled photos of foolbox.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from isplit_plugin import image
from isplit_plugin.demo.photos import labelled_photos, view
from isplit_plugin.network import (
    CapturedNetwork,
    HeadImportance,
    Importance,
    capture,
    cpu_threads,
    efficientnet_lite0,
)
from isplit_plugin.probing.messages import ProbeResponse, decode_probe_response
from isplit_plugin.schema import Preprocessing
from isplit_plugin.wire import decode_activation, encode_activation

from .harness import Row, row

Values = npt.NDArray[np.floating]

CODECS = ("fp16", "uint8")
DEPTHS = (0.2, 0.45, 0.7)
"""Where the measured cuts are, as shares of the block outputs."""
_SMALL = 1e-3
"""Split points whose mean is below this share of the curve's median are left out: a relative error
has no meaning there."""


def run(quick: bool = False) -> list[Row]:
    """Relative errors of importance after each cut (in the tail) and before it (in a probe)."""
    with cpu_threads(1):
        loaded = efficientnet_lite0()
        net = capture(loaded.model, loaded.example_input)
        x = photos(3 if quick else 60, loaded.preprocessing)
        references = [net.importance(item[None]) for item in x]
        values = np.concatenate([reference.values for reference in references])
        blocks = [point.name for point in net.split_points if point.is_block]
        rows: list[Row] = []
        for depth in DEPTHS[:1] if quick else DEPTHS:
            cut = blocks[int(depth * len(blocks))]
            for name, is_head, part in _compressed_importance(net, cut, x, references):
                points = part.shape[1]
                expected = values[:, :points] if is_head else values[:, -points:]
                rows += _error_rows(name, part, expected)
    return rows


def _compressed_importance(
    net: CapturedNetwork, cut: str, x: torch.Tensor, references: Sequence[Importance]
) -> list[tuple[str, bool, Values]]:
    """(title, whether it is the head's part, values (N, P')) for every pair of codecs."""
    head = net.bisect(cut)[0]
    head_side = head_importance(net, cut)
    parts: dict[tuple[str, bool], list[Values]] = defaultdict(list)
    for item, reference in zip(x, references, strict=True):
        with torch.no_grad():
            activation = head(item[None]).contiguous()
        for codec in ("fp32", *CODECS):
            title = f"{cut}, {codec} activation"
            decoded = after_codec(activation, codec)
            tail, gradient = net.gradient_from(cut, decoded, int(reference.target[0]))
            before = int(np.isnan(tail.values[0]).sum())
            parts[f"{title}, tail", False].append(tail.values[:, before:])
            for gradient_codec in ("fp32", "fp16") if codec == "fp32" else ("fp16",):
                received = after_probe_response(gradient, gradient_codec)
                part = head_side.run(item[None]).finish(received)
                parts[f"{title}, {gradient_codec} gradient, head", True].append(part)
    return [(title, is_head, np.concatenate(part)) for (title, is_head), part in parts.items()]


def head_importance(net: CapturedNetwork, cut: str) -> HeadImportance:
    """The head of a cut with its inner split points, without a file in between."""
    head, _ = net.bisect(cut)
    assert isinstance(head, torch.fx.GraphModule)
    names = [point.name for point in net.split_points]
    return HeadImportance(head, cut, net.split_points[: names.index(cut)])


def after_codec(activation: torch.Tensor, codec: str) -> torch.Tensor:
    """What the tail decodes."""
    tensor = encode_activation(activation.numpy(), codec)
    return torch.from_numpy(decode_activation(tensor, shape=tuple(activation.shape[1:])).copy())


def after_probe_response(gradient: torch.Tensor, codec: str) -> torch.Tensor:
    """The gradient that the device decodes."""
    response = ProbeResponse(
        gradient=gradient.numpy(),
        class_id=0,
        ticket="t",
        split_point="p",
        network_hash="h",
        codec=codec,
    )
    body, length = response.encode()
    return torch.from_numpy(decode_probe_response(body, length, tuple(gradient.shape[1:])).gradient)


def photos(count: int, preprocessing: Preprocessing) -> torch.Tensor:
    """Different views of the labelled photos, (count, 3, 224, 224)."""
    rng = np.random.default_rng(0)
    labelled = labelled_photos()
    views = [view(labelled[index % len(labelled)], rng) for index in range(count)]
    return torch.from_numpy(np.stack([image.preprocess(photo, preprocessing) for photo in views]))


def _error_rows(name: str, values: Values, expected: Values) -> list[Row]:
    mean = expected.mean(axis=0)
    kept = mean > _SMALL * np.median(mean[mean > 0])
    of_curve = np.abs(values.mean(axis=0) - mean)[kept] / mean[kept]
    of_images = np.abs(values - expected)[:, kept] / np.maximum(
        expected[:, kept], 1e-2 * mean[kept]
    )
    worst = 100 * float(of_curve.max())
    return [
        row(
            f"{name}: mean curve, worst point",
            worst,
            "%",
            points=int(kept.sum()),
            images=len(expected),
        ),
        row(f"{name}: mean curve, median point", 100 * float(np.median(of_curve)), "%"),
        row(f"{name}: single image, median", 100 * float(np.median(of_images)), "%"),
        row(
            f"{name}: single image, 99th percentile",
            100 * float(np.quantile(of_images, 0.99)),
            "%",
        ),
    ]
