"""A network with a bottleneck in it: the device's part, the server's part and their description."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ArtifactError
from ..network import CapturedNetwork, export_part, on_device
from ..schema import BottleneckPoint, Macs, SplitPoint
from .trained import Bottleneck

__all__ = ["bottleneck_point", "decoder_tail", "encoder_head", "export_encoder"]


def encoder_head(net: CapturedNetwork, bottleneck: Bottleneck) -> nn.Module:
    """The device's part, the head followed by the encoder, in evaluation mode.

    Input (N, C, H, W) -> code (N, *code_shape).
    """
    head, _ = net.bisect(bottleneck.split_point)
    head = _with_weights(head, bottleneck.head_weights, bottleneck.name)
    return nn.Sequential(head, _copy_for(net, bottleneck.encoder)).eval()


def decoder_tail(net: CapturedNetwork, bottleneck: Bottleneck) -> nn.Module:
    """The server's part, the decoder followed by the tail, in evaluation mode.

    Code (N, *code_shape) -> scores (N, classes).
    """
    _, tail = net.bisect(bottleneck.split_point)
    tail = _with_weights(tail, bottleneck.tail_weights, bottleneck.name)
    return nn.Sequential(_copy_for(net, bottleneck.decoder), tail).eval()


def bottleneck_point(net: CapturedNetwork, bottleneck: Bottleneck) -> BottleneckPoint:
    """The bottleneck as a manifest describes it: a split point whose activation is the code."""
    point = net.split_point(bottleneck.split_point)
    macs = bottleneck.autoencoder.macs
    shape = bottleneck.code_shape
    code = SplitPoint(
        name=bottleneck.deployed_name,
        aliases=(),
        shape=shape,
        dtype="float32",
        nbytes=4 * math.prod(shape),
        macs=Macs(point.macs.head + macs, point.macs.tail + macs),
        channel_axis=1,
        stride_order=tuple(range(len(shape) + 1)),
    )
    return BottleneckPoint(code, bottleneck.split_point)


def export_encoder(
    net: CapturedNetwork,
    bottleneck: Bottleneck,
    path: str | Path,
    format: Literal["onnx", "pt2"] = "onnx",
) -> str:
    """Write :func:`encoder_head` to a file for devices and return the file's SHA-256.

    The file is checked as :func:`isplit_plugin.network.export_head` checks a head.

    Raises:
        CaptureError: the encoder cannot be exported, or the export computes something else.
        ArtifactError: the file cannot be written, or the format is unknown.
    """
    net = on_device(net, "cpu")
    example = torch.zeros(2, *net.input_shape, dtype=net.dtype)
    part = encoder_head(net, bottleneck)
    return export_part(part, example, path, split_point=bottleneck.deployed_name, format=format)


def _with_weights(part: nn.Module, weights: Mapping[str, Tensor] | None, name: str) -> nn.Module:
    """A copy of a part with fine-tuned weights, or the part itself if there are none."""
    if weights is None:
        return part
    part = copy.deepcopy(part)
    try:
        part.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ArtifactError(
            f"{name}: the fine-tuned weights do not fit the network: {str(error)[:300]}"
        ) from error
    return part


def _copy_for(net: CapturedNetwork, module: nn.Module) -> nn.Module:
    """A copy with the network's device and dtype."""
    dtype = net.dtype if net.dtype.is_floating_point else torch.float32
    return copy.deepcopy(module).to(net.device, dtype)
