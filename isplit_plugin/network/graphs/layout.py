"""The channel axis of a tensor, and the order of its axes in memory.

The channel axis follows from the graph, not from the rank: a Swin transformer is (N, H, W, C) at
most of its split points, and a vision transformer has (N, C, T) as well as (N, T, C). Convolutions,
batch norms and pools have channels at axis 1, linear layers and layer norms at the last axis.
Permutations and reshapes map the axis; other operators inherit it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from .graph import bare_op_name, is_tensor, placeholder, source

Axes = frozenset[int]
"""Axes that hold channels, counted with the batch. A reshape can spread channels over several."""

_CHANNELS_FIRST = (
    "conv", "batch_norm", "group_norm", "instance_norm", "pool", "upsample", "pixel_",
    "grid_sampler",
)  # fmt: skip
_CHANNELS_LAST = frozenset({
    "linear", "addmm", "mm", "matmul", "bmm", "layer_norm", "native_layer_norm", "rms_norm",
})  # fmt: skip
_RESHAPES = frozenset({
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
})  # fmt: skip
_PERMUTATIONS = frozenset({"permute", "transpose", "movedim", "t", "swapaxes"})
_REDUCTIONS = frozenset({
    "mean", "sum", "amax", "amin", "var", "std", "logsumexp", "linalg_vector_norm",
})  # fmt: skip
_SELECTIONS = frozenset({"select", "unbind"})


def stride_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """The axes from the outermost to the innermost in memory; (0, 1, ..., n-1) is row-major.

    Of two axes with equal strides, one of size 1 counts as the inner one. So a channels_last
    (N, C, 1, 1) and a row-major one get different orders: operators distinguish them, although
    they differ only in their strides.
    """
    strides = tensor.stride()
    sizes = tensor.size()
    return tuple(
        sorted(range(tensor.dim()), key=lambda axis: (-strides[axis], sizes[axis] == 1, axis))
    )


def channel_axes(
    graph: Graph, dependent: Collection[Node], shapes: Mapping[Node, tuple[int, ...]]
) -> dict[Node, int]:
    """The channel axis, counted with the batch, of every tensor that depends on the input.

    Where a reshape has spread channels over several axes, it is the innermost of them.
    ``shapes`` are concrete and include the batch.
    """
    entry = placeholder(graph)
    axes: dict[Node, Axes] = {entry: frozenset({_input_axis(graph, entry, len(shapes[entry]))})}
    for node in graph.nodes:
        if node in dependent and node is not entry and node in shapes:
            axes[node] = _axes_of(node, axes, shapes)
    return {
        node: max(node_axes) if node_axes else _axis_by_rank(shapes[node])
        for node, node_axes in axes.items()
    }


def reshape_axes(before: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """The axes of shape ``new`` that hold the axes ``before`` of shape ``old``.

    An axis of the new shape holds an axis of the old one if their index ranges overlap in
    row-major order. The batch axis never holds channels.
    """
    after: set[int] = set()
    for axis in before:
        inner = math.prod(old[axis + 1 :])
        outer = inner * old[axis]
        for candidate in range(1, len(new)):
            low = math.prod(new[candidate + 1 :])
            high = low * new[candidate]
            overlaps = max(low, inner) < min(high, outer)
            # An axis of size 1 has an empty range; it keeps its place.
            is_same_place = candidate == min(axis, len(new) - 1)
            is_empty = outer == inner and low == high == inner and is_same_place
            if overlaps or is_empty:
                after.add(candidate)
    return frozenset(after)


def _axis_by_rank(shape: Sequence[int]) -> int:
    """The usual axis where the graph gives none: 1 for (N, C, H, W) and (N, C, D, H, W)."""
    return 1 if len(shape) in (4, 5) else max(len(shape) - 1, 0)


def _input_axis(graph: Graph, entry: Node, rank: int) -> int:
    if rank != 3:
        return min(1, rank - 1)
    # (N, C, T) or (N, T, C): the first layer with a fixed channel axis decides.
    for node in graph.nodes:
        name = bare_op_name(node) if node.op == "call_function" else ""
        if entry in node.all_input_nodes and name in _CHANNELS_LAST:
            return 2
        if any(part in name for part in _CHANNELS_FIRST):
            return 1
    return 1


def _axes_of(node: Node, axes: Mapping[Node, Axes], shapes: Mapping[Node, tuple[int, ...]]) -> Axes:
    operation = source(node)
    name = bare_op_name(operation)
    rank = len(shapes[node])
    if any(part in name for part in _CHANNELS_FIRST):
        return frozenset({1}) if rank > 1 else frozenset()
    if name in _CHANNELS_LAST:
        return frozenset({rank - 1})
    inputs = [n for n in operation.all_input_nodes if n in axes]
    origin = next((n for n in inputs if is_tensor(n)), None)
    if origin is None:
        return frozenset()
    before = axes[origin]
    old_rank = len(shapes[origin])
    if name in _RESHAPES:
        return reshape_axes(before, shapes[origin], shapes[node])
    if name in _PERMUTATIONS:
        return _permuted(operation, name, before, old_rank)
    if name in _REDUCTIONS and rank < old_rank:
        return _without(before, _reduced_axes(operation, old_rank))
    if name in _SELECTIONS:
        return _without(before, {int(_argument(operation, 1, "dim", 0)) % old_rank})
    # Elementwise, padding, slicing, rolling, concatenation: axes are aligned from the right.
    full = next((n for n in inputs if len(shapes[n]) == rank), None)
    if full is not None:
        return axes[full]
    shift = rank - old_rank
    return frozenset(axis + shift for axis in before if axis + shift > 0)


def _without(axes: Axes, removed: Collection[int]) -> Axes:
    """The axes as they are counted after others were removed."""
    return frozenset(
        axis - sum(gone < axis for gone in removed) for axis in axes if axis not in removed
    )


def _permuted(node: Node, name: str, before: Axes, rank: int) -> Axes:
    if name == "permute":
        order = [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr,arg-type]
        return frozenset(order.index(axis) for axis in before)
    if name in ("transpose", "swapaxes"):
        first, second = (int(axis) % rank for axis in node.args[1:3])  # type: ignore[arg-type]
        return frozenset({first: second, second: first}.get(axis, axis) for axis in before)
    if name == "t":
        return frozenset(rank - 1 - axis for axis in before)
    # torch.export decomposes movedim to permute.
    return frozenset()


def _reduced_axes(node: Node, rank: int) -> set[int]:
    dims = _argument(node, 1, "dim", None)
    if dims is None:
        return set(range(rank))
    return {int(d) % rank for d in (dims if isinstance(dims, list | tuple) else [dims])}


def _argument(node: Node, index: int, name: str, default: Any) -> Any:
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)
