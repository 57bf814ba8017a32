"""A trained bottleneck as a file: ``<name>.bottleneck.safetensors``, tensors and JSON, read without running code.

A bottleneck is a *bottleneck* of its split point: other bytes on the wire and another tail. Its name,
``<split point>~n<width>s<stride>d<depth>``, can stand where a split point's name stands. The importance of a network
with a bottleneck in it belongs to another network and never mixes with the original's.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ArtifactError, NetworkMismatchError
from ..network import CapturedNetwork
from ..network.execution import on_device
from ..network.export import export_part
from ..schema import BOTTLENECK_MARK, BottleneckPoint, Macs, Preprocessing, SplitPoint
from . import checkpoint
from .autoencoder import Autoencoder, AutoencoderConfig

__all__ = [
    "SUFFIX",
    "Bottleneck",
    "CodeMeasurement",
    "bottleneck_name",
    "bottleneck_point",
    "decoder_tail",
    "encoder_head",
    "export_encoder",
    "load_bottleneck",
]

SUFFIX: Final = ".bottleneck.safetensors"
_KEY: Final = "isplit_bottleneck"

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class CodeMeasurement:
    """One codec on the code, measured on photos that the training did not see.

    ``nbytes``: mean bytes on the wire for one image; times in ms for one image. By class of the network, shape
    (classes,) int64: ``seen`` and ``agree`` under the full network's top-1 class, ``labelled`` and ``correct`` under
    the true class.
    """

    codec: str
    nbytes: float
    encode_ms: float
    decode_ms: float
    seen: Counts
    agree: Counts
    labelled: Counts
    correct: Counts

    @property
    def agreement(self) -> float:
        """Share of photos on which the top-1 class is the full network's."""
        return float(self.agree.sum() / max(1, self.seen.sum()))

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy over the labelled photos, NaN without any."""
        labelled = int(self.labelled.sum())
        return float(self.correct.sum() / labelled) if labelled else math.nan

    def to_json(self) -> dict[str, Any]:
        counts = {n: getattr(self, n).tolist() for n in ("seen", "agree", "labelled", "correct")}
        return {
            "codec": self.codec,
            "nbytes": self.nbytes,
            "encode_ms": self.encode_ms,
            "decode_ms": self.decode_ms,
            "agreement": self.agreement,
            "accuracy": None if math.isnan(self.accuracy) else self.accuracy,
            **counts,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> CodeMeasurement:
        seen, agree, labelled, correct = (
            np.asarray(raw[n], dtype=np.int64) for n in ("seen", "agree", "labelled", "correct")
        )
        for some, whole in ((agree, seen), (correct, labelled)):
            if some.shape != whole.shape or not ((some >= 0) & (some <= whole)).all():
                raise ValueError("expected 0 <= agree <= seen and 0 <= correct <= labelled")
        nbytes, encode_ms, decode_ms = (float(raw[n]) for n in ("nbytes", "encode_ms", "decode_ms"))
        if not all(math.isfinite(v) and v >= 0 for v in (nbytes, encode_ms, decode_ms)):
            raise ValueError(
                f"expected bytes and milliseconds, got {nbytes}, {encode_ms}, {decode_ms}"
            )
        return cls(str(raw["codec"]), nbytes, encode_ms, decode_ms, seen, agree, labelled, correct)


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """A trained bottleneck, the network it belongs to, and what it was measured to do.

    ``head`` and ``tail``: weights of the parts around it where the whole network was trained, else ``None``.
    ``training``: budget, seed, history, photos, device, in JSON types.
    """

    name: str
    network_hash: str
    autoencoder: Autoencoder
    measures: tuple[CodeMeasurement, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Tensor] | None = None
    tail: Mapping[str, Tensor] | None = None

    @cached_property
    def deployed_name(self) -> str:
        """The name with eight digits of the SHA-256 of all weights: an encoder and a decoder that were not trained
        together have different names, so they never meet."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"{self.name}-{digest.hexdigest()[:8]}"

    @property
    def split_point(self) -> str:
        """The split point whose activation the encoder takes."""
        return self.autoencoder.split_point

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of the code without batch: what travels."""
        return self.autoencoder.code_shape

    @property
    def encoder(self) -> nn.Module:
        return self.autoencoder.encoder

    @property
    def decoder(self) -> nn.Module:
        return self.autoencoder.decoder

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, in JSON types."""
        return {
            "name": self.name,
            "network_hash": self.network_hash,
            "split_point": self.split_point,
            "shape": list(self.autoencoder.shape),
            "code_shape": list(self.code_shape),
            "width": self.autoencoder.width,
            "stride": self.autoencoder.config.stride,
            "depth": self.autoencoder.config.depth,
            "whole": self.head is not None,
            "measures": [m.to_json() for m in self.measures],
            "training": dict(self.training),
        }

    def save(self, path: str | Path) -> Path:
        """Write the file (its name should end in :data:`SUFFIX`). Raises ArtifactError."""
        checkpoint.write(Path(path), _KEY, self.describe(), self._tensors())
        return Path(path)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"bottleneck.{n}": t for n, t in self.autoencoder.state_dict().items()}
        for part, weights in (("head", self.head), ("tail", self.tail)):
            tensors |= {f"{part}.{n}": t for n, t in (weights or {}).items()}
        return tensors


