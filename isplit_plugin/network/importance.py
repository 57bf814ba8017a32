"""Importance of every split point, in one forward and one backward pass.

Cumulative importance (CUI), Cunico et al., "I-SPLIT: Deep Network Interpretability for Split Computing", ICPR 2022,
as its released code computes it. With the activation A of a split point (C channels, spatial positions u) and the
differentiated logit s::

    alpha_k = mean_u ds/dA_ku
    L_u     = ReLU(mean_k alpha_k A_ku)
    CUI     = mean_u L_u

The mean over channels is theirs (Grad-CAM sums): CUI carries a factor 1/C. "Spatial" is every axis but batch and
channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import GraphModule, Interpreter, Node

from ..errors import DataError, UnknownClassError

Target = int | Sequence[int] | npt.NDArray[np.integer[Any]] | torch.Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """CUI of N inputs at P split points.

    ``values``: (N, P), float64 for a float64 network, else float32; NaN where it was not computable (before the cut).
    ``target``: (N,) int64, the class whose logit was differentiated. ``split_points``: the P names.
    ``scores``: (N, classes), the network's scores of the same pass.
    """

    values: npt.NDArray[np.floating[Any]]
    target: npt.NDArray[np.int64]
    split_points: tuple[str, ...]
    scores: npt.NDArray[np.floating[Any]]


def cui(activation: torch.Tensor, gradient: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """CUI of each item: activation and gradient (N, ...) -> (N,)."""
    spatial = [d for d in range(1, activation.dim()) if d != channel_axis]
    alpha = gradient.mean(dim=spatial, keepdim=True) if spatial else gradient
    maps = torch.relu((alpha * activation).mean(dim=channel_axis))
    return maps.flatten(1).mean(dim=1) if spatial else maps


class Watched(Interpreter):
    """Runs a graph on detached parameters, and lets ``watch`` see the tensors named in ``watched``.

    The module itself is only read, so other threads may run it meanwhile. Values are dropped after their last use.
    """

    def __init__(
        self,
        module: GraphModule,
        watched: Mapping[Node, int],
        watch: Callable[[int, torch.Tensor], None],
    ):
        super().__init__(module)
        self._watched = watched
        self._watch = watch

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.detach() if isinstance(value, torch.Tensor) else value

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._watched:
            self._watch(self._watched[n], value)
        return value


def run(
    tail: GraphModule,
    activation: torch.Tensor,
    watched: Mapping[Node, int],
    axes: Sequence[int],
    target: Target,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values (N, len(axes)), target (N,), scores (N, classes) and the gradient of each target's score at the
    activation (N, ...), on the activation's device.

    ``watched``: node of ``tail`` -> column; a column nobody watches stays NaN. Raises UnknownClassError, DataError.
    """
    # Leaving inference mode comes first: a tensor that is made in it can neither be recorded nor written to outside.
    with torch.inference_mode(False), torch.enable_grad():
        kind = torch.float64 if activation.dtype == torch.float64 else torch.float32
        values = torch.full(
            (activation.shape[0], len(axes)), torch.nan, dtype=kind, device=activation.device
        )

        def watch(column: int, tensor: torch.Tensor) -> None:
            held = [
                tensor.detach()
            ]  # not the tensor itself: its hook would keep it, and it its hook

            def arrived(gradient: torch.Tensor) -> None:
                values[:, column] = cui(held.pop().to(kind), gradient.to(kind), axes[column])

            tensor.register_hook(arrived)  # type: ignore[no-untyped-call]

        start = (
            activation.clone() if activation.is_inference() else activation.detach()
        ).requires_grad_()
        scores = Watched(tail, watched, watch).run(start)
        chosen = scores.detach()
        classes = _targets(target, chosen)
        gradient = torch.zeros_like(start, requires_grad=False)
        if scores.requires_grad and len(scores):
            (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), start)
    return values, classes, chosen, gradient


def _targets(target: Target, scores: torch.Tensor) -> torch.Tensor:
    number, known = scores.shape
    if target is None:
        return scores.argmax(dim=1)
    if isinstance(target, torch.Tensor):
        target = target.detach().cpu().numpy()
    classes = np.asarray(target)
    if classes.dtype.kind not in "iu" or classes.shape not in ((), (number,)):
        raise DataError(
            f"expected target as a class id or {number} of them, one for each input; "
            f"got {classes.dtype} of shape {classes.shape}"
        )
    classes = np.broadcast_to(classes, (number,)).astype(np.int64)
    bad = classes[(classes < 0) | (classes >= known)]
    if len(bad):
        raise UnknownClassError(f"unknown class {bad[0]}; the network knows 0 to {known - 1}")
    return torch.from_numpy(classes).to(scores.device)
