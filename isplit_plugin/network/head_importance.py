"""Importance of the split points before the cut, computed on the device for a probe.

The tail sends the gradient of the target class's score at the cut. Its backward pass is finished
through the head (chain rule), so the values equal those of the whole network on the same input. A
gradient that was sent as fp16 changes a value by 4e-5 of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from ..errors import BundleError, DataError
from ..schema import Manifest, SplitPoint
from .graphs import graph, liveness
from .importance import DetachedRun, cui, recordable

__all__ = ["HeadImportance", "HeadPass"]


class HeadImportance:
    """A head that computes the importance of the split points inside it.

    Parameters:
        module: the head's graph, input (N, ...) -> activation (N, ...). It is only read.
        split_point: the name of the cut, for messages.
        points: the split points before the cut, in execution order.

    Raises BundleError if the graph does not have these split points.
    """

    def __init__(self, module: GraphModule, split_point: str, points: Sequence[SplitPoint]) -> None:
        # The whole network can be cut at a place before the cut exactly if the head can be cut
        # there: whatever else is live at that place is read before the cut in both.
        cuts = liveness.analyse(module.graph).cuts
        shapes = [tuple(int(size) for size in node.meta["val"].shape[1:]) for node in cuts]
        if shapes != [point.shape for point in points]:
            raise BundleError(
                f"the head of {split_point!r}: expected {len(points)} split points before the cut "
                f"with the manifest's shapes, its graph has {len(shapes)}: no probes with this head"
            )
        self._module = module
        self._columns = {node: column for column, node in enumerate(cuts)}
        self._axes = tuple(point.channel_axis for point in points)

    @classmethod
    def from_program(cls, program: ExportedProgram, manifest: Manifest, split_point: str) -> Self:
        """The head of ``split_point``, as its ``.pt2`` file in a head bundle holds it.

        The exported head names its tensors anew, so its split points are matched with those of the
        manifest by order and shape.

        Raises:
            BundleError: the head belongs to another network or was rewritten by an exporter, or
                ``split_point`` is a bottleneck, whose head is not part of the original network.
            UnknownSplitPointError: the manifest has no such split point.
        """
        names = [point.name for point in manifest.split_points]
        name = manifest.split_point(split_point).name
        if name not in names:
            raise BundleError(
                f"{name!r} is a bottleneck: its head has no importance of the original network"
            )
        return cls(graph.build(program), name, manifest.split_points[: names.index(name)])

    def run(self, x: torch.Tensor) -> HeadPass:
        """The forward pass of inputs (N, ...)."""
        tensors: dict[int, torch.Tensor] = {}

        def observe(column: int, tensor: torch.Tensor) -> torch.Tensor:
            if not tensors:  # nothing before the first split point needs a gradient
                tensor = tensor.detach().requires_grad_()
            tensors[column] = tensor
            return tensor

        with torch.inference_mode(False), torch.enable_grad():
            activation = DetachedRun(self._module, self._columns, observe).run(recordable(x))
        return HeadPass(activation, tensors, self._axes)


class HeadPass:
    """A forward pass through a head that waits for its backward pass.

    Attributes:
        activation: (N, ...) at the cut.
    """

    def __init__(
        self, activation: torch.Tensor, tensors: dict[int, torch.Tensor], axes: Sequence[int]
    ) -> None:
        """``tensors``: column -> tensor at that split point; ``axes``: their channel axes."""
        self._output: torch.Tensor | None = activation
        self._tensors = tensors
        self._axes = axes
        self.activation = activation.detach()

    def finish(self, gradient: torch.Tensor) -> npt.NDArray[np.floating[Any]]:
        """CUI (N, split points before the cut), from each item's gradient (N, ...) at the cut.

        Call it once; it frees the memory of the forward pass. Raises DataError for a gradient of
        another shape, or if the pass was finished before.
        """
        output = self._output
        if output is None:
            raise DataError("this pass was finished before: finish can be called once")
        if gradient.shape != output.shape:
            raise DataError(
                f"expected a gradient of shape {tuple(output.shape)}, got {tuple(gradient.shape)}"
            )
        dtype = torch.float64 if output.dtype == torch.float64 else torch.float32
        values = torch.zeros(len(gradient), len(self._axes), dtype=dtype)
        columns = sorted(self._tensors)
        if columns:
            gradients = torch.autograd.grad(
                output,
                [self._tensors[column] for column in columns],
                gradient.to(output.dtype),
                allow_unused=True,
            )
            for column, column_gradient in zip(columns, gradients, strict=True):
                if column_gradient is not None:
                    tensor = self._tensors[column].detach().to(dtype)
                    values[:, column] = cui(tensor, column_gradient.to(dtype), self._axes[column])
        self._output = None
        self._tensors = {}
        array: npt.NDArray[np.floating[Any]] = values.numpy()
        return array
