"""A captured network: its split points, its parts and its importance."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Self, cast

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.fx import GraphModule, Node

from ..errors import DataError, SplitPointError, UnknownSplitPointError
from ..schema import INPUT, OUTPUT, Preprocessing, SplitPoint
from . import hashing, network_file
from .graphs import cutting, graph, linearity, liveness
from .importance import BackwardPass, Importance, Target, backward_pass


class CapturedNetwork:
    """A trained classifier as a functional graph, made by :func:`capture` or :meth:`load`.

    It shares its parameters with the model it was captured from. All methods only read it, so
    several threads may use it at the same time.

    Parameters:
        program: the exported program.
        module: its functional graph, from :func:`.graph.build`.
        names: node name -> all names of its tensor, for every tensor.
        points: node name -> split point, in execution order.
    """

    def __init__(
        self,
        program: ExportedProgram,
        module: GraphModule,
        names: Mapping[str, tuple[str, ...]],
        points: Mapping[str, SplitPoint],
    ) -> None:
        self._program = program
        self._module = module
        self._names = dict(names)
        self._points = dict(points)
        self._nodes: dict[str, Node] = {node.name: node for node in module.graph.nodes}
        self._node_names = {name: node for node, own in names.items() for name in own}
        self._tails: dict[str, tuple[GraphModule, dict[Node, int]]] = {}

    @property
    def model(self) -> GraphModule:
        """The whole network: input (N, ...) -> scores (N, classes)."""
        return self._module

    @property
    def split_points(self) -> tuple[SplitPoint, ...]:
        """Every split point in execution order, without ``input`` and ``output``."""
        return tuple(self._points.values())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the input, without the batch."""
        return _shape(graph.placeholder(self._module.graph))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the input."""
        return cast(torch.dtype, graph.placeholder(self._module.graph).meta["val"].dtype)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        tensor = next(self._module.parameters(), next(self._module.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def classes(self) -> int:
        """The number of class scores."""
        return _shape(graph.result(self._module.graph))[0]

    def split_point(self, name: str) -> SplitPoint:
        """A split point by any of its names.

        Raises:
            SplitPointError: the tensor of this name is no split point; ``details`` hold the live
                tensors and the nearest split points.
            UnknownSplitPointError: no tensor has this name.
        """
        return self._points[self._cut(name)]

    def node(self, name: str) -> Node:
        """The node of a split point in ``model.graph``. Raises as :meth:`split_point`."""
        return self._nodes[self._cut(name)]

    def bisect(self, name: str) -> tuple[nn.Module, nn.Module]:
        """Head and tail of a split point, such that ``tail(head(x))`` equals ``model(x)``.

        The head maps an input (N, ...) to the activation, the tail a row-major activation to the
        scores. Each carries only its own parameters and buffers and shares them with this network.
        At ``input`` and ``output`` one of them is the whole network and the other the identity.

        Raises as :meth:`split_point`.
        """
        if self._is_end(name, INPUT):
            return nn.Identity(), self._module
        if self._is_end(name, OUTPUT):
            return self._module, nn.Identity()
        cut = self._cut(name)
        tail, _ = cutting.tail(self._module, self._nodes[cut], self._points[cut].stride_order)
        return cutting.head(self._module, self._nodes[cut]), tail

    def importance(self, x: torch.Tensor, target: Target = None) -> Importance:
        """CUI of a batch (N, ...) at every split point, in one forward and one backward pass.

        Raises UnknownClassError; DataError for an input of another shape or type.
        """
        return self.importance_from(INPUT, x, target)

    def importance_from(
        self, split_point: str, activation: torch.Tensor, target: Target = None
    ) -> Importance:
        """CUI from a split point onwards, from the activation (N, ...) there.

        For an activation that was not compressed, the values equal those of :meth:`importance`;
        at earlier split points they are NaN.

        Raises as :meth:`importance` and :meth:`split_point`, and SplitPointError at ``output``.
        """
        if self._is_end(split_point, OUTPUT):
            raise SplitPointError(f"nothing comes after {split_point!r}, so it has no importance")
        if not self._is_end(split_point, INPUT):
            cut = self._cut(split_point)
            self._check(activation, split_point, self._nodes[cut])
            return self._importance(self._backward(cut, activation, target))
        self._check(activation, INPUT, graph.placeholder(self._module.graph))
        if self._first_head is None:
            return self._importance(backward_pass(self._module, activation, {}, (), target))
        first, head = self._first_head
        with torch.no_grad():  # nothing before the first split point needs a gradient
            activation = head(activation)
        return self._importance(self._backward(first, activation, target))

    def gradient_from(
        self, split_point: str, activation: torch.Tensor, target: Target = None
    ) -> tuple[Importance, torch.Tensor]:
        """:meth:`importance_from`, and the gradient of the target's score at the activation.

        With the gradient (N, ...), a device can finish the backward pass through its head
        (:class:`.head_importance.HeadImportance`).

        Raises as :meth:`importance_from`, and SplitPointError at ``input``.
        """
        cut = self._cut(split_point)
        self._check(activation, split_point, self._nodes[cut])
        backward = self._backward(cut, activation, target)
        return self._importance(backward), backward.gradient

    def is_linear_after(self, split_point: str) -> bool:
        """Whether the scores are an affine function of the activation at a split point."""
        tail, _ = self._tail_and_columns(self._cut(split_point))
        return linearity.is_linear(tail.graph)

    def network_hash(self, preprocessing: Preprocessing) -> str:
        """SHA-256 over graph, weights and preprocessing (:func:`.hashing.network_hash`)."""
        return hashing.network_hash(self._module, preprocessing)

    def to(self, device: torch.device) -> CapturedNetwork:
        """The same network with its parameters on another device.

        It may fail or compute something else there: :func:`.execution.on_device` checks that.
        """
        program = move_to_device_pass(self._program, device)
        return CapturedNetwork(program, graph.build(program), self._names, self._points)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a ``.pt2`` file. Raises ArtifactError if it cannot be written.

        Such a file contains code, like a ``.mar``: whoever loads it must trust whoever wrote it.
        """
        network_file.write(Path(path), self._program, self._names, self._points)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a network that :meth:`save` wrote.

        **Only from trusted files**: loading a tampered ``.pt2`` file runs the code hidden in it.

        Raises ArtifactError for a missing file, a file of another kind, or one of a newer format.
        """
        return cls(*network_file.read(Path(path)))

    def _is_end(self, name: str, end: str) -> bool:
        """Whether ``name`` names the tensor of ``input`` or ``output``."""
        node = self._node_names.get(name)
        return node is not None and end in self._names[node]

    def _cut(self, name: str) -> str:
        """The node name of a split point. Raises as :meth:`split_point`."""
        node = self._node_names.get(name)
        if node is None:
            points = [point.name for point in self._points.values()]
            close = difflib.get_close_matches(name, self._node_names, n=5)
            others = [other for other in (INPUT, *points, OUTPUT) if other not in close]
            raise UnknownSplitPointError.of(name, (*close, *others))
        if node not in self._points:
            raise self._not_a_split_point(name, node)
        return node

    def _not_a_split_point(self, name: str, node: str) -> SplitPointError:
        for end in (INPUT, OUTPUT):
            if end in self._names[node]:
                return SplitPointError(
                    f"{name!r} is the network's {end}, not a split point: it is always deployed",
                    live=[end],
                )
        lifetimes = self._liveness
        position = lifetimes.position
        tensor = self._nodes[node]
        live = [
            self._names[value.name][0]
            for value in lifetimes.live_after(tensor)
            if value.name in self._names
        ]
        before = None
        after = None
        for point_node, point in self._points.items():
            if position[self._nodes[point_node]] < position[tensor]:
                before = point.name
            elif after is None:
                after = point.name
        if live == [self._names[node][0]]:
            sizes = ", ".join(map(str, tensor.meta["val"].shape))
            reason = (
                f"its tensor ({sizes}) is not floating point with the batch first and no other "
                "free dimension"
            )
        else:
            dots = ", ..." if len(live) > 8 else ""
            reason = f"{len(live)} tensors are live there: {', '.join(live[:8])}{dots}"
        return SplitPointError(
            f"{name!r} is not a split point: {reason}; nearest split points: "
            f"{before or 'none'} before, {after or 'none'} after",
            live=live,
            before=before,
            after=after,
        )

    @cached_property
    def _liveness(self) -> liveness.Liveness:
        return liveness.analyse(self._module.graph)

    @cached_property
    def _first_head(self) -> tuple[str, GraphModule] | None:
        """The node name of the first split point, and its head."""
        first = next(iter(self._points), None)
        return None if first is None else (first, cutting.head(self._module, self._nodes[first]))

    def _tail_and_columns(self, cut: str) -> tuple[GraphModule, dict[Node, int]]:
        """The tail after ``cut``, and the columns of those of its nodes that are split points."""
        if cut not in self._tails:
            tail, copies = cutting.tail(
                self._module, self._nodes[cut], self._points[cut].stride_order
            )
            columns = {
                copies[self._nodes[node]]: column
                for column, node in enumerate(self._points)
                if self._nodes[node] in copies
            }
            self._tails[cut] = tail, columns
        return self._tails[cut]

    def _check(self, tensor: object, name: str, node: Node) -> None:
        value = node.meta["val"]
        sizes = ", ".join(["N", *map(str, _shape(node))])
        expected = f"{name!r}: expected {value.dtype} of shape ({sizes})"
        if not isinstance(tensor, torch.Tensor):
            raise DataError(f"{expected}, got {type(tensor).__name__}")
        if (
            tuple(tensor.shape[1:]) != _shape(node)
            or tensor.dim() != value.dim()
            or tensor.dtype != value.dtype
        ):
            raise DataError(f"{expected}, got {tensor.dtype} of shape {tuple(tensor.shape)}")

    def _backward(self, cut: str, activation: torch.Tensor, target: Target) -> BackwardPass:
        tail, columns = self._tail_and_columns(cut)
        axes = [point.channel_axis for point in self._points.values()]
        return backward_pass(tail, activation, columns, axes, target)

    def _importance(self, backward: BackwardPass) -> Importance:
        scores = backward.scores
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.float()
        return Importance(
            values=backward.values.cpu().numpy(),
            target=backward.target.cpu().numpy(),
            split_points=tuple(point.name for point in self._points.values()),
            scores=scores.cpu().numpy(),
        )


def _shape(node: Node) -> tuple[int, ...]:
    """The shape of a node's tensor, without the batch."""
    return tuple(int(size) for size in node.meta["val"].shape[1:])
