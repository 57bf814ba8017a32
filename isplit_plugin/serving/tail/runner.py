"""The network of a tail worker: its tails by split point, and how many items they can take at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ...network import CapturedNetwork, on_device
from ...schema import INPUT, FloatArray, Manifest
from ..files import NETWORK
from ..packaging import load_bottlenecks

DEFAULT_TIMEOUT_S: Final = 60.0
REQUEST_SHARE: Final = 0.5
"""Share of the response timeout that one request may take."""
BATCH_SHARE: Final = 0.8
"""Share of the response timeout that all requests of a batch may take together."""


class TailRunner:
    """Runs tails: activation in, class scores out.

    Attributes:
        net: the captured network, on the worker's device.
        bottlenecks: the names of the trained bottlenecks that are served.
        max_items: items of one request.
        max_batch_items: items of all requests of a batch together.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        device: torch.device,
        *,
        max_batch: int,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        if device.type == "cuda":
            # As the profile was measured: TF32 keeps 10 bits of the mantissa.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        self.device = device
        self.net: CapturedNetwork = on_device(CapturedNetwork.load(folder / NETWORK), device)
        decoders = load_bottlenecks(folder, self.net, manifest)
        self.bottlenecks = frozenset(decoders)
        points = {point.name for point in self.net.split_points} & set(manifest.deployed)
        self._tails: Mapping[str, torch.nn.Module] = {
            INPUT: self.net.model,
            **{name: self.net.bisect(name)[1] for name in points},
            **decoders,
        }
        self._dtypes = {p.name: getattr(torch, p.dtype) for p in self.net.split_points}
        self._dtypes |= dict.fromkeys((INPUT, *decoders), self.net.dtype)
        self.max_items, self.max_batch_items = self._measure(manifest, max_batch, timeout_s)

    def run(self, split_point: str, values: FloatArray) -> tuple[FloatArray, float]:
        """Class scores (N, classes) of activations (N, *shape), and the milliseconds they took."""
        started = time.perf_counter()
        with torch.inference_mode():
            scores = self._tails[split_point](self.tensor(split_point, values))
            result: FloatArray = scores.to("cpu", torch.float32).numpy()
        return result, (time.perf_counter() - started) * 1e3

    def tensor(self, split_point: str, values: FloatArray) -> torch.Tensor:
        """Activations as a tensor of the network's type on its device."""
        # Decoded values may be a read-only or unaligned view of the body, which torch does not
        # take.
        owned = np.require(values, np.float32, ("C", "A", "W"))
        return torch.from_numpy(owned).to(self.device, self._dtypes[split_point])

    def _measure(self, manifest: Manifest, max_batch: int, timeout_s: float) -> tuple[int, int]:
        """How many items fit. TorchServe ends a worker that exceeds its response timeout.

        Also warms up.
        """
        example = np.zeros((1, *manifest.input_shape), np.float32)
        item_s = min(self.run(INPUT, example)[1] for _ in range(3)) / 1e3
        in_request = int(REQUEST_SHARE * timeout_s / item_s)
        in_batch = int(BATCH_SHARE * timeout_s / item_s)
        return max(1, min(max_batch, in_request)), max(1, in_batch)


def device_of(gpu_id: object) -> torch.device:
    """The device that TorchServe gave the worker."""
    if gpu_id is not None and torch.cuda.is_available():
        return torch.device(f"cuda:{gpu_id}")
    return torch.device("cpu")


def timeout_of(config: Mapping[str, Any]) -> float:
    """TorchServe's response timeout in seconds."""
    return float(config.get("responseTimeout") or DEFAULT_TIMEOUT_S)
