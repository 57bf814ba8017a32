"""Head and tail: the two parts of a graph.

Each part carries only its own parameters and shares their storage with the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter

import torch
from torch.fx import Graph, GraphModule, Node

from .graph import make_module, needed_by, placeholder, result


def head(network: GraphModule, cut: Node) -> GraphModule:
    """Everything up to ``cut``: input (N, ...) -> activation (N, ...)."""
    entry = placeholder(network.graph)
    graph = Graph()
    new_input = graph.placeholder("x")
    new_input.meta = dict(entry.meta)
    copies = {entry: new_input}
    _copy_needed(network.graph, graph, copies, cut, entry)
    graph.output(copies[cut])
    return make_module(graph, lambda path: attrgetter(path)(network), "Head")


def tail(
    network: GraphModule, cut: Node, stride_order: Sequence[int]
) -> tuple[GraphModule, Mapping[Node, Node]]:
    """Everything after ``cut``: activation (N, ...) -> scores (N, classes).

    The activation is row-major, because the wire carries no strides; the tail restores the memory
    layout that the network has there. Returns the tail and a map from the network's nodes to the
    tail's nodes.
    """
    graph = Graph()
    activation = graph.placeholder("activation")
    activation.meta = dict(cut.meta)
    # After the cut the input is read for its size and dtype only: the activation's are the same.
    copies = {
        placeholder(network.graph): activation,
        cut: _lay_out(graph, activation, stride_order),
    }
    final = result(network.graph)
    _copy_needed(network.graph, graph, copies, final, cut)
    graph.output(copies[final])
    return make_module(graph, lambda path: attrgetter(path)(network), "Tail"), copies


def _copy_needed(
    old: Graph, new: Graph, copies: dict[Node, Node], final: Node, start: Node
) -> None:
    """Copy the nodes that computing ``final`` from ``start`` needs, and add them to ``copies``."""
    needed = needed_by([final], start)
    for node in old.nodes:
        if node in needed and node not in copies:
            copies[node] = new.node_copy(node, lambda original: copies[original])


def _lay_out(graph: Graph, activation: Node, order: Sequence[int]) -> Node:
    """Bring a row-major activation into the memory order ``order`` of its axes.

    It is cloned even where sizes of 1 make both orders contiguous, so that its strides are those
    of the whole network.
    """
    if list(order) == sorted(order):
        return activation
    aten = torch.ops.aten
    inverse = [list(order).index(axis) for axis in range(len(order))]
    outermost_first = graph.call_function(aten.permute.default, (activation, list(order)))
    contiguous = graph.call_function(
        aten.clone.default, (outermost_first,), {"memory_format": torch.contiguous_format}
    )
    return graph.call_function(aten.permute.default, (contiguous, inverse))
