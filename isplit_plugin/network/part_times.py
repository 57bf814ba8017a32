"""The times of head and tail at every split point, from a few runs of the whole network.

Running every head on its own would take one forward pass for each split point. Instead, each
operator is timed once. The sum over the operators of a head or a tail is scaled by a common factor,
so that the operators of the whole network add up to its time without the clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Final

import torch
from torch.fx import GraphModule, Interpreter, Node

from ..schema import INPUT, OUTPUT
from .captured_network import CapturedNetwork
from .graphs.graph import needed_by, placeholder

__all__ = ["head_and_tail_ms"]

_WARM_UP: Final = 3


def head_and_tail_ms(
    net: CapturedNetwork, split_points: Sequence[str], *, runs: int = 9
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of head and tail at each split point, and at ``input`` and ``output``.

    Each operator's time is the median over ``runs`` with one image. The network must be on the CPU;
    the caller sets the number of threads. A tail's copy of the activation into another memory
    layout is no operator of the network and is not counted.
    """
    module = net.model
    x = torch.rand(1, *net.input_shape, dtype=net.dtype)
    node_s, whole_s = _time_operators(module, x, runs)

    def seconds(nodes: Iterable[Node]) -> float:
        return sum(node_s.get(node, 0.0) for node in nodes)

    entry = placeholder(module.graph)
    final = module.graph.output_node()
    total_s = seconds(needed_by([final], entry))
    scale = 1e3 * whole_s / total_s if total_s else 0.0
    head_ms = {INPUT: 0.0, OUTPUT: 1e3 * whole_s}
    tail_ms = {INPUT: 1e3 * whole_s, OUTPUT: 0.0}
    for name in split_points:
        node = net.node(name)
        head_ms[name] = scale * seconds(needed_by([node], entry))
        tail_ms[name] = scale * seconds(needed_by([final], node) - {node})
    return head_ms, tail_ms


def _time_operators(
    module: GraphModule, x: torch.Tensor, runs: int
) -> tuple[dict[Node, float], float]:
    """Median seconds of each operator, and of the whole network without the clock."""
    clock = _Clock(module)
    node_samples: list[dict[Node, float]] = []
    whole_samples: list[float] = []
    with torch.inference_mode():
        for run in range(_WARM_UP + runs):
            # Both are timed in turn, so that other processes disturb them alike.
            start = time.perf_counter()
            module(x)
            elapsed = time.perf_counter() - start
            clock.run(x)
            if run >= _WARM_UP:
                whole_samples.append(elapsed)
                node_samples.append(dict(clock.seconds))
    node_s = {node: median(sample[node] for sample in node_samples) for node in node_samples[0]}
    return node_s, median(whole_samples)


class _Clock(Interpreter):
    """Runs a graph and times its operators, without the overhead of the interpreter."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.seconds: dict[Node, float] = {}
        self._node: Node | None = None

    def run_node(self, n: Node) -> Any:
        self._node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        start = time.perf_counter()
        value = target(*args, **kwargs)
        assert self._node is not None  # noqa: S101  run_node has set it
        self.seconds[self._node] = time.perf_counter() - start
        return value
