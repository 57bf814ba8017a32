"""Whether a tail is linear: then its gradient at the cut is a row of its weights, and a probe would give them away."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from torch.fx import Graph, Node

from .graph import depends_on_input, op_name, placeholder, result

_SHAPES: Final = frozenset(
    {
        "view",
        "reshape",
        "_unsafe_view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "t",
    }
    | {
        "expand",
        "contiguous",
        "clone",
        "detach",
        "alias",
        "to",
        "_to_copy",
        "slice",
        "select",
        "unbind",
        "split",
        "roll",
    }
    | {
        "split_with_sizes",
        "chunk",
        "cat",
        "stack",
        "pad",
        "constant_pad_nd",
        "flip",
        "index_select",
        "getitem",
        "narrow",
    }
    | {
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "identity",
        "movedim",
        "swapaxes",
        "lift_fresh_copy",
        "repeat",
    }
)
_LINEAR: Final = frozenset(
    {
        "add",
        "sub",
        "rsub",
        "neg",
        "mean",
        "sum",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
    }
    | {
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "_adaptive_avg_pool2d",
        "upsample_nearest2d",
        "upsample_bilinear2d",
    }
)
# Linear in one argument while the others are constants.
_BILINEAR: Final = frozenset(
    {
        "mul",
        "div",
        "linear",
        "addmm",
        "mm",
        "matmul",
        "bmm",
        "baddbmm",
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
    }
    | {
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "batch_norm",
        "_native_batch_norm_legit_no_training",
    }
)
_LINKS: Final = frozenset(
    {"softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid", "log_sigmoid"}
)


def is_linear(graph: Graph, dependent: Collection[Node] | None = None) -> bool:
    """Whether the result of a graph is an affine function of its input.

    A softmax or sigmoid over the whole result does not count: behind it, what a gradient tells is still the weights.
    An operator that this module does not know counts as a nonlinearity.
    """
    reached = depends_on_input(graph) if dependent is None else dependent
    entry, final = placeholder(graph), result(graph)
    return all(
        _is_affine(node, reached) or (node is final and _name(node) in _LINKS)
        for node in graph.nodes
        if node in reached and node is not entry and node.op == "call_function"
    )


def _is_affine(node: Node, reached: Collection[Node]) -> bool:
    name = _name(node)
    if name in _SHAPES or name in _LINEAR:
        return True
    varying = sum(argument in reached for argument in node.all_input_nodes)
    if name == "div" and node.args and node.args[0] not in reached:
        return False
    # x * x has one input node and two factors.
    return (
        name in _BILINEAR
        and varying == 1
        and sum(a in reached for a in node.args if isinstance(a, Node)) == 1
    )


def _name(node: Node) -> str:
    """The operator's bare name: ``aten::add_.Tensor`` is ``add``."""
    name = op_name(node).rpartition("::")[2]
    return name.rstrip("_") if not name.startswith("_") else name
