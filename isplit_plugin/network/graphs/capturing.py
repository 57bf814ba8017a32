"""Capturing a network: from a trained module to a functional graph with named split points."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter, Node

from ...errors import CaptureError
from ...schema import SplitPoint
from ..captured_network import CapturedNetwork
from . import blocks, capture_checks, graph, layout, liveness, macs, naming
from .tracing import trace

__all__ = ["capture", "required_inputs"]


def capture(model: nn.Module, example_input: torch.Tensor) -> CapturedNetwork:
    """Capture a classifier: one floating-point input (N, ...) -> class scores (N, classes).

    The network is put in eval mode while it is captured, and back afterwards. ``example_input`` may
    hold one item: the batch dimension becomes free. The captured network shares the model's
    parameters and computes the same scores bit for bit, with one exception: nn.MultiheadAttention
    rounds differently where torch takes its fused path for inference (``torch.backends.mha``),
    which has no gradient.

    Raises CaptureError for several inputs or outputs, for control flow that depends on data, and
    for anything else that torch.export cannot capture. The message names the place in the model.
    """
    example = _example_of_two(model, example_input)
    with _eval_mode(model):
        program, module_calls = trace(model, example)
        module = graph.build(program)
        capture_checks.check_static(module)
        capture_checks.check_output(module)
        layouts = _LayoutRecorder(module)
        with torch.no_grad():
            expected = model(example)
            scores = layouts.run(example)
            capture_checks.check_equal(expected, scores)
            capture_checks.check_independent(module, example)
        paths = _ModulePaths.of(model)
    calls = module_calls.resolve(module.graph)
    lifetimes = liveness.analyse(module.graph)
    names = naming.name_tensors(module.graph, calls, lifetimes.dependent)
    axes = layout.channel_axes(module.graph, lifetimes.dependent, layouts.shapes)
    node_macs = macs.count_macs(module, example)
    cut_macs = macs.split_macs(lifetimes, node_macs, lifetimes.cuts)
    block_outputs = blocks.block_outputs(paths.blocks, calls, paths.layers)
    points: dict[str, SplitPoint] = {}
    for node, parts in zip(lifetimes.cuts, cut_macs, strict=True):
        dtype = node.meta["val"].dtype
        shape = layouts.shapes[node][1:]
        points[node.name] = SplitPoint(
            name=names[node][0],
            aliases=names[node][1:],
            shape=shape,
            dtype=str(dtype).removeprefix("torch."),
            nbytes=dtype.itemsize * int(torch.Size(shape).numel()),
            macs=parts,
            channel_axis=axes[node],
            stride_order=layouts.orders[node],
            is_block=node in block_outputs,
        )
    node_names = {node.name: own for node, own in names.items()}
    return CapturedNetwork(program, module, node_names, points)


def required_inputs(model: nn.Module) -> list[str]:
    """The names of the inputs without a default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in positional]


def _example_of_two(model: object, example_input: object) -> torch.Tensor:
    """Check the arguments of :func:`capture`. Returns a batch of two.

    torch.export takes a batch of one for a constant.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    required = required_inputs(model)
    if len(required) > 1:
        raise CaptureError(
            f"expected a network with one input, got {len(required)} inputs: {', '.join(required)}"
        )
    example = example_input
    if isinstance(example, tuple | list) and len(example) == 1:
        example = example[0]
    if not isinstance(example, torch.Tensor):
        count = f" of {len(example)}" if isinstance(example, tuple | list) else ""
        raise CaptureError(f"expected one input tensor, got {type(example).__name__}{count}")
    if not example.is_floating_point():
        raise CaptureError(f"expected a floating-point input, got {example.dtype}")
    if example.dim() < 2 or 0 in example.shape:
        raise CaptureError(
            f"expected an input (N, ...) with a batch dimension, got shape {tuple(example.shape)}"
        )
    example = example.detach()
    # Unlike repeat, cat keeps channels_last.
    return example[:2].clone() if len(example) > 1 else torch.cat([example, example])


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


class _LayoutRecorder(Interpreter):
    """Runs a graph and records the shape and memory layout of every tensor.

    They are recorded from a run because operators do not always promise them.
    """

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[Node, tuple[int, ...]] = {}
        self.orders: dict[Node, tuple[int, ...]] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
            self.orders[n] = layout.stride_order(value)
        return value


class _ModulePaths(NamedTuple):
    """The paths of a model's blocks and of its single layers."""

    blocks: set[str]
    layers: set[str]

    @classmethod
    def of(cls, model: nn.Module) -> _ModulePaths:
        layers = {path for path, module in model.named_modules() if blocks.is_layer(module)}
        return cls(blocks.block_paths(model), layers)
