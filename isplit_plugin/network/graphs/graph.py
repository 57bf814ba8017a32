"""The functional graph of a network: building it from an exported program, and walking it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.fx import Graph, GraphModule, Node

from ...errors import CaptureError

# Operators without a result. As readers they would keep tensors alive that nothing else needs.
_ASSERTIONS = frozenset(
    {
        "aten::_assert_tensor_metadata",
        "aten::_assert_async",
        "aten::_assert_scalar",
        "aten::sym_constrain_range",
        "aten::sym_constrain_range_for_size",
    }
)
# Constructors that read the dtype and device of their first argument, never its values.
_NEW = frozenset({f"aten::new_{kind}" for kind in ("zeros", "ones", "full", "empty")})


def build(program: ExportedProgram) -> GraphModule:
    """The network of an exported program as one functional graph.

    The graph has one input and one output. Parameters, buffers and constants are attributes of the
    module and share their storage with the program.

    Raises CaptureError if the network has several inputs or outputs, or changes its buffers while
    it infers.
    """
    attributes = _attributes_of(program)
    _check_signature(program)
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in attributes:
            path, _ = attributes[node.name]
            copies[node] = graph.create_node("get_attr", path, name=node.name)
            copies[node].meta = dict(node.meta)
        elif node.op == "output":
            (returned,) = node.args[0]
            graph.output(copies[returned])
        else:
            copies[node] = graph.node_copy(node, lambda original: copies[original])
    tensors = dict(attributes.values())

    def attribute(path: str) -> Any:
        if path in tensors:
            return tensors[path]
        return operator.attrgetter(path)(program.graph_module)

    _normalise(graph)
    return make_module(graph, attribute, "Network")


def make_module(graph: Graph, attribute: Callable[[str], Any], name: str) -> GraphModule:
    """A module of class ``name`` that runs a graph and holds exactly the attributes it reads.

    ``attribute`` maps the target of a ``get_attr`` node to a parameter, buffer or submodule, which
    is shared, not copied.
    """
    graph.lint()
    root = {
        str(node.target): attribute(str(node.target))
        for node in graph.nodes
        if node.op == "get_attr"
    }
    return GraphModule(root, graph, class_name=name).eval()


def placeholder(graph: Graph) -> Node:
    """The node of the network's input."""
    return cast(Node, next(iter(graph.find_nodes(op="placeholder"))))


def result(graph: Graph) -> Node:
    """The node whose value the network returns."""
    return cast(Node, graph.output_node().args[0])


def is_tensor(node: Node) -> bool:
    """Whether the value of a node is one tensor."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def op_name(node: Node) -> str:
    """The qualified name of a node's operator (``aten::conv2d``), or its Python name."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._schema.name)
    return str(getattr(node.target, "__name__", node.target))


def bare_op_name(node: Node) -> str:
    """The operator's name without its namespace: ``conv2d`` for ``aten::conv2d``."""
    return op_name(node).rpartition("::")[2]


def source(node: Node) -> Node:
    """The node that computed a tensor: for an item of several outputs, their operator."""
    if node.target is operator.getitem and isinstance(node.args[0], Node):
        return node.args[0]
    return node


def depends_on_input(graph: Graph) -> set[Node]:
    """The nodes whose values depend on the input's values.

    A node that reads only the size or dtype of the input does not depend on it.
    """
    entry = placeholder(graph)
    dependent = {entry}
    for node in graph.nodes:
        name = op_name(node) if node.op == "call_function" else ""
        reads_metadata = name == "aten::sym_size" or name in _NEW
        if reads_metadata and node.args[0] is entry:
            continue
        if any(argument in dependent for argument in node.all_input_nodes):
            dependent.add(node)
    return dependent


def needed_by(results: Iterable[Node], start: Node) -> set[Node]:
    """``results`` and every node needed to compute them from ``start``."""
    needed: set[Node] = set()
    stack = list(results)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            if node is not start:
                stack.extend(node.all_input_nodes)
    return needed


def same_size(size: Any, other: Any) -> bool:
    """Whether two sizes are the same symbol. Comparing them as sizes would add a guard."""
    return str(size) == str(other)


def _attributes_of(program: ExportedProgram) -> dict[str, tuple[str, torch.Tensor]]:
    """Placeholder name -> (attribute path, tensor) of every parameter, buffer and constant."""
    attributes: dict[str, tuple[str, torch.Tensor]] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            continue
        path = str(spec.target)
        value = program.state_dict.get(path, program.constants.get(path))
        if not isinstance(value, torch.Tensor):
            raise CaptureError(
                f"expected tensors as the network's attributes, got {path!r}, a {spec.kind.name}"
            )
        attributes[spec.arg.name] = (path, value)
    return attributes


def _check_signature(program: ExportedProgram) -> None:
    signature = program.graph_signature
    inputs = [spec.arg.name for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    if len(inputs) != 1:
        raise CaptureError(
            f"expected a network with one input tensor, got {len(inputs)} inputs: "
            + ", ".join(inputs)
        )
    changed = {
        str(spec.target)
        for spec in signature.output_specs
        if spec.kind is not OutputKind.USER_OUTPUT
    }
    if changed:
        raise CaptureError(
            "expected a network without side effects in eval mode, this one changes "
            + ", ".join(sorted(changed))
        )
    outputs = [spec.arg for spec in signature.output_specs]
    if len(outputs) != 1 or not isinstance(outputs[0], TensorArgument):
        raise CaptureError(
            f"expected class scores (N, classes) as the only output, got {len(outputs)} values"
        )


def _normalise(graph: Graph) -> None:
    """Drop assertions and dead nodes, and read sizes and dtypes from the input wherever possible.

    What reads its metadata from the input keeps no other tensor alive.
    """
    entry = placeholder(graph)
    batch = entry.meta["val"].shape[0]
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        name = op_name(node)
        if name in _ASSERTIONS:
            graph.erase_node(node)
        elif (
            name == "aten::sym_size"
            and node.args[0] is not entry
            and same_size(node.meta["val"], batch)
        ):
            node.args = (entry, 0)
        elif name in _NEW and node.args[0] is not entry:
            node.kwargs = {**node.kwargs, "dtype": node.meta["val"].dtype}
            node.args = (entry, *node.args[1:])
    graph.eliminate_dead_code()
