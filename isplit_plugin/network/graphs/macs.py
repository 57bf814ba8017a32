"""MACs of each node, counted with the formulas of torch.utils.flop_counter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.utils.flop_counter import FlopCounterMode

from ...schema import Macs
from .liveness import Liveness


def count_macs(module: GraphModule, example: torch.Tensor) -> dict[Node, int]:
    """The MACs of every node that has any, for one item of ``example`` (N, ...).

    Convolutions, linear layers, matrix products and attention count; elementwise operations do not.
    Runs on fake tensors, so nothing is computed.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        counter = _FlopCounter(module, mode)
        counter.run(mode.from_tensor(example[:1]))
    # torch counts a multiplication and an addition as two operations.
    return {node: flops // 2 for node, flops in counter.flops.items()}


def split_macs(liveness: Liveness, macs: Mapping[Node, int], cuts: Iterable[Node]) -> list[Macs]:
    """The MACs before and after each cut.

    A node that does not depend on the input counts in every part that needs its result.
    """
    first_use: dict[Node, int] = {}
    last_use: dict[Node, int] = {}
    for node in reversed(liveness.order):
        if node in liveness.dependent:
            first_use[node] = last_use[node] = liveness.position[node]
        elif node.users:
            first_use[node] = min(first_use[user] for user in node.users)
            last_use[node] = max(last_use[user] for user in node.users)
        else:
            first_use[node] = len(liveness.order)
            last_use[node] = -1
    parts = []
    for cut in cuts:
        at = liveness.position[cut]
        head = sum(count for node, count in macs.items() if first_use[node] <= at)
        tail = sum(count for node, count in macs.items() if last_use[node] > at)
        parts.append(Macs(head, tail))
    return parts


class _FlopCounter(Interpreter):
    """Runs a graph on fake tensors and counts the floating-point operations of each node."""

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
        with self._counter:  # entering the counter resets it
            value = super().run_node(n)
        flops = self._counter.get_total_flops()
        if flops:
            self.flops[n] = int(flops)
        return value
