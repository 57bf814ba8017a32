"""Running a captured network: on which device, with how many threads, and what to keep of a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.fx import GraphModule, Interpreter, Node

from . import graph
from .captured import CapturedNetwork

__all__ = ["activations", "cpu_threads", "full_precision", "graph_and_nodes", "on_device"]


def graph_and_nodes(net: CapturedNetwork, names: Sequence[str]) -> tuple[GraphModule, dict[str, Node]]:
    """The whole network's graph and its nodes at these split points."""
    return net._module, {name: net._nodes[net._cut(name)] for name in names}


def on_device(net: CapturedNetwork, device: str | torch.device) -> CapturedNetwork:
    """The same network with its parameters on another device; itself where it is there already."""
    device = torch.device(device)
    if net.device.type == device.type:
        return net
    program = move_to_device_pass(net._program, device)
    return CapturedNetwork(program, graph.build(program), net._names, net._points)


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


def activations(module: GraphModule, nodes: Mapping[str, Node], x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The values of ``nodes`` and the network's scores, in one forward pass. The graph must be functional."""
    keeper = _Keeper(module, nodes.values())
    with torch.inference_mode():
        scores = keeper.run(x)
    return {name: keeper.kept[node] for name, node in nodes.items()}, scores


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Run the body with that many CPU threads (``None``: as it is)."""
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
