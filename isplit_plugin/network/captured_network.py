"""A captured network: its split points, its parts, its importance."""

from __future__ import annotations

import difflib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from ..errors import ArtifactError, DataError, SplitPointError, UnknownSplitPointError
from ..schema import INPUT, OUTPUT, Preprocessing, SplitPoint
from . import cutting, graph, importance, linearity
from . import hashing as identity
from .importance import Importance, Target

_FORMAT = 1
_EXTRA = "isplit.json"


class CapturedNetwork:
    """One trained classifier as a functional graph, made by :func:`capture` or :func:`load`.

    It shares its parameters with the model it was captured from. All methods only read it: several threads may use it
    at once.
    """

    def __init__(
        self,
        program: ExportedProgram,
        module: GraphModule,
        names: Mapping[str, tuple[str, ...]],
        points: Mapping[str, SplitPoint],
    ) -> None:
        """``names``: node -> its names, of every tensor. ``points``: node -> split point, in execution order."""
        self._program = program
        self._module = module
        self._names = dict(names)
        self._points = dict(points)
        self._nodes = {node.name: node for node in module.graph.nodes}
        self._by_name = {name: node for node, all_names in names.items() for name in all_names}

    @property
    def model(self) -> nn.Module:
        """The whole network: input (N, ...) -> scores (N, classes)."""
        return self._module

    @property
    def split_points(self) -> tuple[SplitPoint, ...]:
        """Every valid split point in execution order, without ``input`` and ``output``."""
        return tuple(self._points.values())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The input's shape without batch."""
        return self._shape(graph.placeholder(self._module.graph))

    @property
    def dtype(self) -> torch.dtype:
        """The input's type."""
        return cast(torch.dtype, graph.placeholder(self._module.graph).meta["val"].dtype)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        held = next(self._module.parameters(), next(self._module.buffers(), None))
        return torch.device("cpu") if held is None else held.device

    @property
    def classes(self) -> int:
        """How many class scores the network returns."""
        return self._shape(graph.result(self._module.graph))[0]

    def _shape(self, node: Node) -> tuple[int, ...]:
        return tuple(int(size) for size in node.meta["val"].shape[1:])

    def split_point(self, name: str) -> SplitPoint:
        """A split point by any of its names.

        Raises SplitPointError for a tensor that is no single-tensor cut, naming the live tensors and the nearest
        split points; UnknownSplitPointError for a name nobody knows.
        """
        return self._points[self._cut(name)]

    def bisect(self, name: str) -> tuple[nn.Module, nn.Module]:
        """Head (input -> activation) and tail (activation -> scores), so that ``tail(head(x))`` is ``model(x)``.

        Each carries its own parameters and buffers only, shared with this network. The tail takes a row-major
        activation and restores the network's memory layout. At ``input`` and ``output`` one of them is the whole
        network and the other returns its input.

        Raises SplitPointError, UnknownSplitPointError.
        """
        node = self._by_name.get(name)
        if node is not None and INPUT in self._names[node]:
            return nn.Identity(), self._module
        if node is not None and OUTPUT in self._names[node]:
            return self._module, nn.Identity()
        cut = self._cut(name)
        tail, _ = cutting.tail(self._module, self._nodes[cut], self._points[cut].stride_order)
        return cutting.head(self._module, self._nodes[cut]), tail

    def importance(self, x: torch.Tensor, target: Target = None) -> Importance:
        """CUI of a batch (N, ...) at every split point, in one forward and one backward pass.

        ``target``: the class whose score is differentiated, an id or one for each input; the predicted class where
        None. Raises DataError for an input of another shape or type, UnknownClassError.
        """
        return self.importance_from(INPUT, x, target)

    def importance_from(
        self, split_point: str, activation: torch.Tensor, target: Target = None
    ) -> Importance:
        """CUI from a cut onwards, from the activation there: what split traffic can tell.

        Equal to :meth:`importance` at the cut and after it for an activation that was not compressed; NaN before.
        """
        node = self._by_name.get(split_point)
        if node is not None and OUTPUT in self._names[node]:
            raise SplitPointError(
                f"nothing comes after {split_point!r}: importance has no points there"
            )
        if node is not None and INPUT in self._names[node]:
            x = self._check(activation, INPUT, graph.placeholder(self._module.graph))
            if self._first is None:
                return self._wrap(*importance.run(self._module, x, {}, (), target)[:3])
            cut, head = self._first
            with torch.no_grad():  # nothing before the first split point needs a gradient
                return self._from(cut, head(x), target)
        cut = self._cut(split_point)
        return self._from(cut, self._check(activation, split_point, self._nodes[cut]), target)

    def gradient_from(
        self, split_point: str, activation: torch.Tensor, target: Target = None
    ) -> tuple[Importance, torch.Tensor]:
        """As :meth:`importance_from`, and the gradient of the target's score at the activation, (N, ...).

        With it, whoever runs the head can finish the backward pass (:class:`.headside.HeadImportance`). Raises
        SplitPointError at `input` and `output`, where there is nothing to finish.
        """
        cut = self._cut(split_point)
        return self._backward(cut, self._check(activation, split_point, self._nodes[cut]), target)

    def is_linear_after(self, split_point: str) -> bool:
        """Whether the scores are an affine function of the activation there, so that a gradient is a row of weights."""
        return linearity.is_linear(self._watched_tail(self._cut(split_point))[0].graph)

    def _check(self, given: torch.Tensor, name: str, node: Node) -> torch.Tensor:
        value = node.meta["val"]
        if not isinstance(given, torch.Tensor):
            raise DataError(f"expected a torch.Tensor at {name!r}, got {type(given).__name__}")
        if (
            tuple(given.shape[1:]) != self._shape(node)
            or given.dim() != value.dim()
            or given.dtype != value.dtype
        ):
            raise DataError(
                f"expected {value.dtype} of shape (N, {', '.join(map(str, self._shape(node)))}) at {name!r}, "
                f"got {given.dtype} of shape {tuple(given.shape)}"
            )
        return given

    @cached_property
    def _first(self) -> tuple[str, GraphModule] | None:
        """The first split point's node and its head."""
        cut = next(iter(self._points), None)
        return None if cut is None else (cut, cutting.head(self._module, self._nodes[cut]))

    def _from(self, cut: str, activation: torch.Tensor, target: Target) -> Importance:
        return self._backward(cut, activation, target)[0]

    def _backward(
        self, cut: str, activation: torch.Tensor, target: Target
    ) -> tuple[Importance, torch.Tensor]:
        tail, watched = self._watched_tail(cut)
        axes = [point.channel_axis for point in self._points.values()]
        *found, gradient = importance.run(tail, activation, watched, axes, target)
        return self._wrap(*found), gradient

    def _watched_tail(self, cut: str) -> tuple[GraphModule, dict[Node, int]]:
        """The tail after ``cut`` and its nodes that are split points, with their columns."""
        tails: dict[str, tuple[GraphModule, dict[Node, int]]] = self.__dict__.setdefault(
            "_tails", {}
        )
        if cut not in tails:
            tail, copied = cutting.tail(
                self._module, self._nodes[cut], self._points[cut].stride_order
            )
            columns = {
                copied[self._nodes[name]]: column
                for column, name in enumerate(self._points)
                if self._nodes[name] in copied
            }
            tails[cut] = tail, columns
        return tails[cut]

    def _wrap(
        self, values: torch.Tensor, classes: torch.Tensor, scores: torch.Tensor
    ) -> Importance:
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.float()
        return Importance(
            values=values.cpu().numpy(),
            target=classes.cpu().numpy(),
            split_points=tuple(point.name for point in self._points.values()),
            scores=scores.cpu().numpy(),
        )

    def network_hash(self, preprocessing: Preprocessing) -> str:
        """SHA-256 over graph, weights and preprocessing: head and tail belong together where theirs agree."""
        return identity.network_hash(self._module, preprocessing)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network as ``.pt2``. Raises ArtifactError where it cannot be written.

        Such a file is code, like a ``.mar``: whoever loads it trusts whoever wrote it.
        """
        described = {
            "format": _FORMAT,
            "names": self._names,
            "points": {node: asdict(point) for node, point in self._points.items()},
        }
        try:
            with warnings.catch_warnings():
                # channels_last weights: saved whole, as tests check, though torch doubts it.
                warnings.filterwarnings(
                    "ignore", "No complete tensor found in the group", UserWarning
                )
                torch.export.save(
                    self._program, Path(path), extra_files={_EXTRA: json.dumps(described)}
                )
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{path}: cannot be written ({error})") from error

    def _cut(self, name: str) -> str:
        node = self._by_name.get(name)
        if node is None:
            raise self._unknown(name)
        if node not in self._points:
            raise self._invalid(name, node)
        return node

    def _unknown(self, name: str) -> UnknownSplitPointError:
        points = [point.name for point in self._points.values()]
        close = difflib.get_close_matches(name, self._by_name, n=5)
        rest = [p for p in (INPUT, *points, OUTPUT) if p not in close]
        return UnknownSplitPointError.of(name, (*close, *rest))

    def _invalid(self, name: str, node: str) -> SplitPointError:
        for end in (INPUT, OUTPUT):
            if end in self._names[node]:
                return SplitPointError(
                    f"{name!r} is the network's {end}: it can be served, but is no split point",
                    live=[end],
                )
        analysis = self._analysis
        at = analysis.position[self._nodes[node]]
        live = [
            self._names[n.name][0]
            for n in analysis.live_after(self._nodes[node])
            if n.name in self._names
        ]
        before = [p.name for n, p in self._points.items() if analysis.position[self._nodes[n]] < at]
        after = [p.name for n, p in self._points.items() if analysis.position[self._nodes[n]] > at]
        nearest = {"before": before[-1] if before else None, "after": after[0] if after else None}
        shape = self._nodes[node].meta["val"].shape
        why = (
            f"{len(live)} tensors are live there: {', '.join(live[:8])}{', ...' if len(live) > 8 else ''}"
            if live != [self._names[node][0]]
            else f"its tensor {tuple(str(s) for s in shape)} is not floating point with the batch first and alone free"
        )
        return SplitPointError(
            f"{name!r} is no split point, {why}; nearest split points: "
            f"{nearest['before'] or 'none'} before, {nearest['after'] or 'none'} after",
            live=live,
            **nearest,
        )

    @cached_property
    def _analysis(self) -> graph.Analysis:
        return graph.analyse(self._module.graph)


def load(path: str | os.PathLike[str]) -> CapturedNetwork:
    """Read a network that :meth:`CapturedNetwork.save` wrote.

    **Only from trusted files**: torch.export.load runs code that a tampered ``.pt2`` hides.
    Raises ArtifactError for a missing or foreign file, or one of a newer format.
    """
    if not Path(path).is_file():
        raise ArtifactError(f"{path}: no such file")
    extra: dict[str, Any] = {_EXTRA: ""}
    try:
        program = torch.export.load(Path(path), extra_files=extra)
        described = json.loads(extra[_EXTRA])
        if int(described["format"]) > _FORMAT:
            raise ArtifactError(
                f"{path}: format {described['format']} is newer than {_FORMAT}, the newest known"
            )
        module = graph.build(program)
        names = {
            str(node): tuple(map(str, all_names)) for node, all_names in described["names"].items()
        }
        points = {
            str(node): SplitPoint.from_json(point) for node, point in described["points"].items()
        }
    except ArtifactError:
        raise
    except Exception as error:  # torch raises its own, zipfile's, pickle's and plain ones
        raise ArtifactError(
            f"{path}: not a captured network ({type(error).__name__}: {error})"
        ) from error
    missing = (names.keys() | points.keys()) - {node.name for node in module.graph.nodes}
    if missing:
        raise ArtifactError(
            f"{path}: names tensors that its graph does not have: {', '.join(sorted(missing)[:5])}"
        )
    return CapturedNetwork(program, module, names, points)
