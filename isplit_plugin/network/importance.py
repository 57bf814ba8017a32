"""Importance of every split point, in one forward and one backward pass.

Cumulative importance (CUI) as the released code of Cunico et al., "I-SPLIT: Deep Network
Interpretability for Split Computing", ICPR 2022, computes it. With the activation A of a split
point (C channels, spatial positions u) and the score s of the target class::

    alpha_k = mean_u ds/dA_ku
    L_u     = ReLU(mean_k alpha_k A_ku)
    CUI     = mean_u L_u

The spatial axes are all axes but batch and channel. Grad-CAM sums over channels where I-SPLIT takes
the mean, so CUI carries a factor 1/C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import GraphModule, Interpreter, Node

from ..errors import DataError, UnknownClassError

Target = int | Sequence[int] | npt.NDArray[np.integer[Any]] | torch.Tensor | None
"""The class whose score is differentiated: one id, one for each input, or ``None`` (predicted)."""


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """CUI of N inputs at P split points.

    Attributes:
        values: (N, P), float64 for a float64 network, else float32. NaN at split points before
            the cut, if the computation began at a cut.
        target: (N,) int64, the class whose score was differentiated.
        split_points: the P names.
        scores: (N, classes), the network's scores of the same pass.
    """

    values: npt.NDArray[np.floating[Any]]
    target: npt.NDArray[np.int64]
    split_points: tuple[str, ...]
    scores: npt.NDArray[np.floating[Any]]


def cui(activation: torch.Tensor, gradient: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """CUI of each item: activation and gradient (N, ...) -> (N,)."""
    spatial = [axis for axis in range(1, activation.dim()) if axis != channel_axis]
    alpha = gradient.mean(dim=spatial, keepdim=True) if spatial else gradient
    maps = torch.relu((alpha * activation).mean(dim=channel_axis))
    return maps.flatten(1).mean(dim=1) if spatial else maps


class BackwardPass(NamedTuple):
    """What one pass through a tail with P split points yields for N items, on their device.

    Attributes:
        values: (N, P), NaN in the columns of split points that the tail does not contain.
        target: (N,), the class whose score was differentiated.
        scores: (N, classes).
        gradient: (N, ...), of each item's target score at the activation.
    """

    values: torch.Tensor
    target: torch.Tensor
    scores: torch.Tensor
    gradient: torch.Tensor


def backward_pass(
    tail: GraphModule,
    activation: torch.Tensor,
    columns: Mapping[Node, int],
    axes: Sequence[int],
    target: Target,
) -> BackwardPass:
    """Run a tail forwards and backwards.

    Parameters:
        tail: activation (N, ...) -> scores (N, classes).
        activation: (N, ...).
        columns: the nodes of ``tail`` that are split points, with their columns.
        axes: the channel axis of each of the P columns.
        target: see :data:`Target`.

    Raises UnknownClassError, DataError.
    """
    # A tensor made in inference mode cannot be recorded, nor be written to outside of it.
    with torch.inference_mode(False), torch.enable_grad():
        dtype = torch.float64 if activation.dtype == torch.float64 else torch.float32
        shape = (activation.shape[0], len(axes))
        values = torch.full(shape, torch.nan, dtype=dtype, device=activation.device)

        def observe(column: int, tensor: torch.Tensor) -> torch.Tensor:
            # The hook must not hold the tensor itself, which holds the hook.
            kept = [tensor.detach()]

            def on_gradient(gradient: torch.Tensor) -> None:
                values[:, column] = cui(kept.pop().to(dtype), gradient.to(dtype), axes[column])

            tensor.register_hook(on_gradient)  # type: ignore[no-untyped-call]
            return tensor

        start = recordable(activation).requires_grad_()
        scores = DetachedRun(tail, columns, observe).run(start)
        classes = _target_classes(target, scores.detach())
        gradient = torch.zeros_like(start, requires_grad=False)
        if scores.requires_grad and len(scores):
            (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), start)
    return BackwardPass(values, classes, scores.detach(), gradient)


class DetachedRun(Interpreter):
    """Runs a graph on detached parameters and passes the tensors of some nodes through a function.

    The module is only read, so other threads may run it at the same time. Values are dropped after
    their last use.

    Parameters:
        module: the graph.
        columns: the nodes whose tensors go through ``observe``, with their columns.
        observe: (column, tensor) -> the tensor with which the graph continues.
    """

    def __init__(
        self,
        module: GraphModule,
        columns: Mapping[Node, int],
        observe: Callable[[int, torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__(module)
        self._columns = columns
        self._observe = observe

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.detach() if isinstance(value, torch.Tensor) else value

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        return self._observe(self._columns[n], value) if n in self._columns else value


def recordable(tensor: torch.Tensor) -> torch.Tensor:
    """A detached tensor that autograd can record; a copy if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _target_classes(target: Target, scores: torch.Tensor) -> torch.Tensor:
    """The target as (N,) class ids."""
    items, classes = scores.shape
    if target is None:
        return scores.argmax(dim=1)
    if isinstance(target, torch.Tensor):
        target = target.detach().cpu().numpy()
    ids = np.asarray(target)
    if ids.dtype.kind not in "iu" or ids.shape not in ((), (items,)):
        raise DataError(
            f"target: expected a class id, or {items} of them, one for each input; "
            f"got {ids.dtype} of shape {ids.shape}"
        )
    ids = np.broadcast_to(ids, (items,)).astype(np.int64)
    unknown = ids[(ids < 0) | (ids >= classes)]
    if len(unknown):
        raise UnknownClassError(
            f"unknown class {unknown[0]}; the network has classes 0 to {classes - 1}"
        )
    return torch.from_numpy(ids).to(scores.device)