def bottleneck_name(autoencoder: Autoencoder) -> str:
    """``<split point>~n<width>s<stride>d<depth>``."""
    config = autoencoder.config
    return f"{autoencoder.split_point}{BOTTLENECK_MARK}n{autoencoder.width}s{config.stride}d{config.depth}"


def load_bottleneck(
    path: str | Path, net: CapturedNetwork, preprocessing: Preprocessing | None = None
) -> Bottleneck:
    """Read a bottleneck of this network.

    With ``preprocessing`` the network hash is checked (NetworkMismatchError), else only that the split point is there
    and has the same shape (SplitPointError, UnknownSplitPointError). Raises ArtifactError for a file that is none.
    """
    file = Path(path)
    described, tensors = checkpoint.read(file, _KEY)
    if preprocessing is not None:
        checkpoint.check_owner(file, described, net.network_hash(preprocessing))
    try:
        point = net.split_point(str(described["split_point"]))
        if tuple(described["shape"]) != point.shape:
            raise NetworkMismatchError(
                f"{file}: made for {point.name!r} of shape {described['shape']}, this network has {list(point.shape)}"
            )
        autoencoder = Autoencoder(point, AutoencoderConfig.from_json(described, where=str(file)))
        measures = tuple(CodeMeasurement.from_json(m) for m in described["measures"])
        name, training, whole = (
            str(described["name"]),
            dict(described["training"]),
            bool(described["whole"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{file}: not a bottleneck ({type(error).__name__}: {error})"
        ) from error
    checkpoint.restore_module(file, autoencoder, tensors, "bottleneck.")
    parts: dict[str, dict[str, Tensor] | None] = {"head": None, "tail": None}
    if whole:
        for part in parts:
            parts[part] = {
                n.removeprefix(f"{part}."): t
                for n, t in tensors.items()
                if n.startswith(f"{part}.")
            }
    bottleneck = Bottleneck(
        name, str(described["network_hash"]), autoencoder.eval(), measures, training, **parts
    )
    encoder_head(net, bottleneck)  # weights of the parts that do not fit show now
    decoder_tail(net, bottleneck)
    return bottleneck


def encoder_head(net: CapturedNetwork, bottleneck: Bottleneck) -> nn.Module:
    """The device's part: input (N, C, H, W) -> code (N, *code_shape), in evaluation mode."""
    head, _ = net.bisect(bottleneck.split_point)
    return nn.Sequential(
        _with(head, bottleneck.head, bottleneck.name), _like(bottleneck.encoder, net)
    ).eval()


def decoder_tail(net: CapturedNetwork, bottleneck: Bottleneck) -> nn.Module:
    """The server's part: code (N, *code_shape) -> scores (N, classes), in evaluation mode."""
    _, tail = net.bisect(bottleneck.split_point)
    return nn.Sequential(
        _like(bottleneck.decoder, net), _with(tail, bottleneck.tail, bottleneck.name)
    ).eval()


def bottleneck_point(net: CapturedNetwork, bottleneck: Bottleneck) -> BottleneckPoint:
    """The bottleneck as a place that a manifest can name: what travels is its code."""
    point, size = net.split_point(bottleneck.split_point), math.prod(bottleneck.code_shape)
    macs = bottleneck.autoencoder.macs
    code = SplitPoint(
        name=bottleneck.deployed_name,
        aliases=(),
        shape=bottleneck.code_shape,
        dtype="float32",
        nbytes=4 * size,
        macs=Macs(point.macs.head + macs, point.macs.tail + macs),
        channel_axis=1,
        stride_order=tuple(range(len(bottleneck.code_shape) + 1)),
    )
    return BottleneckPoint(code, bottleneck.split_point)


def export_encoder(
    net: CapturedNetwork,
    bottleneck: Bottleneck,
    path: str | Path,
    format: Literal["onnx", "pt2"] = "onnx",
) -> str:
    """Write :func:`encoder_head` for devices and return the file's SHA-256; checked as ``network.export_head`` does.

    Raises CaptureError, ArtifactError.
    """
    net = on_device(net, "cpu")
    example = torch.zeros(2, *net.input_shape, dtype=net.dtype)
    part = encoder_head(net, bottleneck)
    return export_part(part, example, path, split_point=bottleneck.deployed_name, format=format)


def _with(part: nn.Module, weights: Mapping[str, Tensor] | None, name: str) -> nn.Module:
    if weights is None:
        return part
    own = copy.deepcopy(part)
    try:
        own.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ArtifactError(
            f"{name}: weights of the network do not fit: {str(error)[:300]}"
        ) from error
    return own


def _like(module: nn.Module, net: CapturedNetwork) -> nn.Module:
    """A copy on the device and of the type of the network; the original stays as it is."""
    return copy.deepcopy(module).to(
        net.device, net.dtype if net.dtype.is_floating_point else torch.float32
    )
