"""Which tensors are live where, and so where a network can be cut.

A network can be cut where exactly one tensor that depends on the input is live. Symbolic sizes (the
batch dimension) are live nearly everywhere in transformers and pooling networks. They do not count,
because the size of the activation determines them (:func:`.graph.depends_on_input`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node

from .graph import depends_on_input, is_tensor, placeholder, result, same_size


@dataclass(frozen=True)
class Liveness:
    """The lifetimes of a graph's values.

    Attributes:
        order: the nodes in execution order.
        position: index of each node in ``order``.
        dependent: the nodes that depend on the input.
        cuts: the nodes after which the network can be cut, without input and output.
        last_use: index of the last node that reads a node's values, -1 if none does.
    """

    order: tuple[Node, ...]
    position: Mapping[Node, int]
    dependent: frozenset[Node]
    cuts: tuple[Node, ...]
    last_use: Mapping[Node, int]

    def live_after(self, node: Node) -> list[Node]:
        """The tensors live right after ``node``, in execution order."""
        at = self.position[node]
        live = [
            earlier
            for earlier in self.order[: at + 1]
            if earlier in self.dependent and self.last_use[earlier] > at
        ]
        tensors: list[Node] = []
        for value in live:
            # An operator with several outputs is represented by those outputs that are read.
            items = [value] if is_tensor(value) else [u for u in value.users if is_tensor(u)]
            tensors += items
        return tensors


def analyse(graph: Graph) -> Liveness:
    """Find the lifetimes of all values and every cut.

    The tensor at a cut is floating point, and its batch dimension is the first and the only
    symbolic one.
    """
    order = tuple(graph.nodes)
    position = {node: index for index, node in enumerate(order)}
    dependent = frozenset(depends_on_input(graph))
    # Nodes that read metadata only are not among the dependent ones, so they extend no lifetime.
    last_use = {
        node: max((position[user] for user in node.users if user in dependent), default=-1)
        for node in order
    }
    batch = placeholder(graph).meta["val"].shape[0]
    final = result(graph)
    cuts: list[Node] = []
    live: set[Node] = set()
    for index, node in enumerate(order):
        if node in dependent and node.op != "output":
            live.add(node)
        live -= {value for value in live if last_use[value] <= index}
        if (
            live == {node}
            and node.op == "call_function"
            and node is not final
            and _can_travel(node, batch)
        ):
            cuts.append(node)
    return Liveness(order, position, dependent, tuple(cuts), last_use)


def _can_travel(node: Node, batch: Any) -> bool:
    if not is_tensor(node):
        return False
    value = node.meta["val"]
    return bool(
        value.dtype.is_floating_point
        and value.dim() >= 2
        and same_size(value.shape[0], batch)
        and all(isinstance(size, int) for size in value.shape[1:])
    )
