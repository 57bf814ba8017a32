"""Names of tensors.

A tensor is named by the path of the module that returns it (``layer1.0``), or by path and
operation if no module returns it (``layer1.0.add``). A second call of a module gets a suffix
(``relu_1``). Both conventions are those of torchvision's feature extraction:
https://docs.pytorch.org/vision/stable/feature_extraction.html

The paths come from torch.export's record of module calls. A module that returns its input, such as
dropout in eval mode, therefore names that tensor too.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping

from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import Graph, Node

from ...schema import INPUT, OUTPUT
from .graph import bare_op_name, is_tensor, placeholder, result

_TAG = "isplit_node"


class ModuleCalls:
    """The tensor that each module call returns, followed through a decomposition.

    Make it from the traced program before ``run_decompositions``: it tags the nodes, and tags in
    ``meta["custom"]`` survive the decomposition. :meth:`resolve` finds the tensors again in the
    final graph.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._traced = {node.name: node for node in program.graph.nodes}
        self._returned: dict[str, str] = {}
        for entry in program.module_call_graph:
            if not entry.fqn or entry.signature is None:
                continue
            tensors = [
                output.name
                for output in entry.signature.outputs
                if isinstance(output, TensorArgument)
            ]
            if tensors and tensors[-1] in self._traced:
                self._returned[_call_name(entry.fqn)] = tensors[-1]
            # The decomposition removes tensors, and would refuse a signature that names them.
            entry.signature = None
        for node in program.graph.nodes:
            if node.op == "call_function":
                node.meta["custom"] = {**(node.meta.get("custom") or {}), _TAG: node.name}

    def resolve(self, graph: Graph) -> dict[str, Node]:
        """Module call -> the node of ``graph`` with the tensor that the call returns."""
        by_tag: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            if node.op == "call_function":
                by_tag[_tag(node)].append(node)
        entry = placeholder(graph)
        calls: dict[str, Node] = {}
        for call, name in self._returned.items():
            node = _descendant(self._traced[name], by_tag, entry)
            if node is not None:
                calls[call] = node
        return calls


def name_tensors(
    graph: Graph, calls: Mapping[str, Node], dependent: Iterable[Node]
) -> dict[Node, tuple[str, ...]]:
    """The names of every tensor that depends on the input.

    The main name comes first: ``input``, ``output``, the shortest module path, or else path and
    operation. All names are unique.
    """
    # A first call keeps its path even if a later call of another module is spelt the same.
    paths: dict[Node, list[str]] = defaultdict(list)
    for call, node in calls.items():
        paths[node].append(call)
    last_of_tag = {
        _tag(node): node for node in graph.nodes if node.op == "call_function" and is_tensor(node)
    }
    used = {INPUT, OUTPUT, *calls}
    ends = {placeholder(graph): INPUT, result(graph): OUTPUT}
    names: dict[Node, tuple[str, ...]] = {}
    live = set(dependent)
    for node in graph.nodes:
        if node not in live or not is_tensor(node):
            continue
        own = sorted(paths.get(node, ()), key=lambda path: (path.count("."), len(path)))
        if node in ends:
            own = [ends[node], *(name for name in own if name != ends[node])]
        elif not own:
            is_last = last_of_tag.get(_tag(node)) is node
            own = [_unique(_path_and_operation(node, is_last=is_last), used)]
            used.add(own[0])
        names[node] = tuple(own)
    return names


def _tag(node: Node) -> str:
    """The name of the traced node that a node of the final graph was made from."""
    return str((node.meta.get("custom") or {}).get(_TAG, node.name))


def _call_name(fqn: str) -> str:
    """``layer1.0.relu@2``, the third call, -> ``layer1.0.relu_2``."""
    path, _, call = fqn.partition("@")
    return f"{path}_{call}" if call else path


def _descendant(traced: Node, by_tag: Mapping[str, list[Node]], entry: Node) -> Node | None:
    """The node of the final graph that holds the tensor of a traced node."""
    if traced.op == "placeholder":
        return entry if traced.name == entry.name else None
    candidates = [node for node in by_tag.get(traced.name, ()) if is_tensor(node)]
    if candidates:
        return candidates[-1]
    if traced.target is operator.getitem:  # an item of several outputs carries the operator's tag
        operation, index = traced.args
        items = [
            node
            for node in by_tag.get(str(operation), ())
            if node.target is operator.getitem and node.args[1] == index
        ]
        return items[-1] if items else None
    # The decomposition removed the operator, so it returned its input: dropout in eval mode, or a
    # view of the same shape.
    first = next(iter(traced.all_input_nodes), None)
    return None if first is None else _descendant(first, by_tag, entry)


def _path_and_operation(node: Node, *, is_last: bool) -> str:
    """``layer1.0.add``; the model's own word for the operation if the node is its last part."""
    stack = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    path = stack[-1].partition("@")[0] if stack and not stack[-1].startswith("_empty") else ""
    operation = bare_op_name(node)
    called = node.meta.get("torch_fn")
    if called and is_last and node.target is not operator.getitem:
        operation = called[1].rpartition(".")[2]
    operation = operation.strip("_") or "tensor"
    return f"{path}.{operation}" if path else operation


def _unique(name: str, used: set[str]) -> str:
    if name not in used:
        return name
    number = 1
    while f"{name}_{number}" in used:
        number += 1
    return f"{name}_{number}"
