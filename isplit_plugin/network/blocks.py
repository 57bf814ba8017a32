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
_LINEAR = ("conv", "linear", "addmm", "norm")
_ACTIVATIONS = {"relu", "relu6", "gelu", "silu", "hardswish", "hardtanh", "clamp", "clamp_min", "sigmoid", "tanh"}
_ACTIVATIONS |= {"hardsigmoid", "leaky_relu", "elu", "selu", "celu", "mish", "softplus", "prelu", "threshold"}


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
            if isinstance(child, _CONTAINERS) or _holds_blocks(child) or _weight(child) >= 0.9 * total:
                look_into(child, inner)

    look_into(model, "")
    return found


def _weight(module: nn.Module) -> int:
    """Parameters of a module that has children; a single heavy layer is no wrapper."""
    return sum(p.numel() for p in module.parameters()) if next(module.children(), None) is not None else 0


def _holds_blocks(module: nn.Module) -> bool:
    """True where a child is a sequence of at least two modules, most of them of one class that has children itself."""
    for child in module.children():
        if isinstance(child, _CONTAINERS):
            kinds = Counter(
                type(m) for m in child.children() if next(m.children(), None) and not isinstance(m, _CONTAINERS)
            )
            like = max(kinds.values(), default=0)
            if like >= 2 and like > len(list(child.children())) / 2:
                return True
    return False


def block_outputs(paths: Collection[str], calls: Mapping[str, Node], leaves: Collection[str]) -> set[Node]:
    """The tensors that the modules at ``paths`` return, each followed to where it rests.

    A single layer (one of ``leaves``) that is linear and feeds a normalisation or an activation alone is half of a
    block: the block ends after it.
    """
    return {_rest(node) if path in leaves else node for path, node in calls.items() if _known(path, paths)}


def _known(call: str, paths: Collection[str]) -> bool:
    path, _, number = call.rpartition("_")
    return call in paths or (number.isdigit() and path in paths)


def _rest(node: Node) -> Node:
    while any(part in op_name(source(node)) for part in _LINEAR):
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        if reader is None or reader.op != "call_function":
            return node
        name = op_name(reader).rpartition("::")[2]
        if "norm" in name:
            outputs = [user for user in reader.users if user.op == "call_function" and source(user) is reader]
            node = outputs[0] if outputs and "native" in name else reader
        elif name in _ACTIVATIONS:
            return reader
        else:
            return node
    return node
