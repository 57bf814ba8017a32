"""Which axis holds channels, and in which order axes lie in memory.

The channel axis follows the graph, not the rank: convolutions, batch norms and pools have it at 1, linear layers and
layer norms last; permutations and reshapes map it; everything else inherits it. A Swin transformer is (N, H, W, C) at
most of its points, a vision transformer has (N, C, T) beside (N, T, C).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from .graph import is_tensor, op_name, placeholder, source

_FIRST = (
    "conv",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "pool",
    "upsample",
    "pixel_",
    "grid_sampler",
)
_LAST = frozenset(
    {"linear", "addmm", "mm", "matmul", "bmm", "layer_norm", "native_layer_norm", "rms_norm"}
)
_RESHAPES = frozenset(
    {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"}
)
_REDUCTIONS = frozenset(
    {"mean", "sum", "amax", "amin", "var", "std", "logsumexp", "linalg_vector_norm"}
)

Axes = frozenset[int]


def stride_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """Axes from the outermost to the innermost in memory; (0, 1, ..., n-1) is row-major.

    Among equal strides an axis of size 1 counts as the inner one, so that a channels_last (N, C, 1, 1) and a
    row-major one, which differ in their strides alone, get different orders: operators tell them apart.
    """
    strides, sizes = tensor.stride(), tensor.size()
    return tuple(sorted(range(tensor.dim()), key=lambda d: (-strides[d], sizes[d] == 1, d)))


def channel_axes(
    graph: Graph, dependent: Collection[Node], shapes: Mapping[Node, tuple[int, ...]]
) -> dict[Node, int]:
    """The channel axis, counted with the batch, of every tensor that depends on the input.

    ``shapes``: concrete shapes, batch included. Where a reshape has spread channels over several axes, the innermost.
    """
    entry = placeholder(graph)
    axes: dict[Node, Axes] = {entry: frozenset({_input_axis(graph, entry, len(shapes[entry]))})}
    for node in graph.nodes:
        if node in dependent and node is not entry and node in shapes:
            axes[node] = _node_axes(node, axes, shapes)
    return {node: max(found) if found else _by_rank(shapes[node]) for node, found in axes.items()}


def _by_rank(shape: Sequence[int]) -> int:
    """Where the graph does not tell: (N, C, H, W) and (N, C, D, H, W), else channels last."""
    return 1 if len(shape) in (4, 5) else max(len(shape) - 1, 0)


def _input_axis(graph: Graph, entry: Node, rank: int) -> int:
    if rank != 3:
        return min(1, rank - 1)
    # (N, C, T) or (N, T, C): ask the first layer that knows.
    for node in graph.nodes:
        name = op_name(node).rpartition("::")[2] if node.op == "call_function" else ""
        if entry in node.all_input_nodes and name in _LAST:
            return 2
        if any(part in name for part in _FIRST):
            return 1
    return 1


def _node_axes(
    node: Node, axes: Mapping[Node, Axes], shapes: Mapping[Node, tuple[int, ...]]
) -> Axes:
    made = source(node)
    name = op_name(made).rpartition("::")[2]
    shape = shapes[node]
    rank = len(shape)
    if any(part in name for part in _FIRST):
        return frozenset({1}) if rank > 1 else frozenset()
    if name in _LAST:
        return frozenset({rank - 1})
    origin = next((n for n in made.all_input_nodes if n in axes and is_tensor(n)), None)
    if origin is None:
        return frozenset()
    before, old = axes[origin], shapes[origin]
    if name in _RESHAPES:
        return reshape_axes(before, old, shape)
    if name in ("permute", "transpose", "movedim", "t", "swapaxes"):
        return _permute_axes(made, name, before, len(old))
    if name in _REDUCTIONS and rank < len(old):
        gone = _dims(made, len(old))
        return frozenset(a - sum(g < a for g in gone) for a in before if a not in gone)
    if name in ("select", "unbind"):
        gone = {int(_argument(made, 1, "dim", 0)) % len(old)}
        return frozenset(a - sum(g < a for g in gone) for a in before if a not in gone)
    # Elementwise, padding, slicing, rolling, concatenation: axes are aligned from the right.
    full = next((n for n in made.all_input_nodes if n in axes and len(shapes[n]) == rank), None)
    if full is not None:
        return axes[full]
    return frozenset(a + rank - len(old) for a in before if a + rank - len(old) > 0)


def reshape_axes(before: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """Map axes over a reshape by where they lie in row-major order; the batch axis is never among them."""
    found: set[int] = set()
    for axis in before:
        inner = math.prod(old[axis + 1 :])
        outer = inner * old[axis]
        for candidate in range(1, len(new)):
            low = math.prod(new[candidate + 1 :])
            high = low * new[candidate]
            overlaps = max(low, inner) < min(high, outer)
            same = outer == inner and low == high == inner and candidate == min(axis, len(new) - 1)
            if overlaps or same:
                found.add(candidate)
    return frozenset(found)


def _permute_axes(node: Node, name: str, before: Axes, rank: int) -> Axes:
    if name == "permute":
        order = [int(d) % rank for d in node.args[1]]  # type: ignore[union-attr,arg-type]
        return frozenset(order.index(a) for a in before)
    if name in ("transpose", "swapaxes"):
        one, two = (int(d) % rank for d in node.args[1:3])  # type: ignore[arg-type]
        return frozenset({one: two, two: one}.get(a, a) for a in before)
    if name == "t":
        return frozenset(rank - 1 - a for a in before)
    # movedim is always decomposed to permute.
    return frozenset()


def _dims(node: Node, rank: int) -> set[int]:
    dims = _argument(node, 1, "dim", None)
    if dims is None:
        return set(range(rank))
    return {int(d) % rank for d in (dims if isinstance(dims, list | tuple) else [dims])}


def _argument(node: Node, index: int, name: str, default: Any) -> Any:
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)
