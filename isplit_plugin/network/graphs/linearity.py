"""Whether a tail is linear.

The gradient at the cut of a linear tail is a row of its weights, so a probe would disclose them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from torch.fx import Graph, Node

from .graph import bare_op_name, depends_on_input, placeholder, result

# Operators that move values, or are the identity in eval mode.
_MOVES: Final = frozenset({
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute",
    "transpose", "t", "movedim", "swapaxes", "expand", "repeat", "contiguous", "clone", "detach",
    "alias", "to", "_to_copy", "lift_fresh_copy", "slice", "select", "unbind", "split",
    "split_with_sizes", "chunk", "narrow", "index_select", "getitem", "cat", "stack", "pad",
    "constant_pad_nd", "flip", "roll", "dropout", "feature_dropout", "alpha_dropout", "identity",
})  # fmt: skip
_LINEAR: Final = frozenset({
    "add", "sub", "rsub", "neg", "mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d",
})  # fmt: skip
# Linear in one argument if the others are constants.
_BILINEAR: Final = frozenset({
    "mul", "div", "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "conv1d", "conv2d",
    "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "batch_norm", "_native_batch_norm_legit_no_training",
})  # fmt: skip
_LINK_FUNCTIONS: Final = frozenset({
    "softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid", "log_sigmoid",
})  # fmt: skip


def is_linear(graph: Graph) -> bool:
    """Whether the result of a graph is an affine function of its input.

    A softmax or sigmoid as the last operator is ignored: the gradient still discloses the weights
    before it. An operator that this module does not list counts as nonlinear.
    """
    dependent = depends_on_input(graph)
    entry = placeholder(graph)
    final = result(graph)
    return all(
        _is_affine(node, dependent) or (node is final and _name(node) in _LINK_FUNCTIONS)
        for node in graph.nodes
        if node in dependent and node is not entry and node.op == "call_function"
    )


def _is_affine(node: Node, dependent: Collection[Node]) -> bool:
    name = _name(node)
    if name in _MOVES or name in _LINEAR:
        return True
    if name == "div" and node.args and node.args[0] not in dependent:
        return False  # a constant divided by a variable
    varying_inputs = sum(argument in dependent for argument in node.all_input_nodes)
    # x * x has one varying input, but two varying factors.
    varying_factors = sum(a in dependent for a in node.args if isinstance(a, Node))
    return name in _BILINEAR and varying_inputs == 1 and varying_factors == 1


def _name(node: Node) -> str:
    """The operator's name without namespace and in-place suffix: ``add`` for ``aten::add_``."""
    name = bare_op_name(node)
    return name if name.startswith("_") else name.rstrip("_")
