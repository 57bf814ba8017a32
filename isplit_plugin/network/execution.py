"""Running a captured network: on which device, with how many threads, and what to keep of a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.fx import GraphModule, Interpreter, Node

from ..errors import CaptureError, DataError
from . import graph
from .captured_network import CapturedNetwork

__all__ = [
    "activations",
    "cpu_threads",
    "full_precision",
    "graph_and_nodes",
    "on_best_device",
    "on_device",
]

_TOLERANCE: Final = 1e-2


def graph_and_nodes(
    net: CapturedNetwork, names: Sequence[str]
) -> tuple[GraphModule, dict[str, Node]]:
    """The whole network's graph and its nodes at these split points."""
    return net._module, {name: net._nodes[net._cut(name)] for name in names}


def on_device(net: CapturedNetwork, device: str | torch.device) -> CapturedNetwork:
    """The same network with its parameters on another device; itself where it is there already.

    A graph can hold what is true of the device that it was captured on alone (a memory layout that attention has on
    the CPU), so it is tried there. Raises CaptureError where it does not run, or computes something else.
    """
    try:
        device = torch.device(device)
        if net.device.type == device.type:
            return net
        program = move_to_device_pass(net._program, device)
        moved = CapturedNetwork(program, graph.build(program), net._names, net._points)
        x = torch.rand(
            2, *net.input_shape, generator=torch.Generator().manual_seed(0), dtype=net.dtype
        )
        here, there = net.importance(x.to(net.device)).scores, moved.importance(x.to(device)).scores
    except Exception as error:  # torch raises whatever a device trips over
        raise CaptureError(
            f"the network does not run on {device}: {type(error).__name__}: {error}"
        ) from error
    off = float(np.abs(here - there).max() / max(float(np.abs(here).max()), 1e-30))
    if not off <= _TOLERANCE:
        raise CaptureError(
            f"the network computes something else on {device}: relative difference {off:.2g}"
        )
    return moved


def on_best_device(net: CapturedNetwork) -> CapturedNetwork:
    """The network on a CUDA device where there is one and it runs there, else where it is."""
    if not torch.cuda.is_available():
        return net
    try:
        return on_device(net, "cuda")
    except CaptureError:
        return net


class _Keeper(Interpreter):
    """Runs a graph and keeps the values of some nodes."""

    def __init__(self, module: GraphModule, wanted: Iterable[Node]) -> None:
        super().__init__(module)
        self._wanted = frozenset(wanted)
        self.kept: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted:
            self.kept[n] = value
        return value


def activations(
    module: GraphModule, nodes: Mapping[str, Node], x: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The values of ``nodes`` and the network's scores, in one forward pass. The graph must be functional."""
    keeper = _Keeper(module, nodes.values())
    with torch.inference_mode():
        scores = keeper.run(x)
    return {name: keeper.kept[node] for name, node in nodes.items()}, scores


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Run the body with that many CPU threads (``None``: as it is). Raises DataError for none."""
    if count is not None and count < 1:
        raise DataError(f"threads: expected at least 1, got {count}")
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """Run the body without TF32: its 10 bits of mantissa show in importance values."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before
