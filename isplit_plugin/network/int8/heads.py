"""Heads in int8, as ONNX: what they put out is what codecs and transforms are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArtifactError


@dataclass(slots=True)
class Int8Heads:
    """The int8 heads of a network.

    Attributes:
        network_hash: of the network that they were made from.
        files: split point -> ONNX, ``input`` (N, ...) -> ``activation`` (N, ...), both float32.
        float_layers: how many of the first convolutions compute in float32.
    """

    network_hash: str
    files: Mapping[str, bytes]
    float_layers: int
    _sessions: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def activations(self, split_points: Sequence[str], x: Tensor) -> dict[str, Tensor]:
        """What the heads of some split points put out for inputs ``x`` (N, ...), on its device.

        Raises ArtifactError for a split point without a head, and without onnxruntime.
        """
        values = x.detach().float().cpu().numpy()
        return {
            name: torch.from_numpy(np.asarray(self._session(name).run(None, {"input": values})[0]))
            .to(x.device, x.dtype)
            for name in split_points
        }  # fmt: skip

    def sha256(self) -> dict[str, str]:
        """The SHA-256 of each head, in hexadecimal digits."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}

    def _session(self, name: str) -> Any:
        if name not in self.files:
            raise ArtifactError(
                f"int8 head of {name!r}: expected one of {', '.join(self.files) or 'none'}"
            )
        if name not in self._sessions:
            self._sessions[name] = session(self.files[name], torch.get_num_threads())
        return self._sessions[name]


def session(data: bytes, threads: int = 1) -> Any:
    """An ONNX model in onnxruntime on the CPU. Raises ArtifactError without onnxruntime."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ArtifactError(
            "int8 heads take onnxruntime: pip install isplit-plugin[onnx]"
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
