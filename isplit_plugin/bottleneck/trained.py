"""A trained bottleneck, and what was measured of it.

A bottleneck has a name, ``<split point>~n<width>s<stride>d<depth>``, and is deployed beside the
split points of the network. The network with a bottleneck in it is another network: its importance
never mixes with the original's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ..schema import BOTTLENECK_MARK
from . import tensor_files
from .autoencoder import Autoencoder

__all__ = ["BOTTLENECK_SUFFIX", "FILE_KEY", "Bottleneck", "CodeMeasurement", "bottleneck_name"]

BOTTLENECK_SUFFIX: Final = ".bottleneck.safetensors"
"""How the name of a bottleneck's file ends."""
FILE_KEY: Final = "isplit_bottleneck"

_COUNTS: Final = ("images", "agreeing", "labelled", "correct")
_COSTS: Final = ("nbytes", "encode_ms", "decode_ms")


@dataclass(frozen=True, slots=True, eq=False)
class CodeMeasurement:
    """What was measured of a bottleneck's code with one codec, on photos not used for training.

    The counts have shape (classes,) int64.

    Attributes:
        codec: name of the codec.
        nbytes: mean bytes of the body of a request with one image.
        encode_ms, decode_ms: median milliseconds for one image.
        images: images of each class, by the full network's top-1 class.
        agreeing: those of them whose top-1 class equals the full network's.
        labelled: images of each class, by the label.
        correct: those of them whose top-1 class equals the label.
    """

    codec: str
    nbytes: float
    encode_ms: float
    decode_ms: float
    images: npt.NDArray[np.int64]
    agreeing: npt.NDArray[np.int64]
    labelled: npt.NDArray[np.int64]
    correct: npt.NDArray[np.int64]

    @property
    def agreement(self) -> float:
        """Share of the images whose top-1 class equals the full network's."""
        return float(self.agreeing.sum() / max(1, self.images.sum()))

    @property
    def accuracy(self) -> float:
        """Share of the labelled images whose top-1 class equals the label; NaN without labels."""
        labelled = int(self.labelled.sum())
        return float(self.correct.sum() / labelled) if labelled else math.nan

    def to_json(self) -> dict[str, Any]:
        return {
            "codec": self.codec,
            **{name: getattr(self, name) for name in _COSTS},
            "agreement": self.agreement,
            "accuracy": None if math.isnan(self.accuracy) else self.accuracy,
            **{name: getattr(self, name).tolist() for name in _COUNTS},
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> CodeMeasurement:
        """Raises KeyError, TypeError or ValueError."""
        counts = {name: np.asarray(raw[name], dtype=np.int64) for name in _COUNTS}
        for name, total_name in (("agreeing", "images"), ("correct", "labelled")):
            count, total = counts[name], counts[total_name]
            if count.shape != total.shape or not ((count >= 0) & (count <= total)).all():
                raise ValueError(f"expected 0 <= {name} <= {total_name} for every class")
        nbytes, encode_ms, decode_ms = (float(raw[name]) for name in _COSTS)
        if not all(math.isfinite(cost) and cost >= 0 for cost in (nbytes, encode_ms, decode_ms)):
            raise ValueError(
                f"expected bytes and milliseconds from 0, got {nbytes}, {encode_ms} and {decode_ms}"
            )
        return cls(str(raw["codec"]), nbytes, encode_ms, decode_ms, **counts)


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """A trained bottleneck of one network.

    Attributes:
        name: ``<split point>~n<width>s<stride>d<depth>``.
        network_hash: the network that it belongs to.
        autoencoder: encoder and decoder, in evaluation mode.
        measurements: one for each codec that was measured.
        training: budget, seed, history, photos and device of the training, in JSON types.
        head_weights, tail_weights: weights of the network around the autoencoder if they were
            fine-tuned, otherwise ``None``.
    """

    name: str
    network_hash: str
    autoencoder: Autoencoder
    measurements: tuple[CodeMeasurement, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    head_weights: Mapping[str, Tensor] | None = None
    tail_weights: Mapping[str, Tensor] | None = None

    @cached_property
    def deployed_name(self) -> str:
        """The name with eight digits of the SHA-256 of all weights.

        An encoder and a decoder from different trainings have different names, so they are never
        used together.
        """
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
        """Shape of the code without batch."""
        return self.autoencoder.code_shape

    @property
    def encoder(self) -> nn.Module:
        """Activation (N, ...) -> code (N, *code_shape)."""
        return self.autoencoder.encoder

    @property
    def decoder(self) -> nn.Module:
        """Code (N, *code_shape) -> activation (N, ...)."""
        return self.autoencoder.decoder

    def describe(self) -> dict[str, Any]:
        """Everything except the weights, in JSON types."""
        return {
            "name": self.name,
            "network_hash": self.network_hash,
            "split_point": self.split_point,
            "shape": list(self.autoencoder.shape),
            "code_shape": list(self.code_shape),
            "width": self.autoencoder.width,
            "stride": self.autoencoder.config.stride,
            "depth": self.autoencoder.config.depth,
            "finetuned": self.head_weights is not None,
            "measurements": [measurement.to_json() for measurement in self.measurements],
            "training": dict(self.training),
        }

    def save(self, path: str | Path) -> Path:
        """Write a file that :func:`load_bottleneck` reads. Raises ArtifactError.

        Its name should end in :data:`BOTTLENECK_SUFFIX`.
        """
        tensor_files.write(Path(path), FILE_KEY, self.describe(), self._tensors())
        return Path(path)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **tensor_files.with_prefix("autoencoder", self.autoencoder.state_dict()),
            **tensor_files.with_prefix("head", self.head_weights or {}),
            **tensor_files.with_prefix("tail", self.tail_weights or {}),
        }


def bottleneck_name(autoencoder: Autoencoder) -> str:
    """``<split point>~n<width>s<stride>d<depth>``."""
    stride, depth = autoencoder.config.stride, autoencoder.config.depth
    return f"{autoencoder.split_point}{BOTTLENECK_MARK}n{autoencoder.width}s{stride}d{depth}"
