"""A toy model with a refining cut: its transform, its profile, and requests to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from isplit_plugin.network import CapturedNetwork
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Refinement
from isplit_plugin.wire import (
    TailRequest,
    Transform,
    decode_activation,
    encode_activation,
    margins_of,
)
from toys.serving import CLASSES, PREPROCESSING, head_of, profile_of
from toys.transforms import toy_transform

POINT = "relu1"
CUT = Cut(POINT, "dct", 3, 7)


def refinement(threshold: float = 0.1, **changes: Any) -> Refinement:
    usual = Refinement(POINT, 3, (5, 6, 7), threshold, 0.2, 400, 0, 0.0075)
    return replace(usual, **changes)


def refining_transform(net: CapturedNetwork) -> Transform:
    return toy_transform(
        net.split_point(POINT).shape,
        network_hash=net.network_hash(PREPROCESSING),
        split_point=POINT,
        step=2.0,
        low=0.0,
    )


def refining_profile(net: CapturedNetwork, threshold: float) -> Profile:
    """A profile whose every coding is faithful, with a proven refinement."""
    sizes = {(POINT, f"dct@{quality}"): 100.0 + 40 * quality for quality in range(8)}
    sizes |= {(POINT, cut.coding): 300.0 for cut in refinement(threshold).cuts}
    torch.manual_seed(3)
    made = profile_of(net, torch.randn(12, 3, 16, 16), nbytes=sizes)
    return replace(made, refinements=(refinement(threshold),))


def coded(net: CapturedNetwork, transform: Transform, x: torch.Tensor, quality: int) -> np.ndarray:
    """The scores (N, C) that the tail gives to inputs ``x`` coded in this quality."""
    exact = head_of(net, POINT, x)
    tensor = encode_activation(exact, f"dct@{quality}", transform=transform)
    back = decode_activation(tensor, shape=exact.shape[1:], transform=transform)
    with torch.inference_mode():
        return np.asarray(net.bisect(POINT)[1](torch.from_numpy(back)))


def middle_margin(net: CapturedNetwork, transform: Transform, x: torch.Tensor) -> float:
    """A threshold that about half of the inputs are below, and none is near."""
    margins = np.sort(margins_of(coded(net, transform, x, 3)))
    half = len(margins) // 2
    return float(margins[half - 1] + margins[half]) / 2


def refining_request(
    net: CapturedNetwork, transform: Transform, x: torch.Tensor, quality: int, **fields: Any
) -> TailRequest:
    """A request of the refining cut with the inputs coded in ``quality``."""
    tensor = encode_activation(head_of(net, POINT, x), f"dct@{quality}", transform=transform)
    fields = {"cut": CUT, "network_hash": net.network_hash(PREPROCESSING), **fields}
    return TailRequest(tensor=tensor, scores=True, **fields)


__all__ = ["CLASSES", "CUT", "POINT"]
