"""Head and tail: the two parts of a graph, each carrying its own parameters only and sharing their storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter

import torch
from torch.fx import Graph, GraphModule, Node

from .graph import make_module, needed_by, placeholder, result


def head(network: GraphModule, cut: Node) -> GraphModule:
    """Everything up to ``cut``: input (N, ...) -> activation."""
    graph = Graph()
    copied = _copy(network.graph, graph, outputs=(cut,), entry=None)
    graph.output(copied[cut])
    return make_module(graph, lambda target: attrgetter(target)(network), "Head")


def tail(
    network: GraphModule, cut: Node, stride_order: Sequence[int]
) -> tuple[GraphModule, Mapping[Node, Node]]:
    """Everything after ``cut``: activation -> scores (N, classes), and the map from old to new nodes.

    The activation arrives row-major, for the wire carries no strides; the tail lays it out as the network has it.
    The batch size is the activation's.
    """
    graph = Graph()
    copied = _copy(
        network.graph, graph, outputs=(result(network.graph),), entry=cut, stride_order=stride_order
    )
    graph.output(copied[result(network.graph)])
    return make_module(graph, lambda target: attrgetter(target)(network), "Tail"), copied


def _copy(
    old: Graph,
    new: Graph,
    *,
    outputs: Sequence[Node],
    entry: Node | None,
    stride_order: Sequence[int] = (),
) -> dict[Node, Node]:
    """Copy what ``outputs`` need, from ``entry`` (or the input) on."""
    origin = placeholder(old)
    start = origin if entry is None else entry
    needed = needed_by(outputs, start)
    given = new.placeholder("x" if entry is None else "activation")
    given.meta = dict(start.meta)
    copied = {start: given}
    if entry is not None:
        # Whatever reads the input after a cut reads its size or its dtype alone: the activation's will do.
        copied[origin] = given
        copied[start] = _lay_out(new, given, stride_order)
    for node in old.nodes:
        if node in needed and node not in copied:
            copied[node] = new.node_copy(node, lambda n: copied[n])
    return copied


def _lay_out(graph: Graph, activation: Node, order: Sequence[int]) -> Node:
    """Restore the order of axes in memory; a clone even where sizes of 1 make both orders contiguous."""
    if list(order) == sorted(order):
        return activation
    aten = torch.ops.aten
    inverse = [list(order).index(d) for d in range(len(order))]
    outer_first = graph.call_function(aten.permute.default, (activation, list(order)))
    laid_out = graph.call_function(
        aten.clone.default, (outer_first,), {"memory_format": torch.contiguous_format}
    )
    return graph.call_function(aten.permute.default, (laid_out, inverse))
