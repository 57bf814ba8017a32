"""The head's part of a backward pass that the tail began: importance of the points before the cut.

A split-gradient probe gives the device ds/dA at the cut, A the activation that it sent. The chain rule does the rest
within the head, so the values equal those of the whole network on the same input; a gradient that came as fp16 costs
4e-5 of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from ..errors import BundleError, DataError
from ..schema import Manifest, SplitPoint
from . import graph
from .importance import Watched, cui

__all__ = ["HeadImportance", "HeadPass", "head_importance"]


class HeadPass:
    """One forward pass through a head, which waits for its backward pass. ``activation``: (N, ...) at the cut."""

    def __init__(
        self, activation: torch.Tensor, held: dict[int, torch.Tensor], axes: Sequence[int]
    ) -> None:
        self._end: torch.Tensor | None = activation
        self._held = held
        self._axes = axes
        self.activation = activation.detach()

    def finish(self, gradient: torch.Tensor) -> npt.NDArray[np.floating[Any]]:
        """CUI (N, points before the cut) from the gradient (N, ...) of each item's score at the activation. Once.

        Raises DataError for a gradient of another shape, or where the pass was finished before.
        """
        if self._end is None:
            raise DataError("this pass was finished before; a pass is finished once")
        if gradient.shape != self._end.shape:
            raise DataError(
                f"expected a gradient {tuple(self._end.shape)}, got {tuple(gradient.shape)}"
            )
        wanted = sorted(self._held)
        kind = torch.float64 if self._end.dtype == torch.float64 else torch.float32
        values = torch.zeros(len(gradient), len(self._axes), dtype=kind)
        if wanted:
            found = torch.autograd.grad(
                self._end,
                [self._held[column] for column in wanted],
                gradient.to(self._end.dtype),
                allow_unused=True,
            )
            for column, one in zip(wanted, found, strict=True):
                if one is not None:
                    here = self._held[column].detach()
                    values[:, column] = cui(here.to(kind), one.to(kind), self._axes[column])
        self._end, self._held = None, {}
        out: npt.NDArray[np.floating[Any]] = values.numpy()
        return out


class HeadImportance:
    """A head as a graph whose inner split points can be seen.

    ``module``: input (N, ...) -> activation; ``points``: its nodes that are split points before the cut, in order, and
    ``axes``, their channel axes (counted with the batch). Reads the module only.
    """

    def __init__(self, module: GraphModule, points: Sequence[Node], axes: Sequence[int]) -> None:
        self._module = module
        self._columns = {node: column for column, node in enumerate(points)}
        self._axes = tuple(axes)

    def run(self, x: torch.Tensor) -> HeadPass:
        """The forward pass of inputs (N, ...)."""
        held: dict[int, torch.Tensor] = {}
        with torch.inference_mode(False), torch.enable_grad():
            runner = _Held(self._module, self._columns, held)
            activation = runner.run(x.clone() if x.is_inference() else x.detach())
        return HeadPass(activation, held, self._axes)


class _Held(Watched):
    """Runs a head and keeps the tensors at its split points. Nothing before the first of them needs a gradient."""

    def __init__(
        self, module: GraphModule, columns: dict[Node, int], held: dict[int, torch.Tensor]
    ) -> None:
        super().__init__(module, {}, lambda *_: None)
        self._columns = columns
        self._held = held

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if n in self._columns:
            if not self._held:
                value = value.detach().requires_grad_()
            self._held[self._columns[n]] = value
        return value


def head_importance(
    program: ExportedProgram, manifest: Manifest, split_point: str
) -> HeadImportance:
    """The head of ``split_point`` out of its ``.pt2`` file, with the manifest's split points found in its graph.

    A head that was exported names its tensors anew. But a place can be cut in the whole network exactly where it can
    be cut in the head: what is live beside it there is read before the cut, in both. So the cuts of the head's graph
    are the manifest's points before this one, in the same order; their shapes are compared.

    Raises BundleError where that does not come out even: another network's head, or one that an exporter rewrote.
    """
    names = [point.name for point in manifest.split_points]
    name = manifest.split_point(split_point).name
    if name not in names:
        raise BundleError(
            f"{name!r} is a bottleneck: its head has no importance of the original network"
        )
    wanted: list[SplitPoint] = list(manifest.split_points[: names.index(name)])
    module = graph.build(program)
    found = list(graph.analyse(module.graph).cuts)
    shapes = [tuple(int(size) for size in node.meta["val"].shape[1:]) for node in found]
    if shapes != [point.shape for point in wanted]:
        raise BundleError(
            f"the head of {split_point!r}: expected {len(wanted)} split points before the cut with the manifest's "
            f"shapes, its graph has {len(found)}: no probes with this head"
        )
    return HeadImportance(module, found, [point.channel_axis for point in wanted])
