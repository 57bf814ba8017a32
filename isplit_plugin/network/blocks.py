"""Which tensors are block outputs: what a direct child of the network, or an element of a sequence of blocks, returns.

The rules of CUI run over these by default: a curve over every tensor has local maxima inside blocks, before an
activation function, and they are unstable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from torch import nn
from torch.fx import Node

from .graph import op_name, source

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
)
_LINEAR = ("conv", "linear", "addmm", "norm")
_ACTIVATIONS = {
    "relu",
    "relu6",
    "gelu",
    "silu",
    "hardswish",
    "hardtanh",
    "clamp",
    "clamp_min",
    "sigmoid",
    "tanh",
}
_ACTIVATIONS |= {
    "hardsigmoid",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "mish",
    "softplus",
    "prelu",
    "threshold",
}


def block_paths(model: nn.Module) -> set[str]:
    """Paths of the modules that count as blocks.

    Seen through are the network itself, containers, a wrapper that holds nearly all parameters, and a stage: a module
    around a sequence of like blocks (``encoder.layers.encoder_layer_3`` of a vision transformer).
    """
    total = max(sum(p.numel() for p in model.parameters()), 1)
    found: set[str] = set()

    def look_into(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            inner = f"{path}.{name}" if path else name
            found.add(inner)
            if type(child) in _CONTAINERS or _is_stage(child) or _weight(child) >= 0.9 * total:
                look_into(child, inner)

    look_into(model, "")
    return found


def _weight(module: nn.Module) -> int:
    """Parameters of a module that has children; a single heavy layer is no wrapper."""
    return 0 if _is_leaf(module) else sum(p.numel() for p in module.parameters())


def is_layer(module: nn.Module) -> bool:
    """True for a single layer, with or without modules of its own (a convolution with a padding module is one)."""
    return _is_leaf(module) or isinstance(module, _LAYERS)


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _is_stage(module: nn.Module) -> bool:
    """True for a sequence of like blocks, and for a module that has one as its child."""
    return any(_is_sequence_of_blocks(m) for m in (module, *module.children()))


def _is_sequence_of_blocks(module: nn.Module) -> bool:
    """True for two modules or more, most of one class that is neither a layer nor a container."""
    if not isinstance(module, _CONTAINERS):
        return False
    parts = list(module.children())
    kinds = Counter(type(m) for m in parts if not _is_leaf(m) and not isinstance(m, _CONTAINERS))
    like = max(kinds.values(), default=0)
    return like >= 2 and like > len(parts) / 2


def block_outputs(
    paths: Collection[str], calls: Mapping[str, Node], layers: Collection[str]
) -> set[Node]:
    """The tensors that the modules at ``paths`` return, each followed to where it rests.

    A single layer (one of ``layers``) that is linear and feeds a normalisation or an activation alone is half of a
    block: the block ends after it.
    """
    ends = set()
    for call, node in calls.items():
        path = call if call in paths else _first_call(call)
        if path in paths:
            ends.add(_rest(node) if path in layers else node)
    return ends


def _first_call(call: str) -> str:
    """``relu_1``, the second call of ``relu``, -> ``relu``."""
    path, _, number = call.rpartition("_")
    return path if number.isdigit() else call


def _rest(node: Node) -> Node:
    while any(part in op_name(source(node)) for part in _LINEAR):
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        if reader is None or reader.op != "call_function":
            return node
        name = op_name(reader).rpartition("::")[2]
        if "norm" in name:
            outputs = [
                user
                for user in reader.users
                if user.op == "call_function" and source(user) is reader
            ]
            node = outputs[0] if outputs and "native" in name else reader
        elif name in _ACTIVATIONS:
            return reader
        else:
            return node
    return node
