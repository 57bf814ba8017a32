"""Names of tensors: the paths of the modules that return them, or path and operation inside a module.

The paths come from torch.export's own record of module calls, so a module that returns its input (dropout in eval
mode, Identity) names that tensor too. A module called again gets a suffix (``relu_1``), and a tensor that no module
returns is named by path and operation (``layer1.0.add``), both as torchvision's feature extraction does:
https://docs.pytorch.org/vision/stable/feature_extraction.html
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable

from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import Graph, Node

from ..schema import INPUT, OUTPUT
from .graph import is_tensor, op_name, placeholder, result

_TAG = "isplit_node"


class ModuleCalls:
    """Which tensor each module call returns, carried from the traced program over its decomposition.

    Made from the traced program before ``run_decompositions``, which it prepares by tagging the nodes (tags travel in
    ``meta["custom"]``); :meth:`resolve` then finds the tensors again in the final graph.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._nodes = {node.name: node for node in program.graph.nodes}
        self._returned: dict[str, str] = {}
        for entry in program.module_call_graph:
            if not entry.fqn or entry.signature is None:
                continue
            tensors = [
                out.name for out in entry.signature.outputs if isinstance(out, TensorArgument)
            ]
            if tensors and tensors[-1] in self._nodes:
                self._returned[_call_name(entry.fqn)] = tensors[-1]
            # The record cannot follow tensors that the decomposition removes, and would refuse them.
            entry.signature = None
        for node in program.graph.nodes:
            if node.op == "call_function":
                node.meta["custom"] = {**(node.meta.get("custom") or {}), _TAG: node.name}

    def resolve(self, graph: Graph) -> dict[str, Node]:
        """Module call -> the node of ``graph`` that holds what it returns."""
        made: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            if node.op == "call_function":
                made[tag(node)].append(node)
        entry = placeholder(graph)
        found: dict[str, Node] = {}
        for call, name in self._returned.items():
            node = self._find(self._nodes[name], made, entry)
            if node is not None:
                found[call] = node
        return found

    def _find(self, traced: Node, made: dict[str, list[Node]], entry: Node) -> Node | None:
        if traced.op == "placeholder":
            return entry if traced.name == entry.name else None
        candidates = [node for node in made.get(traced.name, ()) if is_tensor(node)]
        if candidates:
            return candidates[-1]
        if traced.target is operator.getitem:  # one of several outputs: the tag is the operator's
            of, index = traced.args
            same = [
                n
                for n in made.get(str(of), ())
                if n.target is operator.getitem and n.args[1] == index
            ]
            return same[-1] if same else None
        # Removed without a trace: it returned its input (dropout in eval mode, a view of the same shape).
        first = next(iter(traced.all_input_nodes), None)
        return None if first is None else self._find(first, made, entry)


def tag(node: Node) -> str:
    """The traced node that a node of the final graph was made from."""
    return str((node.meta.get("custom") or {}).get(_TAG, node.name))


def _call_name(fqn: str) -> str:
    """``layer1.0.relu@2`` (third call) -> ``layer1.0.relu_2``."""
    path, _, call = fqn.partition("@")
    return f"{path}_{call}" if call else path


def name_tensors(
    graph: Graph, calls: dict[str, Node], dependent: Iterable[Node]
) -> dict[Node, tuple[str, ...]]:
    """Every tensor's names, the main one first: the shortest module path, else path and operation. All are unique.

    The input's and the output's main names are ``input`` and ``output``.
    """
    by_node: dict[Node, list[str]] = defaultdict(list)
    # A first call keeps its path even where a later call of another module would spell the same.
    for call, node in calls.items():
        by_node[node].append(call)
    last_of = {
        tag(node): node for node in graph.nodes if node.op == "call_function" and is_tensor(node)
    }
    taken = {INPUT, OUTPUT, *calls}
    names: dict[Node, tuple[str, ...]] = {}
    live = set(dependent)
    entry, final = placeholder(graph), result(graph)
    for node in graph.nodes:
        if node not in live or not is_tensor(node):
            continue
        own = sorted(by_node.get(node, ()), key=lambda n: (n.count("."), len(n)))
        if node in (entry, final):
            main = INPUT if node is entry else OUTPUT
            own = [main, *(n for n in own if n != main)]
        elif not own:
            own = [_unique(_path_and_operation(node, last_of.get(tag(node)) is node), taken)]
            taken.add(own[0])
        names[node] = tuple(own)
    return names


def _path_and_operation(node: Node, is_last: bool) -> str:
    stack = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    path = stack[-1].partition("@")[0] if stack and not stack[-1].startswith("_empty") else ""
    operation = op_name(node).rpartition("::")[2]
    called = node.meta.get("torch_fn")
    if called and is_last and node.target is not operator.getitem:
        operation = called[1].rpartition(".")[2]
    operation = operation.strip("_") or "tensor"
    return f"{path}.{operation}" if path else operation


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    n = 1
    while f"{name}_{n}" in taken:
        n += 1
    return f"{name}_{n}"
