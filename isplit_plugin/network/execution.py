"""Running a captured network: device, number of threads, precision, and activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from ..errors import CaptureError, DataError
from .captured_network import CapturedNetwork

__all__ = ["activations", "cpu_threads", "full_precision", "on_best_device", "on_device"]

_TOLERANCE: Final = 1e-2
"""Largest difference between two devices, relative to the largest score."""


def on_device(net: CapturedNetwork, device: str | torch.device) -> CapturedNetwork:
    """The same network with its parameters on another device; ``net`` if it is already there.

    A graph can hold what is true only on the device where it was captured, such as the memory
    layout of attention on the CPU. So the network is run on a random input on both devices.

    Raises CaptureError if it does not run on the device, or computes something else there.
    """
    try:
        device = torch.device(device)
        if net.device.type == device.type:
            return net
        moved = net.to(device)
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(2, *net.input_shape, generator=generator, dtype=net.dtype)
        expected = net.importance(x.to(net.device)).scores
        scores = moved.importance(x.to(device)).scores
    except Exception as error:  # torch raises many types here
        raise CaptureError(
            f"the network does not run on {device}: {type(error).__name__}: {error}"
        ) from error
    largest = max(float(np.abs(expected).max()), 1e-30)
    difference = float(np.abs(expected - scores).max()) / largest
    if not difference <= _TOLERANCE:
        raise CaptureError(
            f"the network computes something else on {device}: relative difference "
            f"{difference:.2g}, expected at most {_TOLERANCE:g}"
        )
    return moved


def on_best_device(net: CapturedNetwork) -> CapturedNetwork:
    """The network on a CUDA device if there is one and it runs there, else ``net``."""
    if not torch.cuda.is_available():
        return net
    try:
        return on_device(net, "cuda")
    except CaptureError:
        return net


def activations(
    net: CapturedNetwork, split_points: Sequence[str], x: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The activations at some split points and the scores, in one forward pass of ``x`` (N, ...).

    Raises SplitPointError, UnknownSplitPointError.
    """
    nodes = {name: net.node(name) for name in split_points}
    keeper = _Keeper(net.model, nodes.values())
    with torch.inference_mode():
        scores = keeper.run(x)
    return {name: keeper.values[node] for name, node in nodes.items()}, scores


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Run the body with ``count`` CPU threads (``None``: unchanged). Raises DataError below 1.

    It holds for torch and for the matrix products of numpy.
    """
    if count is not None and count < 1:
        raise DataError(f"threads: expected at least 1, got {count}")
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """Run the body without TF32, whose 10 bits of mantissa change importance values visibly."""
    matmul = torch.backends.cuda.matmul
    convolution = torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


class _Keeper(Interpreter):
    """Runs a graph and keeps the values of some nodes."""

    def __init__(self, module: GraphModule, nodes: Iterable[Node]) -> None:
        super().__init__(module)
        self._kept_nodes = frozenset(nodes)
        self.values: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._kept_nodes:
            self.values[n] = value
        return value
