"""Multiply-accumulate operations, counted per node with the formulas of torch.utils.flop_counter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.utils.flop_counter import FlopCounterMode

from ..schema import Macs
from .graph import Analysis


class _Counter(Interpreter):
    def __init__(self, module: GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.flops: dict[Node, int] = {}
        self._mode = mode
        self._counter = FlopCounterMode(display=False)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return self._mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        with self._counter:  # entering it again starts from zero
            value = super().run_node(n)
        flops = self._counter.get_total_flops()
        if flops:
            self.flops[n] = int(flops)
        return value


def count(module: GraphModule, example: torch.Tensor) -> dict[Node, int]:
    """MACs of every node that has any, for one item. Runs on fake tensors: nothing is computed.

    Convolution, linear, matmul and attention count; elementwise operations do not. A flop there is half a MAC.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        counter = _Counter(module, mode)
        counter.run(mode.from_tensor(example[:1]))
    return {node: flops // 2 for node, flops in counter.flops.items()}


def split(analysis: Analysis, macs: Mapping[Node, int], cuts: Iterable[Node]) -> list[Macs]:
    """MACs before and after each cut. Work that does not depend on the input counts wherever its result is read."""
    first: dict[Node, int] = {}
    last: dict[Node, int] = {}
    for node in reversed(analysis.order):
        if node in analysis.dependent:
            first[node] = last[node] = analysis.position[node]
        elif node.users:
            first[node] = min(first[u] for u in node.users)
            last[node] = max(last[u] for u in node.users)
        else:
            first[node], last[node] = len(analysis.order), -1
    result = []
    for cut in cuts:
        at = analysis.position[cut]
        head = sum(m for node, m in macs.items() if first[node] <= at)
        tail = sum(m for node, m in macs.items() if last[node] > at)
        result.append(Macs(head, tail))
    return result
