"""The graph of a captured network: built from an exported program, normalised, and searched for places to cut.

A place can be cut where exactly one tensor that depends on the input is live. Symbolic sizes (the batch dimension)
live across nearly every place of transformers and pooling networks; they are no tensors and carry nothing that the
activation's own size does not tell, so they are not counted: see :func:`depends_on_input`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.fx import Graph, GraphModule, Node

from ..errors import CaptureError

# Checks without a result. They would keep tensors alive that nothing reads.
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


def op_name(node: Node) -> str:
    """The qualified name of a node's operator (``aten::conv2d``), or its Python name."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._schema.name)
    return str(getattr(node.target, "__name__", node.target))


def source(node: Node) -> Node:
    """The node that computed a tensor: looks through the ``getitem`` of an operator with several outputs."""
    if node.target is operator.getitem and isinstance(node.args[0], Node):
        return node.args[0]
    return node


def is_tensor(node: Node) -> bool:
    """True where the node's value is one tensor."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def make_module(graph: Graph, attributes: Callable[[str], Any], name: str) -> GraphModule:
    """A graph module that holds exactly what its graph reads; tensors are shared, not copied.

    ``attributes`` maps the target of a ``get_attr`` to its parameter, buffer or submodule.
    """
    graph.lint()
    root = {
        str(node.target): attributes(str(node.target))
        for node in graph.nodes
        if node.op == "get_attr"
    }
    return GraphModule(root, graph, class_name=name).eval()


def build(program: ExportedProgram) -> GraphModule:
    """The whole network as a plain functional graph: one input, one output, parameters and buffers as attributes.

    Raises CaptureError for several inputs or outputs, and for a network that changes its buffers while it infers.
    """
    held = _held_tensors(program)
    inputs = [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]
    if len(inputs) != 1:
        raise CaptureError(
            f"expected a network with one input tensor, this one has {len(inputs)}: {', '.join(inputs)}"
        )
    changed = [
        s for s in program.graph_signature.output_specs if s.kind is not OutputKind.USER_OUTPUT
    ]
    if changed:
        raise CaptureError(
            "expected a network without side effects in eval mode, this one changes "
            + ", ".join(sorted({str(s.target) for s in changed}))
        )
    outputs = [spec.arg for spec in program.graph_signature.output_specs]
    if len(outputs) != 1 or not isinstance(outputs[0], TensorArgument):
        raise CaptureError(
            f"expected class scores (N, classes) alone, the network returns {len(outputs)} values"
        )
    graph = Graph()
    copied: dict[Node, Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in held:
            copied[node] = graph.create_node("get_attr", held[node.name][0], name=node.name)
            copied[node].meta = dict(node.meta)
        elif node.op == "output":
            (result,) = node.args[0]
            graph.output(copied[result])
        else:
            copied[node] = graph.node_copy(node, lambda n: copied[n])
    values = dict(held.values())

    def attribute(target: str) -> Any:
        return (
            values[target]
            if target in values
            else operator.attrgetter(target)(program.graph_module)
        )

    _normalise(graph)
    return make_module(graph, attribute, "Network")


def _held_tensors(program: ExportedProgram) -> dict[str, tuple[str, torch.Tensor]]:
    """Placeholder name -> (attribute path, tensor) of every parameter, buffer and constant."""
    held: dict[str, tuple[str, torch.Tensor]] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            continue
        target = str(spec.target)
        value = program.state_dict.get(target, program.constants.get(target))
        if not isinstance(value, torch.Tensor):
            raise CaptureError(
                f"the network reads {target!r}, a {spec.kind.name}, which is no tensor"
            )
        held[spec.arg.name] = (target, value)
    return held


def _normalise(graph: Graph) -> None:
    """Drop assertions and dead nodes; let everything that reads metadata alone read it from the input."""
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
            and _same(node.meta["val"], batch)
        ):
            node.args = (entry, 0)
        elif name in _NEW and node.args[0] is not entry:
            node.kwargs = {**node.kwargs, "dtype": node.meta["val"].dtype}
            node.args = (entry, *node.args[1:])
    # Sizes first: a node may stand before the one it now reads only if that is the placeholder, which is the first.
    graph.eliminate_dead_code()


def _same(a: Any, b: Any) -> bool:
    """True where two sizes are the same symbol; never adds a guard."""
    return str(a) == str(b)


def placeholder(graph: Graph) -> Node:
    """The node of the network's input."""
    return cast(Node, next(iter(graph.find_nodes(op="placeholder"))))


def result(graph: Graph) -> Node:
    """The node that the network returns."""
    return cast(Node, graph.output_node().args[0])


def depends_on_input(graph: Graph) -> set[Node]:
    """The nodes whose values depend on the input's values; reading its size or dtype does not count."""
    entry = placeholder(graph)
    dependent = {entry}
    for node in graph.nodes:
        name = op_name(node) if node.op == "call_function" else ""
        metadata = name == "aten::sym_size" or name in _NEW
        if metadata and node.args[0] is entry:
            continue
        if any(argument in dependent for argument in node.all_input_nodes):
            dependent.add(node)
    return dependent


@dataclass(frozen=True)
class Analysis:
    """Which tensors are live where.

    ``order``: nodes in execution order. ``dependent``: those that depend on the input. ``cuts``: valid single-tensor
    cuts, without input and output. ``last_use``: index of the last node that reads a node's values.
    """

    order: tuple[Node, ...]
    position: Mapping[Node, int]
    dependent: frozenset[Node]
    cuts: tuple[Node, ...]
    last_use: Mapping[Node, int]

    def live_after(self, node: Node) -> list[Node]:
        """The tensors live right after ``node``, in execution order."""
        at = self.position[node]
        live = [
            n for n in self.order[: at + 1] if n in self.dependent and self.last_use.get(n, -1) > at
        ]
        # An operator with several outputs is named by the ones that are read.
        return [
            t for n in live for t in ([n] if is_tensor(n) else [u for u in n.users if is_tensor(u)])
        ]


def analyse(graph: Graph) -> Analysis:
    """Find every valid cut. A cut's tensor is floating point, has the batch first and no other symbolic size."""
    order = tuple(graph.nodes)
    position = {node: i for i, node in enumerate(order)}
    dependent = frozenset(depends_on_input(graph))
    # Readers of metadata alone are not among the dependent.
    last_use = {
        n: max((position[user] for user in n.users if user in dependent), default=-1) for n in order
    }
    batch = placeholder(graph).meta["val"].shape[0]
    final = result(graph)
    cuts: list[Node] = []
    live: set[Node] = set()
    for i, node in enumerate(order):
        if node in dependent and node.op != "output":
            live.add(node)
        live -= {n for n in live if last_use[n] <= i}
        if (
            live == {node}
            and node.op == "call_function"
            and node is not final
            and _can_travel(node, batch)
        ):
            cuts.append(node)
    return Analysis(order, position, dependent, tuple(cuts), last_use)


def _can_travel(node: Node, batch: Any) -> bool:
    """A tensor (batch, ...) of floating point whose other sizes are fixed."""
    if not is_tensor(node):
        return False
    value = node.meta["val"]
    return bool(
        value.dtype.is_floating_point
        and value.dim() >= 2
        and _same(value.shape[0], batch)
        and all(isinstance(size, int) for size in value.shape[1:])
    )


def needed_by(results: Iterable[Node], start: Node) -> set[Node]:
    """``results`` and every node that computing them from ``start`` needs."""
    needed: set[Node] = set()
    stack = list(results)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            if node is not start:
                stack.extend(node.all_input_nodes)
    return needed
