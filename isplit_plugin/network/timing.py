"""How long head and tail take at every split point, from a few runs of the whole network.

Running each bisected head would cost P forward passes; here the nodes of the graph are timed once, summed over what
a head or a tail runs, and scaled so that the whole network takes what it takes without the clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from ..schema import INPUT, OUTPUT
from .graph import needed_by

__all__ = ["head_and_tail_ms"]

_WARM_UP: Final = 3


class _Clock(Interpreter):
    """Runs a graph and times its operators, without what the interpreter itself costs."""

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


def head_and_tail_ms(
    module: GraphModule, nodes: Mapping[str, Node], x: Tensor, *, runs: int = 9
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of head and tail for each named node, ``input`` and ``output`` included: medians over ``runs``.

    ``x``: a batch of one, on the CPU. The caller sets the number of threads. The copy into the tail's memory layout,
    where it needs one, is not part of the graph and not counted.
    """
    entry = next(n for n in module.graph.nodes if n.op == "placeholder")
    final = next(iter(reversed(module.graph.nodes)))
    clock = _Clock(module)
    samples: list[dict[Node, float]] = []
    whole: list[float] = []
    with torch.inference_mode():
        for run in range(_WARM_UP + runs):
            # Turn and turn about, so that another process on the machine disturbs both alike.
            start = time.perf_counter()
            module(x)
            elapsed = time.perf_counter() - start
            clock.run(x)
            if run >= _WARM_UP:
                whole.append(elapsed)
                samples.append(dict(clock.seconds))
    cost = {node: median(sample[node] for sample in samples) for node in samples[0]}
    total = sum(cost.get(node, 0.0) for node in needed_by([final], entry))
    scale = 1e3 * median(whole) / total if total else 0.0
    heads = {INPUT: 0.0, OUTPUT: 1e3 * median(whole)}
    tails = {INPUT: 1e3 * median(whole), OUTPUT: 0.0}
    for name, node in nodes.items():
        heads[name] = scale * sum(cost.get(n, 0.0) for n in needed_by([node], entry))
        tails[name] = scale * sum(cost.get(n, 0.0) for n in needed_by([final], node) - {node})
    return heads, tails
