"""Which tensors are block outputs.

A block output is what a direct child of the network, or an element of a sequence of blocks,
returns. By default the rules pick candidates among the block outputs. A curve over every tensor has
unstable local maxima inside blocks, before activation functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from torch import nn
from torch.fx import Node

from .graph import bare_op_name, op_name, source

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
)
_LINEAR = ("conv", "linear", "addmm", "norm")
_ACTIVATIONS = frozenset({
    "relu", "relu6", "gelu", "silu", "hardswish", "hardtanh", "clamp", "clamp_min", "sigmoid",
    "tanh", "hardsigmoid", "leaky_relu", "elu", "selu", "celu", "mish", "softplus", "prelu",
    "threshold",
})  # fmt: skip

_WRAPPER_SHARE = 0.9
"""A child with this share of all parameters is a wrapper, not a block."""


def block_paths(model: nn.Module) -> set[str]:
    """The paths of the modules that count as blocks.

    These are the children of the network, and the children of every container, wrapper and stage
    among them. A stage is a module around a sequence of blocks of one class, such as the encoder of
    a vision transformer (``encoder.layers.encoder_layer_3``).
    """
    total = max(sum(parameter.numel() for parameter in model.parameters()), 1)
    paths: set[str] = set()

    def add_children(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            paths.add(child_path)
            is_wrapper = _parameters_below(child) >= _WRAPPER_SHARE * total
            if type(child) in _CONTAINERS or _is_stage(child) or is_wrapper:
                add_children(child, child_path)

    add_children(model, "")
    return paths


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a single layer, even if it has a child, such as a padding module."""
    return _is_leaf(module) or isinstance(module, _LAYERS)


def block_outputs(
    paths: Collection[str], calls: Mapping[str, Node], layers: Collection[str]
) -> set[Node]:
    """The tensors that the blocks return.

    A linear layer whose only reader is a normalisation or an activation function is the first half
    of a block; the block ends after that reader.

    Parameters:
        paths: the paths of the blocks, from :func:`block_paths`.
        calls: module call -> the node it returns.
        layers: the paths of the modules that are single layers.
    """
    outputs = set()
    for call, node in calls.items():
        path = call if call in paths else _path_of_call(call)
        if path in paths:
            outputs.add(_end_of_block(node) if path in layers else node)
    return outputs


def _parameters_below(module: nn.Module) -> int:
    """The number of parameters of a module with children; 0 for a leaf, which wraps nothing."""
    return 0 if _is_leaf(module) else sum(p.numel() for p in module.parameters())


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _is_stage(module: nn.Module) -> bool:
    """Whether a module, or one of its children, is a sequence of blocks."""
    return any(_is_sequence_of_blocks(child) for child in (module, *module.children()))


def _is_sequence_of_blocks(module: nn.Module) -> bool:
    """Whether a container has at least two blocks of one class, and they are the majority."""
    if not isinstance(module, _CONTAINERS):
        return False
    children = list(module.children())
    classes = Counter(
        type(child)
        for child in children
        if not _is_leaf(child) and not isinstance(child, _CONTAINERS)
    )
    largest = max(classes.values(), default=0)
    return largest >= 2 and largest > len(children) / 2


def _path_of_call(call: str) -> str:
    """``relu_1``, the second call of ``relu``, -> ``relu``."""
    path, _, number = call.rpartition("_")
    return path if number.isdigit() else call


def _end_of_block(node: Node) -> Node:
    while any(part in op_name(source(node)) for part in _LINEAR):
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        if reader is None or reader.op != "call_function":
            return node
        name = bare_op_name(reader)
        if name in _ACTIVATIONS:
            return reader
        if "norm" not in name:
            return node
        outputs = [
            user for user in reader.users if user.op == "call_function" and source(user) is reader
        ]
        node = outputs[0] if outputs and "native" in name else reader
    return node
