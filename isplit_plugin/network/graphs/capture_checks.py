"""What must hold of a captured graph. Every check raises CaptureError."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import tree_leaves

from ...errors import CaptureError
from . import graph


def check_static(module: GraphModule) -> None:
    """No number or shape is computed from the values of the input.

    Head and tail are graphs of tensors whose shapes depend on the batch size only.
    """
    for node in module.graph.nodes:
        leaves = tree_leaves(node.meta.get("val"))
        if any(free_unbacked_symbols(leaf) for leaf in leaves):
            trace = (node.meta.get("stack_trace") or "").splitlines()
            lines = [line.strip() for line in trace if line.strip()]
            place = f" (at {', '.join(lines[-2:])})" if lines else ""
            raise CaptureError(
                "expected tensors whose shapes do not depend on the data, "
                f"{node.target} makes a number or a shape that depends on data{place}"
            )


def check_output(module: GraphModule) -> None:
    """The output is (N, classes) with the batch size N of the input."""
    value = graph.result(module.graph).meta.get("val")
    batch = graph.placeholder(module.graph).meta["val"].shape[0]
    if not isinstance(value, torch.Tensor):
        raise CaptureError(
            f"expected class scores (N, classes), the network returns {type(value).__name__}"
        )
    if value.dim() != 2 or not isinstance(value.shape[1], int):
        shape = ", ".join(map(str, value.shape))
        raise CaptureError(f"expected class scores (N, classes), the network returns ({shape})")
    if not graph.same_size(value.shape[0], batch):
        raise CaptureError(
            f"expected one row of scores for each input, the network returns {value.shape[0]} rows"
        )


def check_equal(expected: Any, scores: torch.Tensor) -> None:
    """The scores of the graph equal those of the model, ``expected``."""
    if not isinstance(expected, torch.Tensor):
        raise CaptureError(
            f"expected one output tensor, the network returns {type(expected).__name__}"
        )
    absolute = 1e-5 * float(expected.abs().max())
    if not torch.allclose(expected, scores, rtol=1e-4, atol=absolute, equal_nan=True):
        difference = float((expected - scores).abs().max())
        raise CaptureError(
            "the captured graph does not compute what the network computes: largest difference "
            f"{difference:.3g}. Is the network random in eval mode, or does it keep state?"
        )


def check_independent(module: GraphModule, example: torch.Tensor) -> None:
    """The scores of an item do not depend on the other items of its batch.

    The tail runs requests of different devices in one batch.
    """
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    spread = float(example.std()) or 1.0
    item = example[:1] + 0.1 * spread * noise[:1]
    scores = module(torch.cat([item, noise[1:] * spread]))[0]
    other_scores = module(torch.cat([item, example[1:] - 2 * spread * noise[1:]]))[0]
    difference = float((scores - other_scores).abs().max())
    largest = float(scores.abs().max())
    if difference > 1e-4 * largest + 1e-12:
        raise CaptureError(
            "the scores of an item change with its neighbours in a batch (by "
            f"{difference:.3g}, of at most {largest:.3g}), so requests would disturb one another; "
            "does a batch norm run without running statistics (track_running_stats=False)?"
        )
